//! Cutover while a million sessions are live and packets flow.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{Context, Outcome};
use crate::{
    capture::Capture,
    result::Metric,
    runner::Reading,
    samples::Samples,
    subject::{
        api::Api,
        tidegated::{Setup, Tidegated},
    },
};

const SESSIONS: u32 = 1_000_000;
const SLOT: Duration = Duration::from_millis(10);
/// Before and after the cutover.
const AROUND: Duration = Duration::from_millis(300);

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let feed = context.feed(&Capture::established(SESSIONS))?;
    let mut switch = Tidegated::start(&Setup::one_worker(&feed))?;
    let [mut elapsed, mut lost, mut misdirected] = [const { Vec::new() }; 3];
    let (mut dips, mut undisturbed) = (Samples::default(), Samples::default());
    for _ in 0..context.runs {
        let mut watching = switch.connect()?;
        let (quiet, ()) = watch(&mut watching, || {
            thread::sleep(2 * AROUND);
            Ok(())
        })?;
        undisturbed.push(dip_percent(&quiet));
        switch.api.prepare_cutover("vm0")?;
        let before = switch.api.totals()?;
        let (slots, answer) = watch(&mut watching, || {
            thread::sleep(AROUND);
            let answer = switch.api.cutover()?;
            thread::sleep(AROUND);
            Ok(answer)
        })?;
        let after = switch.api.totals()?;
        anyhow::ensure!(
            answer.old_sessions == u64::from(SESSIONS),
            "the cutover counted {} old sessions, {SESSIONS} are live",
            answer.old_sessions
        );
        elapsed.push(answer.elapsed_ns as f64 / 1e6);
        lost.push((after.dropped - before.dropped) as f64);
        // Every packet is of an old session.
        misdirected.push((after.to_destination - before.to_destination) as f64);
        dips.push(dip_percent(&slots));
        switch.api.abort()?;
    }
    let samples = |values: Vec<f64>| values.into_iter().collect::<Samples>();
    Ok(Outcome {
        metrics: vec![
            Metric::alone("cutover_1m_ms", "ms to the last acknowledgement", samples(elapsed)),
            Metric::alone("cutover_1m_lost", "packets", samples(lost))
                .note("dropped in the 600 ms around the cutover, by the box's counters; `pktgen_lost`: from outside"),
            Metric::alone("cutover_1m_misdirected", "packets", samples(misdirected))
                .note("of old sessions, sent to the destination, by the box's counters; `pktgen_misdirected`: from outside"),
            Metric::beside(
                "cutover_1m_dip_percent",
                "% below the median slot",
                dips,
                "itself without cutover",
                undisturbed,
            )
            .note("the slowest 10 ms slot of 600 ms"),
        ],
        curves: Vec::new(),
    })
}

/// Read the box's counters slot by slot while `work` is done.
fn watch<T>(
    api: &mut Api,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Vec<Reading>, T)> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| -> anyhow::Result<Vec<Reading>> {
            let mut readings = Vec::new();
            while !is_done.load(Relaxed) {
                readings.push(Reading::take(|| {
                    let totals = api.totals()?;
                    Ok(totals.to_source + totals.to_destination)
                })?);
                thread::sleep(SLOT);
            }
            Ok(readings)
        });
        let answer = work();
        is_done.store(true, Relaxed);
        let readings = watcher.join().unwrap_or_else(|_| anyhow::bail!("the watcher panicked"));
        Ok((readings?, answer?))
    })
}

/// How far the slowest slot is below the median one.
fn dip_percent(readings: &[Reading]) -> f64 {
    let slots = readings.windows(2).map(|pair| {
        (pair[1].packets - pair[0].packets) as f64 / (pair[1].tsc - pair[0].tsc) as f64
    });
    let rates: Samples = slots.collect();
    (1.0 - rates.min() / rates.median()) * 100.0
}
