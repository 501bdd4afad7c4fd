//! Old sessions while a flood takes all the time the worker has: SYNs of spoofed clients, datagrams to the service, pings
//! and ICMP errors, each at full speed. None of them may be lost, nor wait for more than one burst of the flood.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tidegate_api::switch::PortRole;
use tidegate_lab::process::wait_until;
use tidegate_pktgen::Report;

use super::{
    Context, Outcome,
    latency::{AGAIN, LEAST_RATE, undisturbed},
};
use crate::{
    capture::{Capture, Transport},
    result::Metric,
    samples::Samples,
    subject::{
        Feed,
        api::{FLOOD, Totals},
        pktgen::{Between, Pktgen, Traffic},
        tidegated::Tidegated,
        wires::{Room, Wires},
    },
};

/// Packets the worker takes from a port at once: what an old session's packet may have to wait for.
const BURST: f64 = 64.0;
/// The flood's clients come after all of the generator's.
const FIRST: u32 = 1 << 24;
/// Port of the destination, where the flood goes.
const SINK: &str = "sink";
/// The box allocates for its API while it is asked for counters.
const MOST_GROWN_KIB: u64 = 1024;
/// A hundred thousand old sessions, at a rate the generator keeps beside all else.
const SIZE: Size = Size {
    sessions: 100_000,
    rate: 500_000,
    clients: 262_144,
    measure: Duration::from_secs(2),
    warm_up: Duration::from_secs(4),
};

/// A kind of flood.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Its name.
    pub name: &'static str,
    /// What it is made of.
    pub transport: Transport,
    /// Names of its metrics: waits in bursts, half and 99 % of packets.
    metrics: [&'static str; 2],
}

/// All kinds.
pub const FLOODS: [Flood; 3] = [
    Flood {
        name: "SYN",
        transport: Transport::Tcp,
        metrics: ["flood_syn_wait_bursts", "flood_syn_wait_p99_bursts"],
    },
    Flood {
        name: "UDP",
        transport: Transport::Udp,
        metrics: ["flood_udp_wait_bursts", "flood_udp_wait_p99_bursts"],
    },
    Flood {
        name: "ICMP",
        transport: Transport::Icmp,
        metrics: ["flood_icmp_wait_bursts", "flood_icmp_wait_p99_bursts"],
    },
];

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Old sessions.
    pub sessions: u32,
    /// Their packets per second, both directions together.
    pub rate: u32,
    /// Spoofed clients: more than may be half open, so that each comes as a new one whenever it comes.
    pub clients: u32,
    /// How long latencies are recorded.
    pub measure: Duration,
    /// Before that; the flood must have begun within it.
    pub warm_up: Duration,
}

impl Size {
    /// Of the box: twice as many sessions as there are old ones.
    fn room(&self, flood: Option<&Feed>) -> Room {
        let packets = flood.map_or(0, Feed::mbufs);
        Room { packets, ..Room::of(2 * self.sessions) }
    }

    fn traffic(&self) -> Traffic {
        let Self { sessions, rate, measure, warm_up, .. } = *self;
        Traffic { sessions, churn: 0, rate, measure, warm_up }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What the generator found of the old sessions.
    pub report: Report,
    /// Packets of the flood that the worker took in a second.
    pub flood_pps: f64,
    /// Counters when latencies began to be recorded.
    first: Totals,
    /// Counters when they were.
    last: Totals,
    /// By how much the box's memory grew between, KiB.
    grown_kib: u64,
}

impl Found {
    /// Whether the flood was what it is meant to be, and has taken no more room than it may.
    fn check(&self, size: &Size, flood: Option<Flood>) -> anyhow::Result<()> {
        let Self { first, last, .. } = self;
        let begun = last.sessions.saturating_sub(size.sessions.into());
        let quota = u64::from(size.room(None).sessions / 4);
        anyhow::ensure!(
            begun <= quota,
            "the flood has {begun} sessions, of a quota of {quota}: {self:?}"
        );
        anyhow::ensure!(
            self.grown_kib <= MOST_GROWN_KIB,
            "the box has grown by {} KiB during the flood",
            self.grown_kib
        );
        let Some(flood) = flood else { return Ok(()) };
        let came = last.flood - first.flood;
        let refused = |totals: &Totals| totals.evicted + totals.refused;
        let refused = refused(last) - refused(first);
        anyhow::ensure!(
            came > 0 && refused >= came - came / 10,
            "{came} packets of the {} flood came, and only {refused} are said to have come to nothing: {self:?}",
            flood.name
        );
        Ok(())
    }
}

/// The waits of one kind of flood, a number for each run.
#[derive(Default)]
struct Waits {
    half: Samples,
    most: Samples,
    mpps: Samples,
}

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let mut waits = FLOODS.map(|_| Waits::default());
    let (mut lost, mut again) = (Samples::default(), 0);
    let mut measure = |flood: Option<Flood>| {
        let once = || old_sessions(context, &SIZE, flood);
        undisturbed(SIZE.measure, &mut again, |found: &Found| &found.report, once)
    };
    for run in 1..=context.runs {
        eprintln!("  run {run}/{}: no flood", context.runs);
        let quiet = measure(None)?.report.latency.all;
        for (flood, waits) in FLOODS.iter().zip(&mut waits) {
            eprintln!("  run {run}/{}: {} flood", context.runs, flood.name);
            let found = measure(Some(*flood))?;
            let burst_us = BURST / found.flood_pps * 1e6;
            let latency = found.report.latency.all;
            waits.half.push((latency.p50_us - quiet.p50_us) / burst_us);
            waits.most.push((latency.p99_us - quiet.p99_us) / burst_us);
            waits.mpps.push(found.flood_pps / 1e6);
            lost.push(found.report.lost() as f64);
        }
    }
    let mut metrics = Vec::new();
    for (flood, Waits { half, most, mpps }) in FLOODS.iter().zip(waits) {
        let note = format!("beside {:.1} million packets a second", mpps.median());
        let [of_half, of_most] = flood.metrics;
        metrics.push(Metric::alone(of_half, "bursts", half).note(note.clone()));
        metrics.push(Metric::alone(of_most, "bursts", most).note(note));
    }
    let note = format!("of old sessions; {again} windows were measured again");
    metrics.push(Metric::alone("flood_lost", "packets", lost).note(note));
    Ok(Outcome { metrics, curves: Vec::new() })
}

