//! One whole migration, with sessions open before, during and after it. Everything that must hold is looked at
//! from outside: by clients, in the guests' regions, on the link, in the box's tables, in the process list.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tidegate_api::{
    manager::{Migration, Phase},
    switch::AddressState,
};

use crate::{
    client::{self, Order},
    clients::Clients,
    migration::{Completed, Migrating, process_runs},
    neighbours,
    process::wait_until,
    region,
    report::{self, Run},
    rig::{DESTINATION, Mode, Options, Rig, SOURCE},
    switch_box::{MANAGED, UPLINK_MAC},
    view::{View, ms, phase_name},
};

/// Sessions that are open before the migration starts and outlive its cutover.
const OLD: u32 = 50;
/// Number of the first session that comes and goes.
const FIRST_NEW: u32 = 100;
/// Number of the sessions that ask who answers.
const ASKING: u32 = 8000;
const PREPARED: Duration = Duration::from_secs(40);
const FINISHED: Duration = Duration::from_secs(30);
/// How long one old session alone must keep the migration from draining.
const ONE_LEFT: Duration = Duration::from_secs(3);
/// More than this many retransmissions in a run are a storm: an answer during T0 takes longer than a first
/// retransmission timeout at most once per session.
const STORM: u64 = 4 * OLD as u64;

/// Run it. `run` has what was measured, also when a step fails or something does not hold; then logs are kept in
/// `logs`.
///
/// # Errors
/// When a step fails or something does not hold.
pub fn run(mode: Mode, view: &mut View, logs: &Path, run: &mut Run) -> anyhow::Result<()> {
    run.mode = mode.name();
    view.say(&format!("{}: starting switch box, manager, host and guest {SOURCE}", mode.name()));
    let rig = Rig::start(&Options::new(mode))?;
    let result = scenario(&rig, view, run);
    if result.is_err() || !run.is_clean() {
        // The failure itself is what must be told.
        let _ = rig.lab.keep_logs(logs);
    }
    result?;
    rig.stop()
}

fn scenario(rig: &Rig, view: &mut View, run: &mut Run) -> anyhow::Result<()> {
    let source = rig.api.guest(SOURCE)?.context("the source is not there")?;
    ensure!(!neighbours::answered(&rig.lab, MANAGED)?, "the box answers for {MANAGED} too early");
    neighbours::note_announcements(&rig.lab, MANAGED)?;
    view.hold(&format!("before takeover nobody answers for {MANAGED} on the link"));

    let mut clients = rig.clients()?;
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
    })?;
    view.hold(&format!("{OLD} sessions are open, others come and go"));

    let migrating = Migrating::start(rig)?;
    let mut phases = Phases::default();
    migrating.reach(rig, Phase::Drain, PREPARED, |now| {
        phases.show(now, view);
        view.refresh(Some(now), || clients.report())
    })?;
    hosted(rig, view)?;
    let closing_us = drain(rig, &migrating, &mut clients, view)?;
    let completed = migrating.complete(rig, FINISHED, |now| {
        phases.show(now, view);
        view.refresh(Some(now), || clients.report())
    })?;
    // New sessions go on a little after the end.
    thread::sleep(Duration::from_secs(1));
    clients.order(&Order::StopNew)?;
    after(rig, &source, view)?;
    rig.answered_by(&mut clients, DESTINATION, ASKING)?;
    view.hold(&format!("{MANAGED} answers from {DESTINATION} alone"));
    judge(rig, &clients.report()?, &completed, closing_us, view, run)
}

/// What must hold on the link once the box hosts the address.
fn hosted(rig: &Rig, view: &View) -> anyhow::Result<()> {
    let announced = neighbours::announced(&rig.lab, MANAGED)?;
    ensure!(announced.as_deref() == Some(UPLINK_MAC), "announced for {MANAGED}: {announced:?}");
    ensure!(neighbours::answered(&rig.lab, MANAGED)?, "the box does not answer for {MANAGED}");
    view.hold(&format!("the box announced {MANAGED} by gratuitous ARP, and answers for it"));
    Ok(())
}

