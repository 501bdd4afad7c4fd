//! Other traffic than one small segment of each session: draws, SYNs and FINs, UDP, IPv6, sizes. For information.
//!
//! Captures hold clients' packets only and come round in milliseconds, so a FIN puts its session into closing, where
//! it stays, and a SYN finds its session there: none begins or ends while packets are counted, which
//! [`Tidegated`] verifies as always. New sessions have benches of their own.

use super::{
    Context, Outcome,
    packets::{NOWHERE, SESSIONS, started, two},
};
use crate::{
    capture::{Capture, Order, Sizes, Transport},
    frame::{Family, Kind},
    result::Metric,
    runner::alternate,
    subject::{
        testpmd::Testpmd,
        tidegated::{Setup, Tidegated},
    },
};

/// Packets that are drawn: twice as many as sessions.
const DRAWN: u32 = 2 * SESSIONS;

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let all = Capture::established(SESSIONS);
    let drawn = Capture { order: Order::Uniform, packets: DRAWN, ..all };
    let mixes = [
        ("packet_cycles_uniform_vs_5tswap", drawn),
        ("packet_cycles_zipf_vs_5tswap", Capture { order: Order::Zipf, ..drawn }),
        ("packet_cycles_syn_fin_vs_5tswap", Capture { syn_share: 0.01, fin_share: 0.01, ..drawn }),
        ("packet_cycles_udp_vs_5tswap", Capture { transport: Transport::Udp, ..all }),
        ("packet_cycles_v6_vs_5tswap", in_v6(all)),
        ("packet_cycles_1514_vs_5tswap", Capture { sizes: Sizes::All(1514), ..all }),
        ("packet_cycles_imix_vs_5tswap", Capture { sizes: Sizes::Imix, ..all }),
    ];
    let metrics = mixes.iter().map(|(name, capture)| beside_testpmd(context, name, capture));
    Ok(Outcome { metrics: metrics.collect::<Result<_, _>>()?, curves: Vec::new() })
}

/// The same over IPv6, whose frames are larger.
fn in_v6(capture: Capture) -> Capture {
    let sizes = Sizes::All(Family::V6.smallest(Kind::ACK));
    Capture { family: Family::V6, sizes, ..capture }
}

fn beside_testpmd(
    context: &Context,
    name: &'static str,
    capture: &Capture,
) -> anyhow::Result<Metric> {
    eprintln!("  {name}");
    let feed = context.feed(capture)?;
    let mut floor = started(Testpmd::start("5tswap", &feed, NOWHERE)?)?;
    let mut ours = started(Tidegated::start(&Setup::one_worker(&feed))?)?;
    let [ours, floor] = two(alternate(&context.plan(), &mut [&mut ours, &mut floor])?)?;
    let unit = "TSC ticks per packet";
    let note = format!("{} packets of {} sessions", feed.packets, feed.sessions);
    Ok(Metric::beside(name, unit, ours.cycles, "testpmd 5tswap", floor.cycles).note(note))
}
