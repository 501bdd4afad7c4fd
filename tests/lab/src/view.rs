//! What somebody watching the demo sees.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use tidegate_api::manager::{Figures, Migration};

use crate::{client, report::Run};

const REFRESH: Duration = Duration::from_millis(200);

/// Lines that stay, and on a terminal one that changes.
pub struct View {
    started: Instant,
    refreshed: Instant,
    live: bool,
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

impl View {
    /// A view on standard output.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, refreshed: now, live: io::stdout().is_terminal() }
    }

    /// Something happened.
    pub fn say(&self, text: &str) {
        self.clear();
        println!("{:7.2} s  {text}", self.started.elapsed().as_secs_f64());
    }

    /// Something that must hold was seen to hold.
    pub fn hold(&self, text: &str) {
        self.say(&format!("ok   {text}"));
    }

    /// How it stands now; shown a few times a second.
    pub fn refresh(
        &mut self,
        migration: Option<&Migration>,
        report: impl FnOnce() -> anyhow::Result<client::Report>,
    ) -> anyhow::Result<()> {
        if !self.live || self.refreshed.elapsed() < REFRESH {
            return Ok(());
        }
        self.refreshed = Instant::now();
        let report = report()?;
        let open = report.records.iter().filter(|record| record.is_open()).count();
        let answered: u64 = report.records.iter().map(|record| record.answered).sum();
        let failed = report.records.iter().filter(|record| record.error.is_some()).count();
        let phase =
            migration.map_or("before", |migration| phase_name(migration.phase().as_str_name()));
        let copied = migration
            .and_then(|migration| migration.figures.as_ref())
            .map_or(0, |figures| figures.copied_bytes);
        print!(
            "\r\x1b[K{:7.2} s  {phase:<12} {open:>4} sessions open  {answered:>7} answered  {failed} failed  {} copied",
            self.started.elapsed().as_secs_f64(),
            bytes(copied)
        );
        io::stdout().flush()?;
        Ok(())
    }

    /// The run in a few lines. What only the manager can know is marked as its word.
    pub fn summary(&self, run: &Run, beside: &Beside<'_>) {
        let Beside { figures, report, dropped, repeated } = beside;
        self.clear();
        let slowest = report.records.iter().map(|record| record.slowest_us).max().unwrap_or(0);
        println!("\n  {} {}", run.mode, if run.is_clean() { "completed" } else { "FAILED" });
        for (what, value) in [
            ("old sessions", run.old_sessions.to_string()),
            ("new sessions", run.new_sessions.to_string()),
            ("resets", run.resets.to_string()),
            ("requests lost", run.lost_requests.to_string()),
            ("requests doubled", run.doubled_requests.to_string()),
            ("misdirected", run.misdirected.to_string()),
            ("requests sent", run.region_expected.to_string()),
            ("counted in the region", run.region_found.to_string()),
            ("retransmitted", format!("{} segments", report.retransmitted)),
            ("slowest answer", format!("{:.1} ms", ms(slowest))),
            ("dropped by the box", (*dropped).to_owned()),
            ("repeated after T0", repeated_by(run.mode, *repeated)),
            ("RAM", bytes(run.ram_bytes)),
            ("sent at T0", bytes(run.copied_bytes)),
            ("sent for the merge", bytes(run.diff_bytes)),
            ("source paused", format!("{:.1} ms", run.pause_ms)),
            ("manager: changed", bytes(figures.diff_bytes)),
            ("manager: merged", bytes(figures.merged_bytes)),
            ("manager: dest. paused", format!("{:.1} ms", ms(figures.destination_pause_ns / 1000))),
            ("manager: cutover", format!("{:.3} ms", ms(figures.cutover_ns / 1000))),
        ] {
            println!("    {what:<22} {value}");
        }
        let phases: Vec<String> =
            run.phases.iter().map(|phase| format!("{} {:.0}", phase.name, phase.ms)).collect();
        println!("    {:<22} {}\n", "ms by phase", phases.join(", "));
    }

    fn clear(&self) {
        if self.live {
            print!("\r\x1b[K");
        }
    }
}

/// What is worth seeing beside the report.
pub struct Beside<'a> {
    /// What the manager says.
    pub figures: Figures,
    /// What the clients saw.
    pub report: &'a client::Report,
    /// What the box dropped.
    pub dropped: &'a str,
    /// Requests of the source's sessions that the destination had counted after T0.
    pub repeated: u64,
}

fn repeated_by(mode: &str, repeated: u64) -> String {
    match mode {
        "l2" => format!("{repeated} requests, by the clone (counts merge by max)"),
        _ => format!("{repeated} requests, by the booted guest"),
    }
}

/// A phase as people say it: `PHASE_DRAIN` is `drain`.
#[must_use]
pub fn phase_name(name: &str) -> &str {
    match name.strip_prefix("PHASE_").unwrap_or(name) {
        "PREFLIGHT" => "preflight",
        "TAKEOVER" => "takeover",
        "CAPTURE" => "capture",
        "COPY" => "copy",
        "DESTINATION" => "destination",
        "CUTOVER" => "cutover",
        "DRAIN" => "drain",
        "AHEAD" => "ahead",
        "SETTLE" => "settle",
        "QUIESCE" => "quiesce",
        "DIFF" => "diff",
        "MERGE" => "merge",
        "MIRROR" => "mirror",
        "CONTINUE" => "continue",
        "RELEASE" => "release",
        "CLEANUP" => "cleanup",
        other => other,
    }
}

/// Microseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}