/// The generator was kept from its CPU: what it saw tells nothing of the box.
#[derive(Debug)]
struct Slow {
    percent: f64,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the generator kept {:.0} % of its rate", self.percent)
    }
}

impl std::error::Error for Slow {}

/// Sessions from their first packet to their last, all of them made old by a cutover; the flood comes before latencies are
/// recorded and stays until the box says that the source is drained. Again, a few times, while the generator is too slow.
///
/// # Errors
/// When a packet of theirs is lost or wrong, the box loses count of its packets, or it has no bounds.
pub fn old_sessions(context: &Context, size: &Size, flood: Option<Flood>) -> anyhow::Result<Found> {
    for _ in 0..AGAIN {
        match once(context, size, flood) {
            Err(error) if error.is::<Slow>() => eprintln!("  {error}: again"),
            found => return found,
        }
    }
    once(context, size, flood)
}

fn once(context: &Context, size: &Size, flood: Option<Flood>) -> anyhow::Result<Found> {
    let wires = Wires::new(&context.dir)?;
    let feed = flood.map(|it| context.feed(&Capture::flood(it.transport, FIRST, size.clients)));
    let feed = feed.transpose()?;
    let mut switch = Tidegated::on_wires(&wires, &size.room(feed.as_ref()))?;
    let mut generator = Pktgen::start(&wires, &size.traffic(), Between::Nat, &context.machine)?;
    generator.says("warm-up")?;
    // Nobody is there: what the flood begins does not come back.
    switch.api.add_port(SINK, "net_null0,no-rx=1", PortRole::Access)?;
    switch.api.prepare_cutover(SINK)?;
    let old = switch.api.cutover()?.old_sessions;
    anyhow::ensure!(old == u64::from(size.sessions), "{old} old sessions, not {}", size.sessions);
    if let Some(feed) = &feed {
        switch.api.add_port(FLOOD, &feed.device(), PortRole::Uplink)?;
    }
    anyhow::ensure!(!generator.has_said("measuring"), "the flood began too late: warm up longer");
    generator.says("measuring")?;
    let before = Instant::now();
    let (first, resident) = (switch.api.totals()?, switch.resident_kib()?);
    generator.says("closing")?;
    let last = switch.api.totals()?;
    let seconds = before.elapsed().as_secs_f64();
    let grown_kib = switch.resident_kib()?.saturating_sub(resident);
    let report = generator.end()?;
    eprintln!("{report}");
    anyhow::ensure!(report.is_clean(), "old sessions lost packets, or had wrong ones:\n{report}");
    let rate = report.poller.rate_pps / f64::from(size.rate);
    anyhow::ensure!(rate > LEAST_RATE, Slow { percent: 100.0 * rate });
    wait_until("the source drained", Duration::from_secs(10), || {
        Ok(switch.api.is_drained()?.then_some(()))
    })?;
    if feed.is_some() {
        switch.api.remove_port(FLOOD)?;
    }
    wait_until("every packet came to its end", Duration::from_secs(10), || {
        let totals = switch.api.totals()?;
        Ok((totals.received == totals.ended).then_some(()))
    })?;
    let found = Found {
        report,
        flood_pps: (last.flood - first.flood) as f64 / seconds,
        first,
        last,
        grown_kib,
    };
    found.check(size, flood)?;
    Ok(found)
}
