//! Latency through the box while everything happens that may disturb it, beside testpmd with nothing to do but forward.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tidegate_pktgen::{Quantiles, Report};

use super::{
    Context, Outcome,
    migration::{RATE, migrate},
};
use crate::{
    result::Metric,
    samples::Samples,
    subject::{
        api::Api,
        pktgen::{Between, Pktgen, Traffic},
        testpmd::Testpmd,
        tidegated::Tidegated,
        wires::Wires,
    },
};

/// Open at a time; as many more linger until they expire as end in a second.
const SESSIONS: u32 = 200_000;
const CHURN: u32 = 20_000;
/// Caches and branch predictors are the subject's by then.
pub(super) const WARM_UP: Duration = Duration::from_millis(500);
/// Between two readings of the counters.
const READING: Duration = Duration::from_millis(1);
/// With the generator standing still for a larger share of the time, the last percent of latencies is mostly its own.
const MOST_STALLED: f64 = 0.005;
/// How often a window in which that happened is measured again.
pub(super) const AGAIN: usize = 4;
/// Of the rate: a subject that keeps up lets the generator keep it.
pub(super) const LEAST_RATE: f64 = 0.95;

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let traffic = Traffic {
        sessions: SESSIONS,
        churn: CHURN,
        rate: RATE,
        measure: context.window,
        warm_up: WARM_UP,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut again = [0, 0];
    let measured = |again: &mut usize, subject: &dyn Fn() -> anyhow::Result<Report>| {
        undisturbed(traffic.measure, again, |report| report, subject)
    };
    for run in 1..=context.runs {
        eprintln!("  run {run}/{}: tidegated", context.runs);
        ours.push(measured(&mut again[0], &|| tidegated(context, &traffic))?);
        eprintln!("  run {run}/{}: testpmd", context.runs);
        theirs.push(measured(&mut again[1], &|| testpmd(context, &traffic))?);
    }
    let samples = |reports: &[Report], of: fn(&Quantiles) -> f64| {
        reports.iter().map(|report| of(&report.latency.all)).collect::<Samples>()
    };
    let metric = |name, of: fn(&Quantiles) -> f64| {
        let versus = "testpmd mac, idle";
        Metric::beside(name, "µs", samples(&ours, of), versus, samples(&theirs, of))
    };
    let note = format!(
        "every packet of a window; {} windows of ours and {} of theirs were measured again, because the generator itself stood still in them",
        again[0], again[1]
    );
    Ok(Outcome {
        metrics: vec![
            metric("latency_p99_vs_testpmd", |it| it.p99_us).note(note),
            metric("latency_p50_vs_testpmd", |it| it.p50_us),
            metric("latency_p999_vs_testpmd", |it| it.p999_us),
        ],
        curves: Vec::new(),
    })
}

/// The box during a cutover, while it lists its sessions again and again and its counters are read.
fn tidegated(context: &Context, traffic: &Traffic) -> anyhow::Result<Report> {
    let done = Arc::new([const { AtomicU64::new(0) }; 2]);
    let report = migrate(context, traffic, |switch| Disturbance::begin(switch, &done))?;
    let [dumps, readings] = [&done[0], &done[1]].map(|it| it.load(Relaxed));
    eprintln!("  meanwhile {dumps} dumps of all sessions, {readings} readings of the counters");
    anyhow::ensure!(dumps > 0 && readings > 0, "nothing disturbed the box");
    anyhow::ensure!(report.is_clean(), "packets were lost or wrong:\n{report}");
    at_rate("tidegated", report, traffic)
}

/// testpmd between the same wires, with the same packets.
fn testpmd(context: &Context, traffic: &Traffic) -> anyhow::Result<Report> {
    let wires = Wires::new(&context.dir)?;
    let _subject = Testpmd::on_wires(&wires)?;
    let generator = Pktgen::start(&wires, traffic, Between::Forwarder, &context.machine)?;
    let report = generator.end()?;
    eprintln!("{report}");
    // It drops what finds a queue full at once; a little of that is its own affair.
    anyhow::ensure!(
        report.faults.total() == 0 && report.lost() < report.to_vm.sent / 1000,
        "testpmd did not forward every packet as it is:\n{report}"
    );
    at_rate("testpmd", report, traffic)
}

/// A window in which the generator did not stand still; the others are counted in `again`.
pub(super) fn undisturbed<T>(
    window: Duration,
    again: &mut usize,
    report: impl Fn(&T) -> &Report,
    mut measure: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    for _ in 0..=AGAIN {
        let found = measure()?;
        let stalled = stalled(report(&found), window);
        if stalled <= MOST_STALLED {
            return Ok(found);
        }
        eprintln!("  the generator stood still for {:.2} % of the time: again", 100.0 * stalled);
        *again += 1;
    }
    anyhow::bail!(
        "the generator stood still in every one of {} windows: the machine is busy",
        AGAIN + 1
    )
}

/// The report, if the generator could keep its rate.
fn at_rate(subject: &str, report: Report, traffic: &Traffic) -> anyhow::Result<Report> {
    let rate = report.poller.rate_pps / f64::from(traffic.rate);
    anyhow::ensure!(
        rate > LEAST_RATE,
        "{subject} let {:.0} % of the rate through: it, or the generator, lacks a CPU of its own",
        100.0 * rate
    );
    Ok(report)
}

/// The share of the time the generator stood still.
fn stalled(report: &Report, measured: Duration) -> f64 {
    report.poller.stalled_us / 1e6 / measured.as_secs_f64()
}

/// Threads that ask the box for things until this is dropped.
struct Disturbance {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Disturbance {
    /// Counted in `done`: dumps, readings.
    fn begin(switch: &Tidegated, done: &Arc<[AtomicU64; 2]>) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let repeat = |index: usize, ask: fn(&mut Api) -> anyhow::Result<()>| {
            let mut api = switch.connect()?;
            let (is_over, done) = (Arc::clone(&is_over), Arc::clone(done));
            // A failure shows in the count, and at whoever waits for the box.
            anyhow::Ok(thread::spawn(move || {
                while !is_over.load(Relaxed) && ask(&mut api).is_ok() {
                    done[index].fetch_add(1, Relaxed);
                }
            }))
        };
        let threads = vec![
            repeat(0, |api| api.dump().map(drop))?,
            repeat(1, |api| {
                thread::sleep(READING);
                api.totals().map(drop)
            })?,
        ];
        Ok(Self { is_over, threads })
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // It ended by itself if it panicked.
            let _ = thread.join();
        }
    }
}