/// Close the old sessions: all but one first, which must not drain; then the last. When its client began to close.
fn drain(
    rig: &Rig,
    migrating: &Migrating,
    clients: &mut Clients,
    view: &mut View,
) -> anyhow::Result<u64> {
    let address = rig.api.address(MANAGED)?;
    ensure!(address.home_sessions >= u64::from(OLD), "only {} old sessions", address.home_sessions);
    view.hold(&format!("{} old sessions stay with {SOURCE}", address.home_sessions));
    let watch = |clients: &mut Clients, view: &mut View, time: Duration| -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let now = migrating.now(rig)?;
            ensure!(now.phase() == Phase::Drain, "drained although an old session is open");
            view.refresh(Some(&now), || clients.report())?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    watch(clients, view, Duration::from_secs(2))?;
    clients.order(&Order::Close { sessions: (1..OLD).collect() })?;
    wait_until("one old session is left", Duration::from_secs(5), || {
        Ok((rig.api.address(MANAGED)?.home_sessions == 1).then_some(()))
    })?;
    watch(clients, view, ONE_LEFT)?;
    let state = rig.api.address(MANAGED)?.state();
    ensure!(state == AddressState::Draining, "{} with one old session open", state.as_str_name());
    view.hold(&format!(
        "with one old session left it does not drain, for {} s",
        ONE_LEFT.as_secs()
    ));
    let report = clients.order(&Order::Close { sessions: vec![0] })?;
    let last = report.records.iter().find(|record| record.session == 0).context("no session 0")?;
    view.say("the last old session is closed");
    Ok(last.closing_us)
}

/// What must be left, and what not, once it is over.
fn after(rig: &Rig, source: &tidegate_api::host::Guest, view: &View) -> anyhow::Result<()> {
    ensure!(rig.api.guest(SOURCE)?.is_none(), "the host still has {SOURCE}");
    ensure!(!process_runs(source.pid), "process {} of {SOURCE} still runs", source.pid);
    view.hold(&format!("{SOURCE} and its process are gone"));
    ensure!(!neighbours::answered(&rig.lab, MANAGED)?, "the box still answers for {MANAGED}");
    view.hold(&format!("after release the box does not answer for {MANAGED} on the link"));
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
    let address = rig.api.address(MANAGED)?;
    let home = address.home.as_ref().map(|home| home.name.as_str());
    ensure!(home == Some(DESTINATION) && address.destination.is_none(), "{address:?}");
    view.hold(&format!("the box holds no steering state; {MANAGED} belongs to {DESTINATION}"));
    Ok(())
}

/// Compare what the clients saw with what the guests counted.
fn judge(
    rig: &Rig,
    report: &client::Report,
    completed: &Completed,
    closing_us: u64,
    view: &View,
    run: &mut Run,
) -> anyhow::Result<()> {
    let figures = completed.migration.figures.unwrap_or_default();
    let (_, drained_ms) = completed.span(Phase::Drain)?;
    run.early_drained = drained_ms < closing_us / 1000;
    run.ram_bytes = figures.ram_bytes;
    run.copied_bytes = figures.copied_bytes;
    run.diff_bytes = figures.diff_bytes;
    run.pause_ms = ms(figures.pause_ns / 1000);
    let phases = completed.migration.phases.iter().map(|phase| report::Phase {
        name: phase_name(phase.phase().as_str_name()).to_owned(),
        ms: ms(phase.elapsed_us),
    });
    run.phases = phases.collect();
    run.sessions(report, 0..OLD, completed.span(Phase::Cutover)?);

    let guest = rig.api.guest(DESTINATION)?.context("the destination is not there")?;
    let counters = guest.regions.first().context("the destination has no region")?;
    let counted = region::counted(Path::new(&counters.path))?;
    run.region_found = counted.iter().sum();
    view.summary(run, &figures, report, &dropped(rig)?);
    for record in report.records.iter().filter(|record| record.error.is_some()).take(10) {
        view.say(&format!("failed: {record:?}"));
    }
    let differences = report::differences(report, &counted);
    if !differences.is_empty() {
        bail!(
            "sessions whose count is not what was sent (session, sent, counted): {differences:?}"
        );
    }
    ensure!(unfinished(report) == 0, "sessions did not end");
    ensure!(report.retransmitted <= STORM, "{} segments were retransmitted", report.retransmitted);
    Ok(())
}

/// What the box dropped, by reason.
fn dropped(rig: &Rig) -> anyhow::Result<String> {
    let outcomes = rig.api.counters()?.outcomes;
    let drops = outcomes.iter().filter(|outcome| outcome.drop && outcome.packets > 0);
    let drops: Vec<_> = drops.map(|it| format!("{} {}", it.name, it.packets)).collect();
    Ok(if drops.is_empty() { "nothing".to_owned() } else { drops.join(", ") })
}

fn unfinished(report: &client::Report) -> usize {
    report.records.iter().filter(|record| record.error.is_none() && record.closed_us == 0).count()
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
