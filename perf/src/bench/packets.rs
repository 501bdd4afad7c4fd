//! Packets through the box beside packets through peers.

use super::{Context, Outcome};
use crate::{
    capture::Capture,
    plot::Curve,
    result::Metric,
    runner::{Measured, Plan, alternate},
    subject::{
        Feed, Subject,
        nftables::Nftables,
        openvswitch::OpenVSwitch,
        testpmd::Testpmd,
        tidegated::{Setup, Tidegated},
    },
};

/// Where testpmd sends what it received.
pub(super) const NOWHERE: &str = "net_null0,no-rx=1";
/// Sessions where a peer's own buffers allow no more.
pub(super) const SESSIONS: u32 = 200_000;
/// A million, as targets mean it.
const MILLION: u32 = 1_000_000;
/// Sizes of the curve.
const SIZES: [u32; 6] = [1_000, 10_000, 65_536, SESSIONS, 500_000, MILLION];

/// Beside testpmd.
pub(super) fn testpmd(context: &Context) -> anyhow::Result<Outcome> {
    let feed = context.feed(&Capture::established(SESSIONS))?;
    let mut floor = started(Testpmd::start("5tswap", &feed, NOWHERE)?)?;
    let mut simplest = started(Testpmd::start("macswap", &feed, NOWHERE)?)?;
    let mut ours = started(Tidegated::start(&Setup::one_worker(&feed))?)?;
    let measured = alternate(&context.plan(), &mut [&mut ours, &mut floor, &mut simplest])?;
    let [ours, floor, simplest] = three(measured)?;
    Ok(Outcome {
        metrics: vec![
            Metric::beside(
                "packet_cycles_vs_5tswap",
                "TSC ticks per packet",
                ours.cycles.clone(),
                "testpmd 5tswap",
                floor.cycles,
            ),
            Metric::beside(
                "packet_cycles_vs_macswap",
                "TSC ticks per packet",
                ours.cycles,
                "testpmd macswap",
                simplest.cycles,
            ),
        ],
        curves: Vec::new(),
    })
}

/// Beside Open vSwitch.
pub(super) fn openvswitch(context: &Context) -> anyhow::Result<Outcome> {
    let feed = context.feed(&Capture::established(SESSIONS))?;
    let mut theirs = started(OpenVSwitch::start(&feed)?)?;
    let name = "Open vSwitch ct(nat)";
    throughput(context, "throughput_vs_ovs_ct_nat", name, &feed, &mut theirs)
}

/// Beside the kernel.
pub(super) fn nftables(context: &Context) -> anyhow::Result<Outcome> {
    let feed = context.feed(&Capture::established(SESSIONS))?;
    let mut theirs = started(Nftables::start(&feed)?)?;
    let name = "nftables dnat over veth, its sender on the same CPU";
    throughput(context, "throughput_vs_nftables", name, &feed, &mut theirs)
}

fn throughput(
    context: &Context,
    metric: &'static str,
    name: &'static str,
    feed: &Feed,
    theirs: &mut dyn Subject,
) -> anyhow::Result<Outcome> {
    let mut ours = started(Tidegated::start(&Setup::one_worker(feed))?)?;
    let measured = alternate(&context.plan(), &mut [&mut ours, theirs])?;
    let [ours, theirs] = two(measured)?;
    let metric = Metric::beside(metric, "packets per second", ours.rate, name, theirs.rate);
    Ok(Outcome { metrics: vec![metric], curves: Vec::new() })
}

/// Over the number of sessions.
pub(super) fn curve(context: &Context) -> anyhow::Result<Outcome> {
    let curve = |subject: &str| Curve {
        plot: "packet-cycles",
        subject: subject.to_owned(),
        unit: "TSC ticks per packet",
        points: Vec::new(),
    };
    let mut curves = vec![curve("tidegated"), curve("testpmd 5tswap")];
    let mut metrics = Vec::new();
    for sessions in SIZES {
        eprintln!("  {sessions} sessions");
        let feed = context.feed(&Capture::established(sessions))?;
        let mut theirs = started(Testpmd::start("5tswap", &feed, NOWHERE)?)?;
        let mut ours = started(Tidegated::start(&Setup::one_worker(&feed))?)?;
        let all = context.plan();
        let plan = if sessions == MILLION { all } else { Plan { runs: all.runs.min(3), ..all } };
        let [ours, theirs] = two(alternate(&plan, &mut [&mut ours, &mut theirs])?)?;
        curves[0].points.push((sessions, ours.cycles.median()));
        curves[1].points.push((sessions, theirs.cycles.median()));
        if sessions == MILLION {
            let unit = "TSC ticks per packet";
            let versus = "testpmd 5tswap";
            metrics.push(
                Metric::beside("packet_tsc_1m", unit, ours.cycles, versus, theirs.cycles)
                    .note("every session once per round, shuffled; all hits"),
            );
        }
    }
    Ok(Outcome { metrics, curves })
}

/// Stand still until it is its turn.
pub(super) fn started<S: Subject>(mut subject: S) -> anyhow::Result<S> {
    subject.pause()?;
    Ok(subject)
}

pub(super) fn two(measured: Vec<Measured>) -> anyhow::Result<[Measured; 2]> {
    measured.try_into().map_err(|_| anyhow::anyhow!("two subjects, two answers"))
}

fn three(measured: Vec<Measured>) -> anyhow::Result<[Measured; 3]> {
    measured.try_into().map_err(|_| anyhow::anyhow!("three subjects, three answers"))
}
