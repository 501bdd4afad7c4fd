//! Two workers beside one.
//!
//! Which shard a session belongs to is a secret of the process, so no capture can be divided beforehand: through ports,
//! half the packets cross the ring between the workers. Without the ring, two shards in memory are each fed their own.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    pipeline::{BURST, ShardSelector},
    steering::Timeouts,
};

use super::{Context, Outcome};
use crate::{
    capture::Capture,
    frame,
    machine::{CONTROL_CPU, WORKER_CPU, on_cpu},
    memory::shard::Bench,
    random::Random,
    result::Metric,
    runner::alternate,
    samples::Samples,
    subject::{
        Subject as _,
        tidegated::{Setup, Tidegated},
    },
};

/// Of each worker.
const SESSIONS: u32 = 200_000;
const CPUS: [usize; 2] = [WORKER_CPU, CONTROL_CPU];

/// Two shards in memory.
pub(super) fn in_memory(context: &Context) -> anyhow::Result<Outcome> {
    let selector = ShardSelector::new(2);
    let (mut two, mut one) = (Samples::default(), Samples::default());
    for _ in 0..context.runs {
        one.push(together(&selector, &CPUS[..1], context.window / 2)?);
        two.push(together(&selector, &CPUS, context.window / 2)?);
    }
    let unit = "packets per second";
    let metric = Metric::beside("two_workers_vs_one", unit, two, "one worker", one)
        .note("two shards in memory, each fed its own sessions: no ring in use");
    Ok(Outcome { metrics: vec![metric], curves: Vec::new() })
}

/// Packets per second of a shard on each of these CPUs, at the same time.
fn together(selector: &ShardSelector, cpus: &[usize], window: Duration) -> anyhow::Result<f64> {
    let start = Barrier::new(cpus.len());
    thread::scope(|scope| {
        let running: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(number, &cpu)| {
                let (start, selector) = (&start, selector.clone());
                scope.spawn(move || {
                    on_cpu(cpu, || {
                        let filled = Fed::new(number as u16, selector);
                        // All must get here, also when one has failed.
                        start.wait();
                        filled?.rate(window)
                    })
                })
            })
            .collect();
        let rates = running.into_iter().map(|running| {
            running.join().unwrap_or_else(|_| anyhow::bail!("a worker's thread panicked"))
        });
        rates.sum()
    })
}

/// A shard and the clients whose sessions it has.
struct Fed {
    bench: Bench,
    clients: Vec<u32>,
}

impl Fed {
    fn new(number: u16, selector: ShardSelector) -> anyhow::Result<Self> {
        let is_own = |&client: &u32| {
            let (address, port) = frame::client(client);
            selector.shard(address, port) == number
        };
        let clients: Vec<_> = (0..u32::MAX).filter(is_own).take(SESSIONS as usize).collect();
        let mut bench = Bench::one_of(number, selector.clone(), SESSIONS, Timeouts::default())?;
        bench.fill(clients.iter().copied())?;
        Ok(Self { bench, clients })
    }

    fn rate(&mut self, window: Duration) -> anyhow::Result<f64> {
        let mut random = Random::new(3);
        let started = Instant::now();
        let mut packets = 0u64;
        while started.elapsed() < window {
            for _ in 0..256 {
                let burst = std::array::from_fn(|_| self.clients[random.below(SESSIONS) as usize]);
                self.bench.segments(&burst);
                packets += BURST as u64;
            }
            self.bench.sent()?;
        }
        Ok(packets as f64 / started.elapsed().as_secs_f64())
    }
}

/// Two workers of a box.
pub(super) fn with_ring(context: &Context) -> anyhow::Result<Outcome> {
    let first = context.feed(&Capture::established(SESSIONS))?;
    let capture = Capture { first: SESSIONS, ..Capture::established(SESSIONS) };
    let second = context.feed(&capture)?;
    let mut one = Tidegated::start(&Setup::one_worker(&first))?;
    one.pause()?;
    let setup = Setup { captures: vec![first, second], cpus: CPUS.to_vec() };
    let mut two = Tidegated::start(&setup)?;
    two.pause()?;
    let measured = alternate(&context.plan(), &mut [&mut two, &mut one])?;
    let unit = "packets per second";
    let (two, one) = (measured[0].rate.clone(), measured[1].rate.clone());
    let metric = Metric::beside("two_workers_ring_vs_one", unit, two, "one worker", one).note(
        "tidegated; half the packets cross the ring, those it has no room for are not counted; the second worker shares its CPU with everything else",
    );
    Ok(Outcome { metrics: vec![metric], curves: Vec::new() })
}
