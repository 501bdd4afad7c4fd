//! How EAL begins and ends. Each test needs a process of its own, and runs itself again to get one.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use tidegate_dpdk::{Burst, Eal, Error, PoolConfig, PortConfig, dpdk_version};

const CHILD: &str = "TIDEGATE_TEST_CHILD";

/// Runs the body in a new process that has not touched DPDK.
fn in_own_process(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, test)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{log}", output.status);
    assert!(said.contains("1 passed"), "the test did not run:\n{said}");
}

fn init() -> Eal {
    let arguments = "test --no-huge --no-shconf -m 32 --no-pci --no-telemetry --log-level=error \
                     --vdev=net_null0 --vdev=net_ring0";
    // One lcore on whichever CPU this process may use.
    Eal::init(arguments.split_whitespace()).expect("EAL starts")
}

fn small() -> PoolConfig {
    PoolConfig { mbufs: 511, cache: 16, ..PoolConfig::default() }
}

#[test]
fn cleanup_ends_eal_when_all_is_returned() {
    in_own_process("cleanup_ends_eal_when_all_is_returned", || {
        assert!(dpdk_version().starts_with("DPDK "));
        let eal = init();
        assert!(eal.tsc_hz() > 0);
        let pool = eal.create_pool("p", &small()).expect("pool");
        let mut queues = eal
            .port("net_ring0")
            .expect("port")
            .start(&PortConfig::default(), &pool)
            .expect("starts");
        let mut burst = Burst::<32>::new();
        pool.alloc_burst(&mut burst, 32);
        assert!(queues[0].tx.tx_burst(burst).is_empty());
        let mut burst = Burst::<32>::new();
        assert_eq!(queues[0].rx.rx_burst(&mut burst), 32);
        // The last mbufs are returned by another thread, whose end is all that orders it with cleanup.
        thread::spawn(move || drop(burst)).join().expect("no panic");
        drop((queues, pool));
        eal.cleanup().expect("nothing is in use");
        assert!(matches!(Eal::init(["test"]), Err(Error::AlreadyInitialised)));
    });
}

#[test]
fn cleanup_refuses_while_handles_exist() {
    in_own_process("cleanup_refuses_while_handles_exist", || {
        let eal = init();
        let pool = eal.create_pool("p", &small()).expect("pool");
        let error = eal.clone().cleanup().expect_err("two handles exist");
        assert!(matches!(error, Error::EalInUse { handles: 2 }), "{error}");
        assert!(pool.alloc().is_some(), "all still works");
        drop(pool);
        eal.cleanup().expect("nothing is in use");
    });
}

#[test]
fn cleanup_refuses_while_an_mbuf_is_out_and_the_mbuf_stays_usable() {
    in_own_process("cleanup_refuses_while_an_mbuf_is_out_and_the_mbuf_stays_usable", || {
        let eal = init();
        let pool = eal.create_pool("p", &small()).expect("pool");
        let mut mbuf = pool.alloc().expect("an mbuf");
        std::mem::forget(pool.alloc());
        drop(pool);
        let error = eal.cleanup().expect_err("mbufs are out");
        assert!(matches!(&error, Error::MbufsInUse { pool, in_use: 2 } if pool == "p"), "{error}");
        assert!(mbuf.set_data(b"still mapped"));
        assert_eq!(mbuf.data(), b"still mapped");
        drop(mbuf);
    });
}

#[test]
fn cleanup_belongs_to_the_thread_that_began() {
    in_own_process("cleanup_belongs_to_the_thread_that_began", || {
        let (eal_out, eal_in) = mpsc::channel();
        let beginner = thread::spawn(move || eal_out.send(init()).expect("receiver lives"));
        beginner.join().expect("no panic");
        let eal = eal_in.recv().expect("sent");
        assert!(matches!(eal.cleanup(), Err(Error::NotMainLcore)));
    });
}

#[test]
fn dropping_the_last_handle_is_enough() {
    in_own_process("dropping_the_last_handle_is_enough", || {
        let eal = init();
        let pool = eal.create_pool("p", &small()).expect("pool");
        let queues = eal
            .port("net_null0")
            .expect("port")
            .start(&PortConfig::default(), &pool)
            .expect("starts");
        let mbuf = pool.alloc();
        drop((eal, pool));
        drop((mbuf, queues));
    });
}

#[test]
fn bad_arguments_are_an_error_and_init_is_spent() {
    in_own_process("bad_arguments_are_an_error_and_init_is_spent", || {
        assert!(matches!(Eal::init(["test", "a\0b"]), Err(Error::NulByte { .. })), "not spent yet");
        let error = Eal::init(["test", "--no-huge", "--no-such-option"]).expect_err("is refused");
        let text = error.to_string();
        assert!(text.contains("rte_eal_init") && text.contains("--no-such-option"), "{text}");
        assert!(matches!(Eal::init(["test"]), Err(Error::AlreadyInitialised)));
    });
}
