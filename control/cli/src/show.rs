//! A migration's progress: bars on a terminal, lines elsewhere, objects for programs.

use std::{io, time::Duration};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    domain::migration::{Event, Figures, Happening, Migration, Plan, State},
    output::Output,
    table,
};

/// Shows one migration.
pub struct Show<'a> {
    output: &'a mut Output,
    bar: Option<ProgressBar>,
    /// Last old sessions printed as a line.
    old_sessions: Option<u64>,
}

impl<'a> Show<'a> {
    /// Show on `output`.
    #[must_use]
    pub fn new(output: &'a mut Output) -> Self {
        Self { output, bar: None, old_sessions: None }
    }

    /// The preflight's checks.
    ///
    /// # Errors
    /// Writing failed.
    pub fn plan(&mut self, plan: &Plan) -> io::Result<()> {
        self.output.event("plan", plan)?;
        for check in &plan.checks {
            let mark = match (check.ok, check.warning) {
                (false, _) => "FAIL",
                (true, true) => "warn",
                (true, false) => "ok  ",
            };
            let line = format!("{mark}  {}: {}", check.name, check.detail);
            self.line(line.trim_end_matches(": "))?;
        }
        Ok(())
    }

    /// One line for people.
    ///
    /// # Errors
    /// Writing failed.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.text(&format!("{line}\n"))),
            None => self.output.text(&format!("{line}\n")),
        }
    }

    /// Something happened.
    ///
    /// # Errors
    /// Writing failed.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.output.object(event)?;
        match &event.what {
            Happening::Started => self.started(event.phase),
            Happening::Finished { elapsed_us, detail } => {
                self.clear();
                let line = format!("{:<12} {:>10}  {detail}", event.phase, elapsed(*elapsed_us));
                self.line(line.trim_end())
            }
            Happening::Copy { sent_bytes, covered_bytes, total_bytes, rate_bytes_per_s } => {
                let rate = HumanBytes(*rate_bytes_per_s);
                let sent = format!("({} sent, {rate}/s)", HumanBytes(*sent_bytes));
                self.copy(*covered_bytes, *total_bytes, sent);
                Ok(())
            }
            Happening::Settle { unchanged_ms, settle_ms, changed_pages, watched_pages } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!(
                        "unchanged for {unchanged_ms} of {settle_ms} ms, {changed_pages} of {watched_pages} page(s) changed"
                    ));
                }
                Ok(())
            }
            Happening::Drain { old_sessions, new_sessions } => {
                self.drain(*old_sessions, *new_sessions)
            }
            Happening::Aborting { reason } => {
                self.clear();
                self.line(&format!("aborting: {reason}"))
            }
            Happening::Resumed { reason } => self.line(&format!("resumed: {reason}")),
            Happening::Ended { migration, .. } => {
                self.clear();
                self.summary(migration)
            }
        }
    }

    fn started(&mut self, phase: &str) -> io::Result<()> {
        if !self.output.terminal {
            return Ok(());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        bar.set_style(style("{prefix:<12} {elapsed:>10}  {spinner} {msg}"));
        bar.set_prefix(phase.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
        Ok(())
    }

    fn copy(&mut self, covered_bytes: u64, total_bytes: u64, sent: String) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total_bytes) {
            bar.set_length(total_bytes);
            bar.set_style(style(
                "{prefix:<12} {elapsed:>10}  {bar:30} {bytes}/{total_bytes} {msg}",
            ));
        }
        bar.set_position(covered_bytes);
        bar.set_message(sent);
    }

    fn drain(&mut self, old_sessions: u64, new_sessions: u64) -> io::Result<()> {
        let text = format!("{old_sessions} old session(s) left, {new_sessions} new");
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            return Ok(());
        }
        if self.old_sessions.replace(old_sessions) == Some(old_sessions) {
            return Ok(());
        }
        self.line(&format!("{:<12} {:>10}  {text}", "drain", ""))
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn summary(&mut self, migration: &Migration) -> io::Result<()> {
        self.output.event("migration", migration)?;
        let figures = &migration.figures;
        let mut rows = vec![
            ("migration", migration.id.clone()),
            ("address", migration.spec.address.clone()),
            ("state", migration.state.name().to_owned()),
        ];
        if migration.state == State::Completed {
            let ms = |ns: u64| elapsed(ns / 1000);
            rows.extend([
                ("old sessions at cutover", figures.old_sessions_at_cutover.to_string()),
                ("sessions imported", figures.imported_sessions.to_string()),
                ("memory copied", HumanBytes(figures.copied_bytes).to_string()),
                ("source paused for capture", ms(figures.pause_ns)),
                ("captured by", captured(figures)),
                ("changed since capture", HumanBytes(figures.diff_bytes).to_string()),
                ("sessions cut by the release", figures.forgotten_sessions.to_string()),
            ]);
            if migration.spec.finish == "merge" {
                rows.extend([
                    ("merged", HumanBytes(figures.merged_bytes).to_string()),
                    ("destination paused for merge", ms(figures.destination_pause_ns)),
                    ("conflicts", figures.conflicts.to_string()),
                ]);
            }
            if migration.spec.finish == "mirror" {
                rows.extend([
                    ("written to the destination", HumanBytes(figures.merged_bytes).to_string()),
                    (
                        "sent ahead of the image",
                        HumanBytes(figures.ahead_bytes.iter().sum()).to_string(),
                    ),
                    ("guest paused for its image", ms(figures.image_pause_ns)),
                    ("digest of the image", figures.image_digest.clone()),
                    ("sessions that went on", figures.kept_sessions.to_string()),
                    ("destination's sessions cut", figures.cut_sessions.to_string()),
                ]);
            }
        }
        if !figures.session_list_missing.is_empty() {
            rows.push(("sessions not counted", figures.session_list_missing.clone()));
        }
        let total = migration.phases.iter().map(|phase| phase.elapsed_us).sum();
        rows.push(("time in finished phases", elapsed(total)));
        if !migration.message.is_empty() {
            rows.push(("message", migration.message.clone()));
        }
        self.output.text(&format!("\n{}", table::list(&rows)))
    }
}

impl Drop for Show<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that cannot be read would be ours; the default bar says the same.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Which way, why, and what it took.
fn captured(figures: &Figures) -> String {
    let mut text = format!("{} ({})", figures.capture_way, figures.capture_why);
    if !figures.pass_bytes.is_empty() {
        let passes: Vec<_> =
            figures.pass_bytes.iter().map(|bytes| HumanBytes(*bytes).to_string()).collect();
        text += &format!(": {}", passes.join(" + "));
    }
    if let Some(packets) = figures.held_packets {
        text += &format!("; {packets} packet(s) held meanwhile");
    }
    text
}

/// A time in the unit that suits it.
#[must_use]
pub fn elapsed(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}
