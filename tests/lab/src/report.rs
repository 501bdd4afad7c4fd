//! `report.json`: what clients, guests and counters say about each run.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    client::{self, Record},
    figures::Measured,
    rig::{DESTINATION, SOURCE},
};

/// The whole demo.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `completed` or `failed`.
    pub result: &'static str,
    /// One per mode.
    pub runs: Vec<Run>,
}

/// One migration.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// `l2` or `nat`.
    pub mode: &'static str,
    /// Sessions opened before the cutover that had to outlive it.
    pub old_sessions: u64,
    /// Other sessions.
    pub new_sessions: u64,
    /// Sessions that were reset, refused or ended from the other side.
    pub resets: u64,
    /// Requests without an answer, and sessions that could not be opened.
    pub lost_requests: u64,
    /// Answers to requests that were answered before.
    pub doubled_requests: u64,
    /// Sessions answered by a guest that does not own them.
    pub misdirected: u64,
    /// Whether *drained* came before the last old session was closed.
    pub early_drained: bool,
    /// Requests clients sent.
    pub region_expected: u64,
    /// Requests the destination's region holds at the end.
    pub region_found: u64,
    /// Bytes of the source's RAM, by its file.
    pub ram_bytes: u64,
    /// Bytes that hosts sent each other before the cutover, by a proxy between them.
    pub copied_bytes: u64,
    /// Bytes that hosts sent each other after it.
    pub diff_bytes: u64,
    /// How long the source stood still at T0, by its QEMU's events.
    pub pause_ms: f64,
    /// Time by phase, by when the command said that it started and finished. The first has begun before the command
    /// can follow it, so that only its end is in here.
    pub phases: Vec<Phase>,
}

/// Time in one phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

impl Run {
    /// Whether nothing was lost, doubled, reset or misdirected.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.resets == 0
            && self.lost_requests == 0
            && self.doubled_requests == 0
            && self.misdirected == 0
            && !self.early_drained
            && self.region_expected == self.region_found
    }

    /// Take in what was measured beside the clients.
    pub fn measured(&mut self, measured: Measured) {
        self.ram_bytes = measured.ram_bytes;
        self.copied_bytes = measured.copied_bytes;
        self.diff_bytes = measured.diff_bytes;
        self.pause_ms = measured.pause_ms;
        self.phases = measured.phases;
    }

    /// Take in what the clients saw. `old` are the sessions that had to outlive the cutover.
    pub fn sessions(
        &mut self,
        report: &client::Report,
        old: std::ops::Range<u32>,
        cutover: Cutover,
    ) {
        for record in &report.records {
            let is_old = old.contains(&record.session);
            *if is_old { &mut self.old_sessions } else { &mut self.new_sessions } += 1;
            self.resets += u64::from(record.reset);
            self.doubled_requests += record.doubled;
            self.region_expected += record.sent;
            // A session that failed without a request lost what it was going to ask.
            self.lost_requests +=
                record.lost.max(u64::from(record.error.is_some() && record.sent == 0));
            self.misdirected += u64::from(!is_answered_by_owner(record, is_old, cutover));
        }
    }
}

/// Cutover took place between these two instants, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cutover {
    /// Asked at this instant, the box had not.
    pub not_before_us: u64,
    /// By this instant it has answered that it had.
    pub not_after_us: u64,
}

/// Who may answer a session: one guest only, and which is certain unless it was opened during the cutover.
fn is_answered_by_owner(record: &Record, is_old: bool, cutover: Cutover) -> bool {
    let only = |guest: &str| record.identities.keys().all(|identity| identity == guest);
    if is_old || record.connected_us != 0 && record.connected_us < cutover.not_before_us {
        only(SOURCE)
    } else if record.connecting_us > cutover.not_after_us {
        only(DESTINATION)
    } else {
        only(SOURCE) || only(DESTINATION)
    }
}

/// Sessions that began between the cutover and `drained_us`: how many, and those of them that were not answered by the
/// destination alone, every request.
#[must_use]
pub fn during_drain(
    report: &client::Report,
    cutover: Cutover,
    drained_us: u64,
) -> (usize, Vec<&Record>) {
    let during = cutover.not_after_us + 1..drained_us;
    let began: Vec<_> =
        report.records.iter().filter(|record| during.contains(&record.connecting_us)).collect();
    let failed = began.iter().copied().filter(|record| {
        let whole = record.error.is_none() && record.sent > 0 && record.answered == record.sent;
        !whole || !record.identities.keys().eq([DESTINATION])
    });
    (began.len(), failed.collect())
}

