//! A shard in memory: what a new session costs, how many can come and go, and millions of them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_dataplane::{
    pipeline::{BURST, ShardSelector},
    steering::Timeouts,
};
use tidegate_dpdk::clock;

use super::{Context, Outcome};
use crate::{
    machine::{WORKER_CPU, on_cpu},
    memory::shard::Bench,
    plot::Curve,
    random::Random,
    result::Metric,
    samples::Samples,
};

const SMALL: u32 = 1 << 16;
const LARGE: u32 = 1 << 23;
const SIZES: [u32; 5] = [SMALL, 1 << 18, 1 << 20, 1 << 22, LARGE];

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    on_cpu(WORKER_CPU, || {
        let mut outcome = sizes(context)?;
        outcome.metrics.push(new_sessions(context).context("new sessions")?);
        outcome.metrics.push(churn(context).context("churn")?);
        Ok(outcome)
    })
}

/// A filled shard and its number of sessions.
struct Filled {
    bench: Bench,
    sessions: u32,
    random: Random,
}

impl Filled {
    fn new(sessions: u32) -> anyhow::Result<Self> {
        let mut bench = Bench::new(sessions)?;
        bench.fill(0..sessions)?;
        Ok(Self { bench, sessions, random: Random::new(1) })
    }

    /// Ticks per packet, uniformly drawn sessions, over a window.
    fn cycles(&mut self, window: Duration) -> anyhow::Result<f64> {
        let (started, from) = (Instant::now(), clock::tsc());
        let mut packets = 0u64;
        while started.elapsed() < window {
            for _ in 0..256 {
                let clients = std::array::from_fn(|_| self.random.below(self.sessions));
                self.bench.segments(&clients);
                packets += BURST as u64;
            }
            self.bench.sent()?;
        }
        Ok((clock::tsc() - from) as f64 / packets as f64)
    }
}

fn sizes(context: &Context) -> anyhow::Result<Outcome> {
    let (runs, window) = (context.runs, context.window / 4);
    let (mut small, mut large) = (Filled::new(SMALL)?, Filled::new(LARGE)?);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..runs {
        for (filled, samples) in [(&mut large, &mut ours), (&mut small, &mut theirs)] {
            filled.cycles(window / 4)?;
            samples.push(filled.cycles(window)?);
        }
    }
    let mut points = Vec::new();
    for sessions in SIZES {
        let cycles = match sessions {
            SMALL => theirs.median(),
            LARGE => ours.median(),
            between => {
                let mut filled = Filled::new(between)?;
                filled.cycles(window / 4)?;
                let windows = (0..runs.min(3)).map(|_| filled.cycles(window));
                windows.collect::<anyhow::Result<Samples>>()?.median()
            }
        };
        points.push((sessions, cycles));
    }
    let (plot, unit) = ("shard-cycles", "TSC ticks per packet");
    let curve = Curve { plot, subject: "shard in memory".to_owned(), unit, points };
    let name = "packet_cycles_8m_vs_64k";
    let metric = Metric::beside(name, unit, ours, "itself with 64 k sessions", theirs).note(
        "the shard alone, frames made in memory, making them included: 8 M buffers of a capture do not fit the rig",
    );
    Ok(Outcome { metrics: vec![metric], curves: vec![curve] })
}

/// SYNs of clients nobody knows, into a table that holds a million already. It has room for 8 M, of which a quarter may be half
/// open: none makes room for another.
fn new_sessions(context: &Context) -> anyhow::Result<Metric> {
    const BEFORE: u32 = 1 << 20;
    const NEW: u32 = 1 << 21;
    const CAPACITY: u32 = 4 * NEW;
    let mut samples = Samples::default();
    for _ in 0..context.runs {
        let mut bench = Bench::new(CAPACITY)?;
        bench.fill(0..BEFORE)?;
        let mut numbers: Vec<u32> = (BEFORE..BEFORE + NEW).collect();
        Random::new(2).shuffle(&mut numbers);
        let started = Instant::now();
        for burst in numbers.as_chunks::<BURST>().0 {
            bench.syns(burst);
            bench.sent()?;
        }
        samples.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(NEW));
        let sessions = bench.sessions();
        anyhow::ensure!(sessions == u64::from(BEFORE + NEW), "{sessions} sessions begun");
    }
    let note = "the shard alone: a SYN's whole way, its session begun and counted; 1 M to 3 M sessions in a table for 8 M";
    Ok(Metric::alone("new_session_ns", "ns per new session", samples).note(note))
}

/// New sessions as fast as they can be taken in while old ones expire.
fn churn(context: &Context) -> anyhow::Result<Metric> {
    const LIFE_MS: u64 = 50;
    const CAPACITY: u32 = 1 << 22;
    /// What a worker looks at in a round besides what new sessions call for.
    const SWEPT: u32 = 4;
    let timeouts = Timeouts { tcp_syn_ms: LIFE_MS, ..Timeouts::default() };
    let mut bench = Bench::one_of(0, ShardSelector::new(1), CAPACITY, timeouts)?;
    let mut number = 0u32;
    let mut samples = Samples::default();
    let started = Instant::now();
    // The first window fills the table: it is a warm-up.
    for run in 0..=context.runs {
        let window = Instant::now();
        let mut begun = 0u64;
        while window.elapsed() < context.window / 2 {
            for _ in 0..64 {
                let burst = std::array::from_fn(|at| (number + at as u32) % (1 << 28));
                number = (number + BURST as u32) % (1 << 28);
                bench.syns(&burst);
                bench.sent()?;
                bench.sweep(started.elapsed().as_millis() as u64, SWEPT);
                begun += BURST as u64;
            }
        }
        if run > 0 {
            samples.push(begun as f64 / window.elapsed().as_secs_f64());
        }
    }
    let sessions = bench.sessions();
    let note = format!(
        "the shard alone; sessions of {LIFE_MS} ms, swept as a worker under load does it, {sessions} in the table at the end"
    );
    Ok(Metric::alone("session_churn_per_s", "sessions begun and expired per second", samples)
        .note(note))
}
