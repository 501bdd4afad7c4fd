//! Memory the engine takes while it moves a guest.

use tidegate_api::host::CaptureWay;

use super::{Context, Outcome, moves::QUIET};
use crate::{
    engine::{
        footprint::peak,
        hostd::{Hosts, Limits},
    },
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
};

/// Memory taken is hardly ever different.
const MOST_RUNS: usize = 3;

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut ours = Samples::default();
    on_all_cpus(context.machine.cpus, || {
        for _ in 0..context.runs.min(MOST_RUNS) {
            // As little as there can be: hashes.
            let limits = Limits { twin_memory_bytes: Some(0), ..Limits::default() };
            let hosts = Hosts::start(&QUIET, limits)?;
            let watched = hosts.watched();
            let (_, most) = peak(&watched, || hosts.mirror(CaptureWay::Passes))?;
            eprintln!("  source's host {} MiB, destination's {} MiB", most[0] >> 20, most[1] >> 20);
            ours.push(most.into_iter().max().unwrap_or(0) as f64);
        }
        Ok(())
    })?;
    let ram = Samples::from_iter([QUIET.memory_bytes() as f64]);
    let note = "a move by mirror; the larger of both hosts: the daemon's own memory (RssAnon) and all its files on the tmpfs \
                but guests' RAM, what is kept of the twin among them, at the worst moment; twin_memory_bytes is 0";
    let metric = Metric::beside("engine_memory_vs_ram", "bytes", ours, "the guest's RAM", ram);
    Ok(Outcome { metrics: vec![metric.note(note)], curves: Vec::new() })
}