/// Sum over the sessions that the source alone answered: what `counted` holds beyond `at_t0`.
#[must_use]
pub fn beyond_t0(report: &client::Report, at_t0: &[u64], counted: &[u64]) -> Option<u64> {
    let sources = report.records.iter().filter(|record| record.identities.keys().eq([SOURCE]));
    let beyond = |record: &Record| {
        let number = record.session as usize;
        counted.get(number)?.checked_sub(*at_t0.get(number)?)
    };
    sources.map(beyond).sum()
}

/// Sessions whose count in the region is not what their client sent: number, sent, counted.
#[must_use]
pub fn differences(report: &client::Report, counted: &[u64]) -> Vec<(u32, u64, u64)> {
    let mut sent: BTreeMap<u32, u64> = BTreeMap::new();
    for record in &report.records {
        *sent.entry(record.session).or_default() += record.sent;
    }
    let numbers = (0u32..).zip(counted);
    let expected = |number| sent.get(&number).copied().unwrap_or(0);
    numbers
        .map(|(number, found)| (number, expected(number), *found))
        .filter(|(_, expected, found)| expected != found)
        .collect()
}

impl Report {
    /// Write it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUTOVER: Cutover = Cutover { not_before_us: 1_000_000, not_after_us: 1_011_000 };

    fn record(session: u32, connecting_us: u64, connected_us: u64, guests: &[&str]) -> Record {
        let identities = guests.iter().map(|guest| ((*guest).to_owned(), 1)).collect();
        Record {
            session,
            connecting_us,
            connected_us,
            identities,
            sent: 1,
            answered: 1,
            ..Record::default()
        }
    }

    fn misdirected(record: Record) -> u64 {
        let mut run = Run::default();
        let report = client::Report { records: vec![record], retransmitted: 0 };
        run.sessions(&report, 0..50, CUTOVER);
        run.misdirected
    }

    #[test]
    fn each_session_has_one_owner() {
        assert_eq!(misdirected(record(0, 500_000, 500_100, &[SOURCE])), 0);
        assert_eq!(misdirected(record(0, 500_000, 500_100, &[SOURCE, DESTINATION])), 1);
        assert_eq!(misdirected(record(60, 500_000, 500_100, &[DESTINATION])), 1);
        // During the cutover either may be the owner, but not both.
        for owner in [SOURCE, DESTINATION] {
            assert_eq!(misdirected(record(60, 999_900, 1_000_100, &[owner])), 0);
        }
        assert_eq!(misdirected(record(60, 999_900, 1_000_100, &[SOURCE, DESTINATION])), 1);
        assert_eq!(misdirected(record(60, 1_011_001, 1_011_100, &[DESTINATION])), 0);
        assert_eq!(misdirected(record(60, 1_011_001, 1_011_100, &[SOURCE])), 1);
    }

    #[test]
    fn sessions_of_the_drain_are_the_destinations() {
        let failed = Record { error: Some("reset".into()), ..record(64, 1_600_000, 0, &[]) };
        let records = vec![
            record(60, 1_011_000, 1_011_100, &[SOURCE]),
            record(61, 1_500_000, 1_500_100, &[DESTINATION]),
            record(62, 1_500_000, 1_500_100, &[SOURCE]),
            record(63, 1_500_000, 1_500_100, &[SOURCE, DESTINATION]),
            failed,
            record(65, 2_000_000, 2_000_100, &[SOURCE]),
        ];
        let report = client::Report { records, retransmitted: 0 };
        let (began, failed) = during_drain(&report, CUTOVER, 2_000_000);
        let failed: Vec<u32> = failed.iter().map(|record| record.session).collect();
        assert_eq!((began, failed), (4, vec![62, 63, 64]));
    }

    #[test]
    fn what_a_clone_repeats_is_beyond_t0() {
        let records = vec![
            record(0, 0, 0, &[SOURCE]),
            record(1, 0, 0, &[SOURCE]),
            record(2, 0, 0, &[DESTINATION]),
        ];
        let report = client::Report { records, retransmitted: 0 };
        assert_eq!(beyond_t0(&report, &[5, 6, 0], &[5, 7, 3]), Some(1));
        assert_eq!(beyond_t0(&report, &[5, 6, 0], &[4, 7, 3]), None, "less than at T0");
    }

    #[test]
    fn every_loss_shows() {
        let failed = Record { error: Some("refused".into()), reset: true, ..Record::default() };
        let unanswered = Record { session: 1, sent: 3, answered: 2, lost: 1, ..Record::default() };
        let report = client::Report { records: vec![failed, unanswered], retransmitted: 0 };
        let mut run = Run::default();
        run.sessions(&report, 0..50, Cutover::default());
        assert_eq!((run.resets, run.lost_requests, run.region_expected), (1, 2, 3));
        assert!(!run.is_clean());
        assert_eq!(differences(&report, &[0, 2, 1]), [(1, 3, 2), (2, 0, 1)]);
    }
}
