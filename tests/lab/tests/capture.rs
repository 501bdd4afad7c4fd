//! A guest is captured while packets of many sessions come into its memory all the time: what the box writes there is in the
//! twin, and what clients send while it is paused waits at the box.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tidegate_api::{host::CaptureWay, manager::Phase};
use tidegate_lab::{
    Mode, Rig,
    client::Order,
    clients::Clients,
    cloud::succeed,
    migration::Migrating,
    process::{output, wait_until},
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

const SESSIONS: u32 = 60;
const INTERVAL_MS: u64 = 4;
/// Sessions that wait for no answer of the guest's: those that do are silent while it is paused.
const NEW_EVERY_MS: u64 = 10;
const CAPTURES: usize = 4;
const LIMIT: Duration = Duration::from_secs(60);
/// The source's port.
const PORT: &str = "vm0";

/// What happened in some captures.
#[derive(Debug, Default)]
struct Seen {
    retransmitted: u64,
    refused: u64,
    held: u64,
    pauses_ms: Vec<u64>,
}

/// Capture some times, with the port held or not.
fn captures(
    rig: &Rig,
    clients: &mut Clients,
    (way, audit): (CaptureWay, bool),
    held: bool,
) -> anyhow::Result<Seen> {
    let refused = |rig: &Rig| -> anyhow::Result<u64> {
        let ports = rig.api.counters()?.ports;
        let port = ports.iter().find(|port| port.name == PORT).context("no port")?;
        Ok(port.tx_full_drops)
    };
    let before = (clients.report()?.retransmitted, refused(rig)?);
    let mut seen = Seen::default();
    for number in 0..CAPTURES {
        if held {
            rig.api.hold_port(PORT, LIMIT)?;
        }
        let id = format!("{audit}-{held}-{number}");
        let report = rig.api.capture(&id, SOURCE, way, audit)?;
        if held {
            seen.held += rig.api.release_port(PORT)?;
        }
        ensure!(report.way() == way, "{report:?}");
        seen.pauses_ms.push(report.pause_ns / 1_000_000);
        // Every session has gone on.
        let records = clients.report()?.records;
        let stay = records.iter().filter(|record| record.session < SESSIONS);
        let so_far: Vec<_> = stay.map(|it| (it.session, it.answered)).collect();
        wait_until("every session is answered again", LIMIT, || {
            let now = clients.report()?.records;
            let went_on = so_far.iter().all(|(session, answered)| {
                now.iter().any(|it| it.session == *session && it.answered > *answered)
            });
            Ok(went_on.then_some(()))
        })?;
    }
    let report = clients.report()?;
    let failed = report.records.iter().find(|record| record.error.is_some());
    ensure!(failed.is_none(), "{failed:?}");
    seen.retransmitted = report.retransmitted - before.0;
    seen.refused = refused(rig)? - before.1;
    Ok(seen)
}

fn captured_under_traffic() -> anyhow::Result<()> {
    let rig = Rig::start(&Options::new(Mode::L2))?;
    let mut clients = rig.clients()?;
    clients.order(&Order::Open { first: 0, count: SESSIONS, interval_ms: INTERVAL_MS })?;
    wait_until("every session is answered", LIMIT, || {
        let records = clients.report()?.records;
        let answered = records.iter().filter(|record| record.answered > 10).count();
        Ok((answered == SESSIONS as usize).then_some(()))
    })?;
    clients.order(&Order::StartNew {
        first: SESSIONS,
        every_ms: NEW_EVERY_MS,
        requests: 1,
        interval_ms: 1,
    })?;
    // The twin is compared with the guest's memory before that goes on.
    let audited = captures(&rig, &mut clients, (CaptureWay::Passes, true), true)?;
    println!(" audited: {audited:?}");

    let free = captures(&rig, &mut clients, (CaptureWay::Stop, false), false)?;
    let held = captures(&rig, &mut clients, (CaptureWay::Stop, false), true)?;
    println!(
        "{SESSIONS} sessions, {CAPTURES} captures each:\n not held: {free:?}\n held: {held:?}"
    );
    ensure!(audited.held > 0, "nothing came while the source was paused: this shows nothing");
    ensure!(audited.refused + held.refused == 0, "{audited:?}, {held:?}");

    clients.order(&Order::StopNew)?;
    clients.order(&Order::Close { sessions: (0..SESSIONS).collect() })?;
    wait_until("every packet has ended", LIMIT, || {
        let counters = rig.api.counters()?;
        let ended: u64 = counters.outcomes.iter().map(|outcome| outcome.packets).sum();
        Ok((ended == counters.received).then_some(()))
    })?;
    drop(clients);
    rig.stop()
}

#[test]
fn a_guest_is_captured_under_traffic() {
    captured_under_traffic().expect("done");
}

#[test]
fn a_migration_that_is_aborted_while_its_source_is_captured_leaves_nothing() {
    let rig = Rig::start(&Options::new(Mode::L2)).expect("a rig");
    let mut clients = rig.clients().expect("clients");
    clients.order(&Order::Open { first: 0, count: 1, interval_ms: 20 }).expect("opened");
    let answered = |clients: &mut Clients, more_than: u64| {
        wait_until("the session is answered", LIMIT, || {
            let record = clients.report()?.records[0].clone();
            ensure!(record.error.is_none() && !record.reset, "{record:?}");
            ensure!(record.identities.keys().all(|it| it == SOURCE), "{record:?}");
            Ok((record.answered > more_than).then_some(record.answered))
        })
        .expect("answered")
    };
    answered(&mut clients, 3);
    let migrating = Migrating::start_with(&rig, &["--capture", "passes"]).expect("started");
    let reached = migrating.reach(&rig, Phase::Capture, LIMIT, |_| Ok(())).expect("captures");
    assert_eq!(reached.phase(), Phase::Capture);
    let id = migrating.id().to_owned();
    let abort = output(&mut rig.cloud.tidegate(["abort", &id]).expect("built")).expect("runs");
    succeed(&abort).expect("aborted");
    migrating.aborted(&rig, LIMIT).expect("aborted");
    let so_far = answered(&mut clients, 0);
    answered(&mut clients, so_far + 10);
    assert!(rig.api.guest(DESTINATION).expect("answer").is_none(), "there is no destination");
    let twin = rig.cloud.twin_region(&id);
    assert!(!twin.parent().expect("its directory").exists(), "{} is left", twin.display());
    let address = rig.api.address(MANAGED).expect("answer");
    assert!(!address.hosted && address.destination.is_none(), "{address:?}");
    // It can be migrated as if nothing had been.
    clients.order(&Order::Close { sessions: vec![0] }).expect("closed");
    let migrating = Migrating::start_with(&rig, &["--capture", "passes"]).expect("started");
    migrating.complete(&rig, LIMIT, |_| Ok(())).expect("completes");
    rig.answered_by(&mut clients, DESTINATION, 1).expect("the destination serves");
    drop(clients);
    rig.stop().expect("everything ends well");
}
