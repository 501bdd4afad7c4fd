//! What the lab measured of a migration, beside what the manager says of it.

use std::{fs, path::Path};

use anyhow::Context as _;
use tidegate_api::{host::Guest, manager::Migration};

use crate::{
    monitor::Pause,
    report::Phase,
    rig::Mode,
    view::{ms, phase_name},
};

/// Two programs on busy processors notice the same instant no further apart than this.
const NOISE_MS: f64 = 250.0;
/// Two clocks of one machine may be set against each other by this.
const CLOCK_MS: f64 = 1.0;
/// The most that HELLO, LAYOUT and END of a transfer take, for one region and a migration's usual name.
const TRANSFER_BYTES: u64 = 512;
/// What a chunk takes beside its memory. A chunk is at least a page, but for the last of each object.
const CHUNK_BYTES: u64 = 24;
const PAGE_BYTES: u64 = 4096;
const OBJECTS: u64 = 3;
/// The header of a region, which its diff carries.
const HEADER_BYTES: u64 = 4096;
/// What a changed byte takes at most: a run's head, and twice the word it is in and the word after.
const CHANGED_BYTES: u64 = 12 + 2 * 16;

/// From files, sockets and the lab's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Size of the source's RAM file.
    pub ram_bytes: u64,
    /// Bytes between hosts before the cutover.
    pub copied_bytes: u64,
    /// Bytes between hosts after it.
    pub diff_bytes: u64,
    /// The source's first pause, as its QEMU says.
    pub pause_ms: f64,
    /// When phases started and finished.
    pub phases: Vec<Phase>,
}

/// Size of a guest's RAM file on disk.
///
/// # Errors
/// When there is none.
pub fn ram_bytes(guest: &Guest) -> anyhow::Result<u64> {
    let path = Path::new(&guest.ram_path);
    Ok(fs::metadata(path).with_context(|| format!("RAM file {}", path.display()))?.len())
}

/// How long a pause was.
#[must_use]
pub fn pause_ms(pause: Pause) -> f64 {
    ms(pause.resume_us.saturating_sub(pause.stop_us))
}

impl Measured {
    /// Where the manager's figures differ from these by more than measuring can.
    #[must_use]
    pub fn disagreements(&self, mode: Mode, migration: &Migration) -> Vec<String> {
        let says = migration.figures.clone().unwrap_or_default();
        let mut found = Vec::new();
        let mut within = |what: &str, said: f64, least: f64, most: f64| {
            if !(least..=most).contains(&said) {
                found
                    .push(format!("{what} is {least:.1} to {most:.1}, the manager says {said:.1}"));
            }
        };
        // Only a clone's RAM is captured.
        let ram_bytes = if mode == Mode::L2 { self.ram_bytes } else { 0 };
        within("ram_bytes", real(says.ram_bytes), real(ram_bytes), real(ram_bytes));
        // The manager counts memory, the wire carries heads beside it.
        let heads = (self.copied_bytes / PAGE_BYTES + OBJECTS) * CHUNK_BYTES + TRANSFER_BYTES;
        let least = self.copied_bytes.saturating_sub(heads);
        within("copied_bytes", real(says.copied_bytes), real(least), real(self.copied_bytes));
        // The manager counts bytes that differ, the wire carries the words they are in, twice.
        let least = self.diff_bytes.saturating_sub(TRANSFER_BYTES + HEADER_BYTES) / CHANGED_BYTES;
        within("diff_bytes", real(says.diff_bytes), real(least), real(self.diff_bytes));
        // The manager measures from before it asks to after the answer.
        let (least, most) = (self.pause_ms - CLOCK_MS, self.pause_ms + NOISE_MS);
        within("pause_ms", ms(says.pause_ns / 1000), least, most);
        for pair in self.phases.iter().zip(&migration.phases) {
            let (here, there) = (pair.0, ms(pair.1.elapsed_us));
            // Over before the lab can hear of it.
            if here.name == "preflight" {
                continue;
            }
            within(&here.name, there, here.ms - NOISE_MS, here.ms + NOISE_MS);
        }
        let there = migration.phases.iter().map(|it| phase_name(it.phase().as_str_name()));
        let there: Vec<&str> = there.collect();
        if !self.phases.iter().map(|phase| &phase.name).eq(&there) {
            found.push(format!("phases are {:?}, the manager says {there:?}", self.phases));
        }
        found
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn real(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use tidegate_api::manager::{self, Figures, PhaseTime};

    use super::*;

    fn measured() -> Measured {
        Measured {
            ram_bytes: 128 << 20,
            copied_bytes: 4_150_000,
            diff_bytes: 600 + HEADER_BYTES,
            pause_ms: 40.0,
            phases: vec![Phase { name: "drain".to_owned(), ms: 5200.0 }],
        }
    }

    fn manager() -> Migration {
        let figures = Figures {
            ram_bytes: 128 << 20,
            copied_bytes: 4_130_000,
            diff_bytes: 58,
            pause_ns: 44_000_000,
            ..Figures::default()
        };
        let drain = PhaseTime { phase: manager::Phase::Drain.into(), elapsed_us: 5_190_000 };
        Migration { figures: Some(figures), phases: vec![drain], ..Migration::default() }
    }

    #[test]
    fn noise_is_no_disagreement() {
        assert_eq!(measured().disagreements(Mode::L2, &manager()), [""; 0]);
    }

    #[test]
    fn each_figure_can_disagree() {
        type Change = fn(&mut Figures);
        let changes: [(&str, Change); 8] = [
            ("ram_bytes", |says| says.ram_bytes += 1),
            ("copied_bytes", |says| says.copied_bytes = 4_150_001),
            ("copied_bytes", |says| says.copied_bytes = 4_120_000),
            ("diff_bytes", |says| says.diff_bytes = 1),
            ("diff_bytes", |says| says.diff_bytes = 601 + HEADER_BYTES),
            ("pause_ms", |says| says.pause_ns = 30_000_000),
            ("pause_ms", |says| says.pause_ns = 300_000_000),
            ("pause_ms", |says| says.pause_ns = 0),
        ];
        for (name, change) in changes {
            let mut manager = manager();
            change(manager.figures.as_mut().expect("set above"));
            let found = measured().disagreements(Mode::L2, &manager);
            assert!(found.len() == 1 && found[0].starts_with(name), "{name}: {found:?}");
        }
        let mut longer = manager();
        longer.phases[0].elapsed_us += 1_000_000;
        assert_eq!(measured().disagreements(Mode::L2, &longer).len(), 1);
        let none = Migration { phases: Vec::new(), ..manager() };
        assert_eq!(measured().disagreements(Mode::L2, &none).len(), 1);
    }
}
