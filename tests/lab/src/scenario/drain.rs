//! The drain: all old sessions but one are closed, then half of the last, then the rest of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tidegate_api::{manager::Phase, switch::MigrationState};

use crate::{
    client::{self, Order, Record},
    clients::Clients,
    drain_watch::{DrainWatch, Told},
    migration::Migrating,
    process::wait_until,
    region, report,
    rig::{DESTINATION, Mode, Rig, SOURCE},
    view::View,
};

use super::{OLD, link};

/// How long all old sessions are seen to stay.
const ALL_LEFT: Duration = Duration::from_secs(2);
/// How long one old session alone must keep the migration from draining.
const ONE_LEFT: Duration = Duration::from_secs(3);
/// The session that is closed last.
const LAST: u32 = 0;
/// How long the service keeps its side of it open.
const LINGER_MS: u16 = 1000;
/// The client sees the service's end, and the lab hears of the drain, this much apart at most.
const NOISE_US: u64 = 250_000;
/// The least the box is to say while the last session is half closed.
const TOLD_LEAST: usize = 10;

/// What was seen of the drain.
pub(super) struct Drained {
    /// What the box said, and says.
    pub(super) watch: DrainWatch,
    /// The last old session.
    pub(super) last: Record,
    /// Requests of the source's sessions that the destination had counted after T0.
    pub(super) repeated: u64,
}

/// Close the old sessions: all but one first, which must not drain; then the last.
pub(super) fn drain(
    rig: &Rig,
    migrating: &Migrating,
    clients: &mut Clients,
    view: &mut View,
) -> anyhow::Result<Drained> {
    let watch = rig.api.watch_drain(rig.managed())?;
    let address = rig.api.address(rig.managed())?;
    ensure!(address.home_sessions >= u64::from(OLD), "only {} old sessions", address.home_sessions);
    view.hold(&format!("{} old sessions stay with {SOURCE}", address.home_sessions));
    stays(rig, migrating, clients, view, ALL_LEFT)?;
    clients.order(&Order::Close { sessions: (LAST + 1..OLD).collect() })?;
    wait_until("one old session is left", Duration::from_secs(5), || {
        Ok((rig.api.address(rig.managed())?.home_sessions == 1).then_some(()))
    })?;
    stays(rig, migrating, clients, view, ONE_LEFT)?;
    let waited_s = ONE_LEFT.as_secs();
    view.hold(&format!("with one old session left it does not drain, for {waited_s} s"));
    let repeated = repeated(rig, migrating, &clients.report()?)?;
    if rig.mode == Mode::Nat {
        link::take_route(rig, view)?;
    }

    let half = Order::HalfClose { session: LAST, linger_ms: LINGER_MS };
    let report = clients.order(&half)?;
    view.say("the last old session is closed");
    wait_until("the box says drained", Duration::from_secs(5), || {
        Ok(watch.drained_us().map(drop))
    })?;
    let last = report.records.into_iter().find(|record| record.session == LAST);
    Ok(Drained { watch, last: last.context("no last session")?, repeated })
}

/// For `time`, the migration does not go on.
fn stays(
    rig: &Rig,
    migrating: &Migrating,
    clients: &mut Clients,
    view: &mut View,
    time: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let now = migrating.now(rig)?;
        ensure!(now.phase() == Phase::Drain, "drained although an old session is open");
        view.refresh(Some(&now), || clients.report())?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Requests of the source's sessions that the destination has counted after T0, before anything is merged.
fn repeated(rig: &Rig, migrating: &Migrating, report: &client::Report) -> anyhow::Result<u64> {
    let guest = rig.api.guest(DESTINATION)?.context("the destination is not there")?;
    let counters = guest.regions.first().context("the destination has no region")?;
    let at_t0 = region::counted(&rig.cloud.twin_region(migrating.id()))?;
    let counted = region::counted(counters.path.as_ref())?;
    let repeated = report::beyond_t0(report, &at_t0, &counted)
        .with_context(|| format!("{DESTINATION} holds less than {SOURCE} had at T0"))?;
    let booted = rig.mode == Mode::Nat;
    ensure!(!booted || repeated == 0, "{DESTINATION} has booted and repeated {repeated} requests");
    Ok(repeated)
}

impl Drained {
    /// Whether the box said *drained* before the last session's client saw the service's end of it.
    pub(super) fn is_early(&self) -> bool {
        let drained_us = self.watch.drained_us().unwrap_or(u64::MAX);
        is_early(&self.last, drained_us)
    }

    /// While the last session was half closed the box must have said, often, that one session is left.
    pub(super) fn half_closed(&self, view: &View) -> anyhow::Result<()> {
        let (from, to) = half_closed(&self.last).context("the last session was not half closed")?;
        let told = self.watch.between(from, to);
        let one = |told: &Told| told.state == MigrationState::Draining && told.old_sessions == 1;
        if let Some(other) = told.iter().find(|told| !one(told)) {
            anyhow::bail!("with the last session half closed the box said {other:?}");
        }
        ensure!(told.len() >= TOLD_LEAST, "the box said only {} times how it stands", told.len());
        view.hold(&format!(
            "with the last session half closed the box kept draining with 1 left, for {LINGER_MS} ms; drained came \
             after the service's end"
        ));
        Ok(())
    }
}

/// From the client's end of a session to the service's, less what noticing takes.
fn half_closed(last: &Record) -> Option<(u64, u64)> {
    let lingered = last.closed_us.checked_sub(last.closing_us)?;
    let whole = last.closing_us != 0 && lingered >= u64::from(LINGER_MS) * 1000;
    whole.then(|| (last.closing_us, last.closed_us - NOISE_US))
}

fn is_early(last: &Record, drained_us: u64) -> bool {
    // A session that was cut has no end: whatever came before that end was early.
    last.closed_us == 0 || drained_us < last.closed_us - NOISE_US
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drained_is_early_until_the_service_has_closed() {
        let last = |closing_us, closed_us| Record { closing_us, closed_us, ..Record::default() };
        let whole = last(5_000_000, 6_010_000);
        assert!(is_early(&whole, 5_001_000), "after the client's end");
        assert!(is_early(&whole, 5_700_000));
        assert!(!is_early(&whole, 6_005_000) && !is_early(&whole, 6_020_000));
        assert!(is_early(&last(5_000_000, 0), 6_020_000), "cut");
        assert_eq!(half_closed(&whole), Some((5_000_000, 5_760_000)));
        assert_eq!(half_closed(&last(5_000_000, 5_010_000)), None, "did not linger");
        assert_eq!(half_closed(&last(5_000_000, 0)), None);
    }
}
