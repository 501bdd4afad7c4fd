//! One whole migration, with sessions open before, during and after it. Everything that must hold is looked at
//! from outside: by clients, in the guests' files, on the link, at the box, in the process list.

mod drain;
mod judge;
mod link;

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, ensure};
use tidegate_api::{
    host::Guest,
    manager::{Migration, Phase},
    switch::AddressState,
};

use crate::{
    client::{Order, unix_us},
    clients::Clients,
    figures::{self, Measured},
    migration::{Migrating, process_runs},
    monitor::Monitor,
    neighbours,
    process::wait_until,
    report::{Cutover, Run},
    rig::{DESTINATION, Mode, Options, Rig, SOURCE},
    view::{View, ms, phase_name},
};
use judge::Evidence;

/// Sessions that are open before the migration starts and outlive its cutover.
const OLD: u32 = 50;
/// Number of the first session that comes and goes.
const FIRST_NEW: u32 = 100;
/// Number of the sessions that ask who answers.
const ASKING: u32 = 8000;
const PREPARED: Duration = Duration::from_secs(40);
const FINISHED: Duration = Duration::from_secs(30);

/// Run it. `run` has what was measured, also when a step fails or something does not hold; then logs are kept in
/// `logs`.
///
/// # Errors
/// When a step fails or something does not hold.
pub fn run(options: &Options, view: &mut View, logs: &Path, run: &mut Run) -> anyhow::Result<()> {
    let mode = options.mode;
    run.mode = mode.name();
    view.say(&format!("{}: starting switch box, manager, host and guest {SOURCE}", mode.name()));
    let rig = Rig::start(options)?;
    let result = scenario(&rig, view, run);
    if result.is_err() || !run.is_clean() {
        // The failure itself is what must be told.
        let _ = rig.lab.keep_logs(logs);
    }
    result?;
    rig.stop()
}

fn scenario(rig: &Rig, view: &mut View, run: &mut Run) -> anyhow::Result<()> {
    let managed = rig.managed();
    let source = rig.api.guest(SOURCE)?.context("the source is not there")?;
    let monitor = Monitor::connect(&rig.cloud.monitor_socket(SOURCE))?;
    let ram_bytes = figures::ram_bytes(&source)?;
    ensure!(
        !neighbours::answered(&rig.lab, rig.family)?,
        "the box answers for {managed} too early"
    );
    neighbours::note_announcements(&rig.lab, rig.family, true)?;
    view.hold(&format!("before takeover nobody answers for {managed} on the link"));
    let mut clients = rig.clients()?;
    begin(&mut clients)?;
    view.hold(&format!("{OLD} sessions are open, others come and go"));

    let migrating = Migrating::start(rig)?;
    let mut phases = Phases::default();
    let cutover = cut_over(rig, &migrating, &mut clients, &mut phases, view)?;
    let copied_bytes = rig.cloud.data.carried_bytes();
    let drain = drain::drain(rig, &migrating, &mut clients, view)?;
    let completed = migrating.complete(rig, FINISHED, |now| {
        phases.show(now, view);
        view.refresh(Some(now), || clients.report())
    })?;
    // New sessions go on a little after the end.
    thread::sleep(Duration::from_secs(1));
    clients.order(&Order::StopNew)?;
    after(rig, &source, view)?;
    rig.answered_by(&mut clients, DESTINATION, ASKING)?;
    view.hold(&format!("{managed} answers from {DESTINATION} alone"));
    let measured = Measured {
        ram_bytes,
        copied_bytes,
        diff_bytes: rig.cloud.data.carried_bytes() - copied_bytes,
        pause_ms: figures::pause_ms(*monitor.pauses().first().context("no pause of the source")?),
        phases: completed.phases,
    };
    let report = clients.report()?;
    let manager = completed.migration;
    Evidence { report, drain, cutover, measured, manager }.judge(rig, view, run)
}

