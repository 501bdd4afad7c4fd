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

/// What a subject's windows gave. The time others had its CPU is not counted, if it is known of all that are compared.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Time stamp counter ticks per packet.
    pub cycles: Samples,
    /// Packets per second.
    pub rate: Samples,
}

/// A subject's window, in ticks of the time stamp counter.
struct Turn {
    packets: f64,
    window: f64,
    /// How much of it others had the CPU.
    waited: f64,
}

impl Turn {
    fn take(plan: &Plan, subject: &mut dyn Subject) -> anyhow::Result<Self> {
        subject.resume()?;
        thread::sleep(plan.warm_up);
        let (before, waited_before) = (subject.reading()?, subject.waited_ns()?);
        thread::sleep(plan.window);
        let (after, waited_after) = (subject.reading()?, subject.waited_ns()?);
        subject.pause()?;
        anyhow::ensure!(
            after.packets > before.packets,
            "{} forwarded nothing in its window",
            subject.name()
        );
        Ok(Self {
            packets: (after.packets - before.packets) as f64,
            window: (after.tsc - before.tsc) as f64,
            waited: (waited_after - waited_before) as f64 / 1e9 * plan.tsc_hz,
        })
    }
}

/// Measure subjects that are started and paused. They are paused again at the end.
///
/// # Errors
/// When one does not do its work.
pub fn alternate(plan: &Plan, subjects: &mut [&mut dyn Subject]) -> anyhow::Result<Vec<Measured>> {
    let mut measured = vec![Measured::default(); subjects.len()];
    let is_wait_known = subjects.iter().all(|subject| subject.polls());
    for run in 0..plan.runs {
        for (subject, measured) in subjects.iter_mut().zip(&mut measured) {
            let turn = Turn::take(plan, *subject)?;
            let ticks = turn.window - if is_wait_known { turn.waited } else { 0.0 };
            let (cycles, rate) = (ticks / turn.packets, turn.packets * plan.tsc_hz / ticks);
            measured.cycles.push(cycles);
            measured.rate.push(rate);
            eprintln!(
                "  run {}/{}: {:<28} {cycles:>8.1} cycles/packet, {:>7.2} Mpps; waited {:.1} %{}",
                run + 1,
                plan.runs,
                subject.name(),
                rate / 1e6,
                turn.waited / turn.window * 100.0,
                if is_wait_known { "" } else { ", counted" }
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
