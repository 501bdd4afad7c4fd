//! A guest with one queue pair behind a box with two workers.

use std::{thread, time::Duration};

use tidegate_lab::{
    Mode, Rig,
    client::Order,
    process::wait_until,
    rig::{Options, SOURCE},
};

const SESSIONS: u32 = 40;
const LIMIT: Duration = Duration::from_secs(20);

/// Packets that found a queue full, as outcomes and by port.
fn transmit_full(rig: &Rig) -> u64 {
    let counters = rig.api.counters().expect("counters");
    let mut outcomes = counters.outcomes.iter();
    let outcome = outcomes.find(|outcome| outcome.name == "transmit_full").expect("is counted");
    let ports: u64 = counters.ports.iter().map(|port| port.tx_full_drops).sum();
    assert_eq!(ports, outcome.packets, "{counters:?}");
    ports
}

#[test]
fn both_workers_reach_a_guest_with_one_queue() {
    let rig = Rig::start(&Options { cpus: &[0, 1], ..Options::new(Mode::L2) }).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    // While the guest booted nobody emptied its queue.
    let booted = transmit_full(&rig);
    clients.order(&Order::Open { first: 0, count: SESSIONS, interval_ms: 50 }).expect("opened");
    wait_until("every session is answered", LIMIT, || {
        let report = clients.report()?;
        for record in &report.records {
            anyhow::ensure!(record.error.is_none(), "{record:?}");
        }
        Ok(report.records.iter().all(|record| record.answered > 2).then_some(()))
    })
    .expect("all connect");
    let workers = rig.api.counters().expect("counters").workers;
    assert!(workers.len() == 2 && workers.iter().all(|it| it.sessions > 0), "{workers:?}");
    thread::sleep(Duration::from_secs(1));
    let sessions = (0..SESSIONS).collect();
    let report = clients.order(&Order::Close { sessions }).expect("closed");
    assert_eq!(report.records.len(), SESSIONS as usize);
    for record in &report.records {
        assert!(record.error.is_none() && record.closed_us != 0, "{record:?}");
        assert!(record.sent == record.answered && record.doubled == 0, "{record:?}");
        assert!(record.identities.keys().eq([SOURCE]), "{record:?}");
    }
    assert_eq!(transmit_full(&rig), booted, "a queue was full while the guest ran");
    drop(clients);
    rig.stop().expect("everything ends well");
}
