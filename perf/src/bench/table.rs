//! The session table alone, beside others.

use std::time::Instant;

use tidegate_dpdk::Eal;

use super::{Context, Outcome};
use crate::{
    machine::{WORKER_CPU, on_cpu},
    memory::{
        churn, lookup,
        tables::{Hashbrown, Ours, RteHash, Table},
    },
    plot::Curve,
    result::Metric,
    samples::Samples,
};

const SIZES: [u32; 6] = [1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 23, 1 << 24];
/// What metrics are about: many times the last-level cache.
const LARGE: u32 = 1 << 23;
/// Subjects, in the order they take turns.
const NAMES: [&str; 3] = ["tidegate", "rte_hash_lookup_bulk", "hashbrown+ahash"];

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    on_cpu(WORKER_CPU, || {
        // Its thread becomes DPDK's first lcore, which stays where it is.
        let lcore = format!("--lcores=0@{WORKER_CPU}");
        let eal = Eal::init(["bench", &lcore, "--in-memory", "--no-pci", "--no-telemetry"])?;
        let outcome = measure(context, &eal)?;
        eal.cleanup()?;
        Ok(outcome)
    })
}

fn measure(context: &Context, eal: &Eal) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for plot in ["lookup-hit", "lookup-miss"] {
        outcome.curves.extend(NAMES.map(|name| Curve {
            plot,
            subject: name.to_owned(),
            unit: "ns per lookup",
            points: Vec::new(),
        }));
    }
    let mut inserted = Samples::default();
    for sessions in SIZES {
        eprintln!("  {sessions} sessions");
        let started = Instant::now();
        let mut ours = Ours::filled(sessions)?;
        if sessions == LARGE {
            inserted.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(sessions));
        }
        let mut rte_hash = RteHash::filled(eal, sessions)?;
        let mut hashbrown = Hashbrown::filled(sessions);
        let mut tables: [&mut dyn Table; 3] = [&mut ours, &mut rte_hash, &mut hashbrown];
        let (runs, window) = (context.runs, context.window / 4);
        let hits = lookup::alternate(&mut tables, runs, window, 0, sessions, true)?;
        let misses = lookup::alternate(&mut tables, runs, window, sessions, sessions, false)?;
        for (curve, rates) in outcome.curves.iter_mut().zip(hits.iter().chain(&misses)) {
            curve.points.push((sessions, 1e9 / rates.median()));
        }
        if sessions == LARGE {
            outcome.metrics = lookups(&hits, &misses);
            let rates = churn::alternate(&mut tables, runs, window, sessions)?;
            outcome.metrics.extend(churns(&rates));
        }
    }
    outcome.metrics.push(
        Metric::alone("table_insert_ns", "ns per session", inserted)
            .note("filling a fresh table with 8 M, its memory's first touch included"),
    );
    outcome.metrics.push(bytes()?);
    Ok(outcome)
}

fn lookups(hits: &[Samples], misses: &[Samples]) -> Vec<Metric> {
    let [ours, rte_hash, hashbrown] = [0, 1, 2];
    let metric = |name, rates: &[Samples], peer: usize| {
        let (ours, theirs) = (rates[ours].clone(), rates[peer].clone());
        Metric::beside(name, "lookups per second", ours, NAMES[peer], theirs)
            .note("8 M sessions; ours and hashbrown's read the session, rte_hash's only its number")
    };
    vec![
        metric("lookup_vs_rte_hash", hits, rte_hash),
        metric("lookup_miss_vs_rte_hash", misses, rte_hash),
        metric("lookup_vs_hashbrown", hits, hashbrown),
        metric("lookup_miss_vs_hashbrown", misses, hashbrown),
    ]
}

fn churns(rates: &[Samples]) -> [Metric; 2] {
    let peers = [("rte_hash", "table_churn_vs_rte_hash"), (NAMES[2], "table_churn_vs_hashbrown")];
    [0, 1].map(|at| {
        let ((peer, name), unit) = (peers[at], "sessions ended and begun per second");
        Metric::beside(name, unit, rates[0].clone(), peer, rates[at + 1].clone())
            .note("8 M sessions; the oldest end, in bursts of 64")
    })
}

/// Of a table of any size: its buckets are as many as it needs.
fn bytes() -> anyhow::Result<Metric> {
    const SESSIONS: u32 = 16 << 20;
    let bytes = Ours::empty(SESSIONS)?.bytes();
    let ours = [bytes as f64 / f64::from(SESSIONS)].into_iter().collect();
    let note = format!("16 M sessions in {:.2} GB, 55 % of the places in use", bytes as f64 / 1e9);
    Ok(Metric::alone("bytes_per_session", "bytes", ours).note(note))
}
