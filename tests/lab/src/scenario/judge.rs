//! Compare what clients, guests, files and the box say with each other, and with what the manager says.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use tidegate_api::manager::Migration;

use crate::{
    client,
    figures::Measured,
    region,
    report::{self, Cutover, Run},
    rig::{DESTINATION, Rig},
    view::{Beside, View},
};

use super::{OLD, drain::Drained};

/// More than this many retransmissions in a run are a storm: an answer during T0 takes longer than a first
/// retransmission timeout at most once per session.
const STORM: u64 = 4 * OLD as u64;
/// The least that must begin during the drain.
const NEW_LEAST: usize = 10;

/// Everything that was seen.
pub(super) struct Evidence {
    pub(super) report: client::Report,
    pub(super) drain: Drained,
    pub(super) cutover: Cutover,
    pub(super) measured: Measured,
    pub(super) manager: Migration,
}

impl Evidence {
    /// Fill `run`, show it, and see that everything fits.
    pub(super) fn judge(self, rig: &Rig, view: &View, run: &mut Run) -> anyhow::Result<()> {
        let Self { report, drain, cutover, measured, manager } = self;
        let disagreements = measured.disagreements(rig.mode, &manager);
        run.measured(measured);
        run.early_drained = drain.is_early();
        run.sessions(&report, 0..OLD, cutover);
        let guest = rig.api.guest(DESTINATION)?.context("the destination is not there")?;
        let counters = guest.regions.first().context("the destination has no region")?;
        let counted = region::counted(Path::new(&counters.path))?;
        run.region_found = counted.iter().sum();

        let held = sessions(&report, &counted, &drain, cutover, view).and_then(|()| {
            ensure!(disagreements.is_empty(), "measured otherwise: {}", disagreements.join("; "));
            view.hold("bytes, pause and phases as the manager says are what the lab measured");
            Ok(())
        });

        let figures = manager.figures.unwrap_or_default();
        ensure!(figures.forgotten_sessions == 0, "the release cut sessions of the source");
        let (dropped, repeated) = (dropped(rig)?, drain.repeated);
        view.summary(run, &Beside { figures, report: &report, dropped: &dropped, repeated });
        for record in report.records.iter().filter(|record| record.error.is_some()).take(10) {
            view.say(&format!("failed: {record:?}"));
        }
        held
    }
}

/// Old ones held the drain up, new ones went elsewhere, and every request was counted once.
fn sessions(
    report: &client::Report,
    counted: &[u64],
    drain: &Drained,
    cutover: Cutover,
    view: &View,
) -> anyhow::Result<()> {
    ensure!(!drain.is_early(), "drained before the last old session was closed");
    drain.half_closed(view)?;
    let drained_us = drain.watch.drained_us().context("the box did not say drained")?;
    new_sessions(report, cutover, drained_us, view)?;
    requests(report, counted)
}

/// Those that began during the drain are the destination's.
fn new_sessions(
    report: &client::Report,
    cutover: Cutover,
    drained_us: u64,
    view: &View,
) -> anyhow::Result<()> {
    let (began, failed) = report::during_drain(report, cutover, drained_us);
    ensure!(failed.is_empty(), "not answered by {DESTINATION} alone during the drain: {failed:?}");
    ensure!(began >= NEW_LEAST, "only {began} sessions began during the drain");
    view.hold(&format!("{began} sessions began during the drain, {DESTINATION} answered them all"));
    Ok(())
}

/// None was lost, doubled, or sent again without need.
fn requests(report: &client::Report, counted: &[u64]) -> anyhow::Result<()> {
    let differences = report::differences(report, counted);
    if !differences.is_empty() {
        bail!(
            "sessions whose count is not what was sent (session, sent, counted): {differences:?}"
        );
    }
    let open = report.records.iter().filter(|it| it.error.is_none() && it.closed_us == 0).count();
    ensure!(open == 0, "{open} sessions did not end");
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
