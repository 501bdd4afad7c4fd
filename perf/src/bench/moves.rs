//! A whole move of a guest that rewrites its memory: ours, by `mirror`, beside QEMU's pre-copy.
//!
//! Both end with the guest running at the destination with all of its memory, and both have the same cap. Ours is driven as the
//! manager does it, through two hosts' APIs; no session has to be waited for between copy and finish.

use tidegate_api::host::CaptureWay;

use super::{Context, Outcome};
use crate::{
    engine::{
        guest::Workload,
        hostd::{Hosts, Limits},
        precopy,
    },
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
};

/// Bytes per second.
const CAP: u64 = 128 << 20;
/// A move takes half a minute.
const MOST_RUNS: usize = 3;
/// Little is changed, and much has to be moved.
pub(super) const QUIET: Workload =
    Workload { memory_mib: 1024, rewritten_mib: 1, rest_ms: 1000, filled_mib: 512 };
const VERSUS: &str = "QEMU's pre-copy, auto-converge";

#[derive(Default)]
struct Figures {
    bytes: Samples,
    total_ms: Samples,
    /// Pre-copy's downtime; ours at T0.
    pause_ms: Samples,
    /// Ours alone.
    final_pause_ms: Samples,
    longest_pause_ms: Samples,
    /// The longest time in which nothing was heard of the guest; ours until it stood for its image.
    t0_silence_ms: Samples,
    silence_ms: Samples,
    lost_ms: Samples,
}

pub(super) fn busy(context: &Context) -> anyhow::Result<Outcome> {
    let [ours, theirs] = measure(context, &Workload::BUSY, Some(CAP))?;
    let ms = |name, ours: Samples| {
        Metric::beside(name, "ms", ours, VERSUS, theirs.pause_ms.clone()).peer_first()
    };
    let heard = |name, ours: Samples, theirs: &Samples| {
        Metric::beside(name, "ms", ours, VERSUS, theirs.clone()).peer_first()
    };
    Ok(Outcome {
        metrics: vec![
            Metric::beside(
                "precopy_bytes_vs_ours",
                "bytes sent",
                ours.bytes,
                VERSUS,
                theirs.bytes.clone(),
            )
            .peer_first()
            .note("1 GiB, 256 MiB of it rewritten without rest, 128 MiB/s; ours: RAM as of T0 once, then the difference"),
            Metric::beside("precopy_time_vs_ours", "ms", ours.total_ms, VERSUS, theirs.total_ms)
                .peer_first()
                .note("from the order until the destination runs with all memory; ours: capture, copy, image diff, apply"),
            ms("precopy_downtime_vs_our_pause", ours.longest_pause_ms)
                .note("ours: the longest of both pauses of this move, which are the next two"),
            ms("precopy_downtime_vs_our_t0_pause", ours.pause_ms)
                .note("the source stands while T0 is taken, by the way that the host chooses: stop-and-copy where the guest changes so much that its last pass would be longer"),
            ms("precopy_downtime_vs_mirror_stop", ours.final_pause_ms)
                .note("neither runs: image diff on its way without a cap, device state, digest of all RAM"),
            heard("precopy_silence_vs_our_t0_silence", ours.t0_silence_ms, &theirs.silence_ms)
                .note("the longest time in which nothing was heard of the guest, a brake's included; ours until it stood for its image: all there is by `none` and `merge`"),
            heard("precopy_silence_vs_ours", ours.silence_ms, &theirs.silence_ms)
                .note("the same, ours to the end of `mirror`"),
            heard("precopy_lost_time_vs_ours", ours.lost_ms, &theirs.lost_ms)
                .note("all time in which nothing was heard of the guest for more than 20 ms; it says something every 5 ms"),
        ],
        curves: Vec::new(),
    })
}

/// Where pre-copy is as good, or better.
pub(super) fn quiet(context: &Context) -> anyhow::Result<Outcome> {
    let [ours, theirs] = measure(context, &QUIET, None)?;
    let metric =
        |name, unit, ours, theirs| Metric::beside(name, unit, ours, VERSUS, theirs).peer_first();
    Ok(Outcome {
        metrics: vec![
            metric("precopy_quiet_bytes_vs_ours", "bytes sent", ours.bytes, theirs.bytes)
                .note("for information: 1 GiB, 512 MiB of it data, 1 MiB rewritten every second, loopback without a cap"),
            metric("precopy_quiet_time_vs_ours", "ms", ours.total_ms, theirs.total_ms)
                .note("for information: here pre-copy converges in its second pass; ours also captures a twin and digests all RAM"),
            metric("precopy_quiet_downtime_vs_ours", "ms", ours.longest_pause_ms, theirs.pause_ms)
                .note("for information"),
        ],
        curves: Vec::new(),
    })
}

fn measure(
    context: &Context,
    workload: &Workload,
    cap: Option<u64>,
) -> anyhow::Result<[Figures; 2]> {
    on_all_cpus(context.machine.cpus, || {
        let [mut ours, mut theirs]: [Figures; 2] = Default::default();
        let runs = context.runs.min(MOST_RUNS);
        for run in 1..=runs {
            let moved = precopy::migrate(workload, cap)?;
            eprintln!("  run {run}/{runs}: {moved:?}");
            theirs.bytes.push(moved.bytes);
            theirs.total_ms.push(moved.total_ms);
            theirs.pause_ms.push(moved.downtime_ms);
            theirs.silence_ms.push(moved.silence_ms);
            theirs.lost_ms.push(moved.lost_ms);
            let moved = Hosts::start(workload, Limits { cap, ..Limits::default() })?
                .mirror(CaptureWay::Unspecified)?;
            eprintln!("  run {run}/{runs}: {moved:?}");
            ours.bytes.push(moved.bytes);
            ours.total_ms.push(moved.total_ms);
            ours.pause_ms.push(moved.t0_pause_ms);
            ours.final_pause_ms.push(moved.final_pause_ms);
            ours.longest_pause_ms.push(moved.t0_pause_ms.max(moved.final_pause_ms));
            let [until_then, in_all] = moved.silences_ms;
            ours.t0_silence_ms.push(until_then);
            ours.silence_ms.push(in_all);
            ours.lost_ms.push(moved.lost_ms);
        }
        Ok([ours, theirs])
    })
}
