//! Subjects in turn: A B A B …, each for a window after a warm-up, while the others stand still.

use std::{thread, time::Duration};

use tidegate_dpdk::clock;

use crate::{samples::Samples, subject::Subject};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Windows of each subject.
    pub runs: usize,
    /// Before each window: caches and branch predictors are the subject's again.
    pub warm_up: Duration,
    /// The window.
    pub window: Duration,
    /// Rate of the time stamp counter.
    pub tsc_hz: f64,
}

/// A subject's packet counter and when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Packets forwarded since it was started.
    pub packets: u64,
    /// Time stamp counter.
    pub tsc: u64,
}

impl Reading {
    /// Ask for a counter, and date the answer to the middle of the asking.
    ///
    /// # Errors
    /// Those of asking.
    pub fn take(ask: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<Self> {
        let before = clock::tsc();
        let packets = ask()?;
        Ok(Self { packets, tsc: before.midpoint(clock::tsc()) })
    }
}

/// What a subject's windows gave.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Time stamp counter ticks per packet.
    pub cycles: Samples,
    /// Packets per second.
    pub rate: Samples,
}

/// Measure subjects that are started and paused. They are paused again at the end.
///
/// # Errors
/// When one does not do its work.
pub fn alternate(plan: &Plan, subjects: &mut [&mut dyn Subject]) -> anyhow::Result<Vec<Measured>> {
    let mut measured = vec![Measured::default(); subjects.len()];
    for run in 0..plan.runs {
        for (subject, measured) in subjects.iter_mut().zip(&mut measured) {
            subject.resume()?;
            thread::sleep(plan.warm_up);
            let before = subject.reading()?;
            thread::sleep(plan.window);
            let after = subject.reading()?;
            subject.pause()?;
            let packets = after.packets - before.packets;
            let ticks = (after.tsc - before.tsc) as f64;
            anyhow::ensure!(packets > 0, "{} forwarded nothing in its window", subject.name());
            measured.cycles.push(ticks / packets as f64);
            measured.rate.push(packets as f64 * plan.tsc_hz / ticks);
            eprintln!(
                "  run {}/{}: {:<28} {:>8.1} cycles/packet, {:>7.2} Mpps",
                run + 1,
                plan.runs,
                subject.name(),
                ticks / packets as f64,
                packets as f64 * plan.tsc_hz / ticks / 1e6
            );
        }
    }
    for subject in subjects {
        subject.resume()?;
        let verified = subject.verify();
        subject.pause()?;
        verified?;
    }
    Ok(measured)
}
