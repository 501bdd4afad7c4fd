//! A box that is stopped in the middle of a drain and started again: the source goes on with every session.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use tidegate_api::{manager::Phase, switch::AddressState};
use tidegate_lab::{
    Mode, Rig,
    client::{Order, Record},
    clients::Clients,
    migration::Migrating,
    process::wait_until,
    region,
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

const OLD: u32 = 5;
const LIMIT: Duration = Duration::from_secs(40);

/// The old sessions, each whole so far and answered by the source alone.
fn old_sessions(clients: &mut Clients) -> anyhow::Result<Vec<Record>> {
    let mut records = clients.report()?.records;
    records.retain(|record| record.session < OLD);
    ensure!(records.len() == OLD as usize, "{records:?}");
    for record in &records {
        let whole = record.error.is_none() && !record.reset && record.doubled == 0;
        ensure!(whole && record.identities.keys().all(|by| by == SOURCE), "{record:?}");
    }
    Ok(records)
}

/// Wait until each old session has had more answers.
fn go_on(clients: &mut Clients) -> anyhow::Result<()> {
    let before = old_sessions(clients)?;
    wait_until("every old session goes on", LIMIT, || {
        let now = old_sessions(clients)?;
        let more = |(now, before): (&Record, &Record)| now.answered > before.answered + 2;
        Ok(now.iter().zip(&before).all(more).then_some(()))
    })
}

/// What the source counted is what the clients sent, now that they have closed their sessions.
fn counted_exactly(rig: &Rig, clients: &mut Clients) -> anyhow::Result<()> {
    let guest = rig.api.guest(SOURCE)?.context("the source is there")?;
    let counters = guest.regions.first().context("the source has a region")?;
    let counted = region::counted(Path::new(&counters.path))?;
    for record in old_sessions(clients)? {
        let count = counted[record.session as usize];
        ensure!(record.closed_us != 0, "not closed: {record:?}");
        ensure!(record.sent == record.answered && record.sent == count, "{count}: {record:?}");
    }
    Ok(())
}

fn stopped_in_mid_drain(mode: Mode) -> anyhow::Result<()> {
    let mut rig = Rig::start(&Options::new(mode))?;
    let mut clients = rig.clients()?;
    clients.order(&Order::Open { first: 0, count: OLD, interval_ms: 50 })?;
    go_on(&mut clients)?;
    let migrating = Migrating::start(&rig)?;
    migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(()))?;
    rig.answered_by(&mut clients, DESTINATION, OLD)?;

    rig.switch.stop()?;
    let printed = rig.switch.process.printed();
    for part in ["SIGTERM", "in the middle of a migration", MANAGED, SOURCE, DESTINATION] {
        ensure!(printed.contains(part), "`{part}` is not in:\n{printed}");
    }
    // Long enough for the manager to notice, and for requests under way to be sent again in vain.
    std::thread::sleep(Duration::from_secs(2));
    old_sessions(&mut clients)?;
    ensure!(migrating.now(&rig)?.phase() == Phase::Drain, "the manager does not wait for the box");

    rig.switch.restart(&rig.lab)?;
    go_on(&mut clients)?;
    let message = migrating.aborted(&rig, LIMIT)?;
    let warned = printed.lines().filter(|line| line.contains("WARN"));
    println!("{}:\n{}\n{message}", mode.name(), warned.collect::<Vec<_>>().join("\n"));
    for part in ["`edge`", MANAGED, "it was restarted", "start the migration again"] {
        ensure!(message.contains(part), "`{part}` is not in: {message}");
    }
    ensure!(!message.contains("Left behind"), "{message}");

    let address = rig.api.address(MANAGED)?;
    ensure!(address.state() == AddressState::Tracked && !address.hosted, "{address:?}");
    let home = address.home.as_ref().map(|home| home.name.as_str());
    ensure!(home == Some(SOURCE) && address.destination.is_none(), "{address:?}");
    ensure!(address.home_sessions == u64::from(OLD), "{address:?}");
    ensure!(rig.api.guest(DESTINATION)?.is_none(), "{DESTINATION} is left behind");
    go_on(&mut clients)?;
    rig.answered_by(&mut clients, SOURCE, OLD + 1)?;
    clients.order(&Order::Close { sessions: (0..OLD).collect() })?;
    counted_exactly(&rig, &mut clients)?;
    drop(clients);
    rig.stop()
}

#[test]
fn the_source_goes_on_after_the_box_is_stopped_in_mid_drain() {
    stopped_in_mid_drain(Mode::L2).expect("the source goes on");
}

#[test]
fn a_source_behind_nat_goes_on_after_the_box_is_stopped_in_mid_drain() {
    stopped_in_mid_drain(Mode::Nat).expect("the source goes on");
}