/// Open the old sessions, and begin with those that come and go.
fn begin(clients: &mut Clients) -> anyhow::Result<()> {
    clients.order(&Order::Open { first: 0, count: OLD, interval_ms: 100 })?;
    clients.order(&Order::StartNew {
        first: FIRST_NEW,
        every_ms: 100,
        requests: 3,
        interval_ms: 30,
    })?;
    wait_until("all old sessions are answered", Duration::from_secs(15), || {
        let report = clients.report()?;
        let old = report.records.iter().filter(|record| record.session < OLD);
        Ok((old.filter(|record| record.answered > 5).count() == OLD as usize).then_some(()))
    })
}

/// Wait until the box has cut over; see on the way that it hosts the address.
fn cut_over(
    rig: &Rig,
    migrating: &Migrating,
    clients: &mut Clients,
    phases: &mut Phases,
    view: &mut View,
) -> anyhow::Result<Cutover> {
    let mut cutover = Cutover { not_before_us: unix_us(), not_after_us: 0 };
    migrating.reach(rig, Phase::Capture, PREPARED, |now| {
        phases.show(now, view);
        Ok(())
    })?;
    link::hosted(rig, view)?;
    if rig.mode == Mode::Nat {
        link::leave_route(rig, clients, view)?;
    }
    migrating.reach(rig, Phase::Drain, PREPARED, |now| {
        phases.show(now, view);
        view.refresh(Some(now), || clients.report())?;
        let asked_us = unix_us();
        match rig.api.address(rig.managed())?.state() {
            AddressState::Draining if cutover.not_after_us == 0 => cutover.not_after_us = unix_us(),
            AddressState::Draining => {}
            _ => cutover.not_before_us = asked_us,
        }
        Ok(())
    })?;
    ensure!(cutover.not_after_us != 0, "the box does not say that it has cut over");
    Ok(cutover)
}

/// What must be left, and what not, once it is over.
fn after(rig: &Rig, source: &Guest, view: &View) -> anyhow::Result<()> {
    let managed = rig.managed();
    ensure!(rig.api.guest(SOURCE)?.is_none(), "the host still has {SOURCE}");
    ensure!(!process_runs(source.pid), "process {} of {SOURCE} still runs", source.pid);
    view.hold(&format!("{SOURCE} and its process are gone"));
    ensure!(!neighbours::answered(&rig.lab, rig.family)?, "the box still answers for {managed}");
    view.hold(&format!("after release the box does not answer for {managed} on the link"));
    let status = rig.api.switch_status()?;
    let left = (status.hosted_addresses, status.migrations, status.sessions);
    ensure!(left == (0, 0, 0), "left at the box: {left:?} (hosted, migrations, sessions)");
    let sessions = rig.api.sessions()?;
    ensure!(sessions.is_empty(), "sessions left at the box: {sessions:?}");
    wait_until("every packet ends in one outcome", Duration::from_secs(2), || {
        let counters = rig.api.counters()?;
        let outcomes: u64 = counters.outcomes.iter().map(|outcome| outcome.packets).sum();
        Ok((outcomes == counters.received).then_some(()))
    })?;
    let address = rig.api.address(rig.managed())?;
    let home = address.home.as_ref().map(|home| home.name.as_str());
    ensure!(home == Some(DESTINATION) && address.destination.is_none(), "{address:?}");
    view.hold(&format!("the box holds no steering state; {managed} belongs to {DESTINATION}"));
    Ok(())
}

/// Says each phase once.
#[derive(Default)]
struct Phases {
    shown: usize,
}

impl Phases {
    fn show(&mut self, now: &Migration, view: &View) {
        for phase in now.phases.iter().skip(self.shown) {
            let name = phase_name(phase.phase().as_str_name());
            view.say(&format!("     {name:<12} {:>9.1} ms", ms(phase.elapsed_us)));
        }
        self.shown = now.phases.len();
    }
}
