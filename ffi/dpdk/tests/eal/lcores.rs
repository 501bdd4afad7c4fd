//! Closures on worker lcores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidegate_dpdk::{Burst, Error, PortConfig, clock, pause};

use crate::Rig;

#[test]
fn closures_run_on_their_lcore_and_return() {
    let rig = Rig::new();
    let workers = rig.eal.worker_lcores();
    assert_eq!(workers.iter().map(|lcore| lcore.id()).collect::<Vec<_>>(), [1, 2]);
    let here = thread::current().id();
    for round in 0..50_u32 {
        let tasks: Vec<_> = workers
            .iter()
            .map(|&lcore| {
                let task =
                    rig.eal.launch(lcore, move || (thread::current().id(), round)).expect("idle");
                assert_eq!(task.lcore(), lcore);
                task
            })
            .collect();
        let results: Vec<_> =
            tasks.into_iter().map(|task| task.join().expect("no panic")).collect();
        assert!(results.iter().all(|&(id, number)| id != here && number == round));
        assert_ne!(results[0].0, results[1].0);
    }
}

#[test]
fn a_busy_lcore_refuses() {
    let rig = Rig::new();
    let lcore = rig.eal.worker_lcores()[0];
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let task = rig
        .eal
        .launch(lcore, move || {
            while !seen.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        })
        .expect("idle");
    assert!(!task.is_finished());
    let held = rig.packet(b"x");
    let refused = rig.eal.launch(lcore, move || drop(held));
    assert!(matches!(refused, Err(Error::LcoreBusy { lcore: 1 })));
    assert_eq!(rig.pool.in_use(), 0, "the refused closure is dropped with what it owns");
    stop.store(true, Ordering::Relaxed);
    task.join().expect("no panic");
    rig.eal.launch(lcore, || ()).expect("idle again").join().expect("no panic");
}

#[test]
fn a_panic_is_reported_and_frees_what_the_closure_owned() {
    let rig = Rig::new();
    let lcore = rig.eal.worker_lcores()[1];
    let burst: Burst<32> = rig.numbered(0, 32);
    let task = rig
        .eal
        .launch(lcore, move || {
            let held = burst;
            assert!(held.is_empty(), "on purpose: {} packets", held.len());
        })
        .expect("idle");
    let error = task.join().expect_err("panics").to_string();
    assert!(error.contains("lcore 2") && error.contains("on purpose: 32 packets"), "{error}");
    rig.eal.launch(lcore, || ()).expect("usable again").join().expect("no panic");
}

#[test]
fn an_unwanted_result_is_dropped() {
    let rig = Rig::new();
    let lcore = rig.eal.worker_lcores()[0];
    let pool = rig.pool.clone();
    drop(rig.eal.launch(lcore, move || pool.alloc()).expect("idle"));
    // The next closure on the lcore starts after the first one's result is gone.
    loop {
        match rig.eal.launch(lcore, || ()) {
            Ok(task) => break task.join().expect("no panic"),
            Err(Error::LcoreBusy { .. }) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(rig.pool.in_use(), 0);
}

/// What the data plane does: workers own queue pairs, forward, and hand everything back at the end.
#[test]
fn workers_forward_and_hand_their_queues_back() {
    let rig = Rig::new();
    let port = rig.eal.port("net_null0").expect("is there");
    let ring = rig.ring_port();
    let config = PortConfig { queue_pairs: 2, ..PortConfig::default() };
    let sources = port.start(&config, &rig.pool).expect("starts").into_iter();
    let sinks = ring.start(&config, &rig.pool).expect("starts");
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = rig
        .eal
        .worker_lcores()
        .into_iter()
        .zip(sources.zip(sinks))
        .map(|(lcore, (mut source, mut sink))| {
            let stop = Arc::clone(&stop);
            rig.eal
                .launch(lcore, move || {
                    let (mut forwarded, mut refused) = (0, 0);
                    let mut burst = Burst::<32>::new();
                    while !stop.load(Ordering::Relaxed) || forwarded == 0 {
                        let received = source.rx.rx_burst(&mut burst);
                        let taken = sink.tx.tx_drain(&mut burst);
                        refused += received - taken;
                        burst.clear();
                        // Empties the ring again, except for the last round.
                        forwarded += sink.rx.rx_burst(&mut burst);
                        source.tx.tx_drain(&mut burst);
                        pause();
                    }
                    (source, sink, forwarded, refused)
                })
                .expect("idle")
        })
        .collect();
    let started = clock::tsc();
    while clock::tsc() - started < rig.eal.tsc_hz() / 20 {
        thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let (source, sink, forwarded, refused) = task.join().expect("no panic");
        assert!(forwarded >= 32 && forwarded % 32 == 0, "{forwarded} forwarded, {refused} refused");
        assert!(port.is_started() && ring.is_started());
        drop((source, sink));
    }
    assert!(!port.is_started() && !ring.is_started());
}
