//! Looking for what changed, beside `memcmp`.

use std::{
    io,
    time::{Duration, Instant},
};

use tidegate_memory::{
    Mapping, Object, ObjectKind, PageHashes, image_diff,
    scan::{Compared, Twin},
};

use super::{Context, Outcome};
use crate::{
    engine::{Place, memcmp, memory},
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
};

/// Of each side: many times the last-level cache.
const SIZE_BYTES: u64 = 512 << 20;
/// What the engine uses at most.
const MOST_THREADS: usize = 4;

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    on_all_cpus(context.machine.cpus, || measure(context))
}

fn measure(context: &Context) -> anyhow::Result<Outcome> {
    let place = Place::new("scan")?;
    let now = memory::noise(&place.dir().join("now"), SIZE_BYTES, 1)?;
    let twin = memory::noise(&place.dir().join("twin"), SIZE_BYTES, 1)?;
    let hashes = PageHashes::of(&now)?;
    let threads = context.machine.cpus.min(MOST_THREADS);
    let window = context.window / 4;
    let [mut bytes, mut hashed, mut floor]: [Samples; 3] = Default::default();
    for run in 0..=context.runs {
        let rates = [
            rate(window, || found(&now, Twin::Bytes(&twin)))?,
            rate(window, || found(&now, Twin::Hashes(&hashes)))?,
            rate(window, || memcmp::compare(&now, &twin, threads))?,
        ];
        // The first round warms up.
        if run > 0 {
            let samples = [&mut bytes, &mut hashed, &mut floor];
            samples.into_iter().zip(rates).for_each(|(samples, rate)| samples.push(rate));
        }
    }
    let unit = "bytes of one side per second";
    let versus = "memcmp of the same memory";
    let note = format!("512 MiB on a tmpfs and its twin, nothing changed, {threads} threads each");
    Ok(Outcome {
        metrics: vec![
            Metric::beside("diff_scan_vs_memcmp", unit, bytes, versus, floor.clone()).note(note),
            Metric::beside("hash_scan_vs_memcmp", unit, hashed, versus, floor)
                .note("the twin is a hash for each page: one side is read, and hashed"),
        ],
        curves: Vec::new(),
    })
}

/// Have an image diff made; nothing must be in it.
fn found(now: &Mapping, twin: Twin<'_>) -> anyhow::Result<()> {
    let object = Object { kind: ObjectKind::Ram, size_bytes: SIZE_BYTES };
    let figures = image_diff::write(io::sink(), &[Compared { object, twin, now }])?;
    let changed: u64 = figures.iter().map(|each| each.changed_bytes).sum();
    anyhow::ensure!(changed == 0, "{changed} bytes are said to have changed");
    Ok(())
}

/// Bytes per second, by as many scans as a window has, at least one.
fn rate(window: Duration, mut scan: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut scans = 0;
    while scans == 0 || started.elapsed() < window {
        scan()?;
        scans += 1;
    }
    Ok(f64::from(scans) * SIZE_BYTES as f64 / started.elapsed().as_secs_f64())
}
