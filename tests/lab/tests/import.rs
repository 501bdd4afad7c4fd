//! A box that has forgotten everything, in front of a guest with silent sessions: it counts them by the guest's own
//! list.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tidegate_api::manager::Phase;
use tidegate_lab::{
    Mode, Rig,
    client::Order,
    clients::Clients,
    migration::Migrating,
    process::{run, wait_until},
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

/// Sessions that live, and say nothing.
const IDLE: u32 = 20;
/// Number of the one whose client is gone.
const DEAD: u32 = 100;
/// Number of the one that asks who answers.
const ASKING: u32 = 200;
/// Longer than a test lasts.
const NEVER_MS: u64 = 3_600_000;
const LIMIT: Duration = Duration::from_secs(60);
/// How long the box keeps a silent session.
const SILENCE_S: u32 = 40;

/// Open sessions that have had one answer each, and nothing after it.
fn silent(rig: &Rig, first: u32, count: u32) -> anyhow::Result<Clients> {
    let mut clients = rig.clients()?;
    clients.order(&Order::Open { first, count, interval_ms: NEVER_MS })?;
    wait_until("each session is answered", LIMIT, || {
        let records = clients.report()?.records;
        let answered = records.iter().filter(|record| record.answered == 1).count();
        Ok((answered == count as usize).then_some(()))
    })?;
    Ok(clients)
}

/// End a client so that nobody hears of it: nothing it sends from now on leaves its machine.
fn vanish(rig: &Rig, client: Clients, port: u32) -> anyhow::Result<()> {
    let port = port.to_string();
    let rule = ["rule", "add", "ipproto", "tcp", "sport", &port, "blackhole"];
    run(rig.lab.among_clients("ip").args(rule))?;
    drop(client);
    Ok(())
}

/// The sessions at the box, by client port.
fn ports(rig: &Rig) -> anyhow::Result<Vec<u32>> {
    let mut ports: Vec<_> = rig.api.sessions()?.iter().map(|it| it.client_port).collect();
    ports.sort_unstable();
    Ok(ports)
}

fn counted_by_the_guests_list(mode: Mode) -> anyhow::Result<()> {
    let mut rig = Rig::start(&Options { silence_s: Some(SILENCE_S), ..Options::new(mode) })?;
    let own = if mode == Mode::Nat { rig.family.locator(0) } else { MANAGED };
    wait_until("the agent answers", LIMIT, || Ok(rig.api.sockets(SOURCE, own).ok()))?;
    let gone = silent(&rig, DEAD, 1)?;
    let dead = *ports(&rig)?.first().context("the first session")?;
    vanish(&rig, gone, dead)?;
    let mut clients = silent(&rig, 0, IDLE)?;
    let before = ports(&rig)?;
    ensure!(before.len() == IDLE as usize + 1, "{before:?}");

    rig.switch.stop()?;
    rig.switch.restart(&rig.lab)?;
    ensure!(ports(&rig)?.is_empty(), "the box has not forgotten");
    // Its QEMU has not found the box again yet: a clone made now would stay silent.
    let migrating = Migrating::start_with(&rig, &["--sessions", "agent"])?;
    migrating.reach(&rig, Phase::Capture, LIMIT, |_| Ok(()))?;
    let imported_at = Instant::now();
    ensure!(ports(&rig)? == before, "{:?} is not {before:?}", ports(&rig)?);
    let drains = migrating.reach(&rig, Phase::Drain, LIMIT, |_| Ok(()))?;
    let figures = drains.figures.context("figures")?;
    let (old, all) = (figures.old_sessions_at_cutover, u64::from(IDLE) + 1);
    ensure!(old == all && figures.imported_sessions == all, "{figures:?}");
    ensure!(figures.session_list_missing.is_empty(), "{figures:?}");
    rig.answered_by(&mut clients, DESTINATION, ASKING)?;

    let report = clients.order(&Order::Close { sessions: (0..IDLE).collect() })?;
    for record in report.records.iter().filter(|record| record.session < IDLE) {
        let whole = record.error.is_none() && !record.reset && record.closed_us != 0;
        ensure!(whole && record.identities.keys().eq([SOURCE]), "{record:?}");
    }
    wait_until("only the dead one is waited for", Duration::from_secs(5), || {
        Ok((rig.api.address(MANAGED)?.home_sessions == 1).then_some(()))
    })?;
    let silence = Duration::from_secs(u64::from(SILENCE_S));
    let nearly = silence.saturating_sub(imported_at.elapsed() + Duration::from_secs(3));
    ensure!(!nearly.is_zero(), "too slow to see it: {:?}", imported_at.elapsed());
    thread::sleep(nearly);
    let address = rig.api.address(MANAGED)?;
    ensure!(address.home_sessions == 1, "given up after {:?}: {address:?}", imported_at.elapsed());
    migrating.complete(&rig, LIMIT, |_| Ok(()))?;
    let took = imported_at.elapsed();
    ensure!(took < silence + Duration::from_secs(10), "waited for {took:?}");
    rig.answered_by(&mut clients, DESTINATION, ASKING + 1)?;
    drop(clients);
    rig.stop()
}

#[test]
fn silent_sessions_of_a_forgetful_box_are_counted_by_the_guests_list() {
    counted_by_the_guests_list(Mode::L2).expect("counted");
}

#[test]
fn behind_nat_too() {
    counted_by_the_guests_list(Mode::Nat).expect("counted");
}
