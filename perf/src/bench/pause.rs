//! The pause of a capture by passes: the same guest with much RAM and with little.

use tidegate_api::host::CaptureWay;

use super::{Context, Outcome};
use crate::{
    engine::{
        Place,
        guest::Workload,
        hostd::{GUEST, Hostd, Limits},
    },
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
};

/// Alike but for their size, and what fills it.
const SMALL: Workload =
    Workload { memory_mib: 256, rewritten_mib: 8, rest_ms: 100, filled_mib: 96 };
const LARGE: Workload = Workload { memory_mib: 1024, filled_mib: 768, ..SMALL };

/// A guest that stands still until it is its turn.
struct Turn {
    host: Hostd,
    passes: Samples,
    stop: Samples,
}

impl Turn {
    fn new(name: &str, place: &Place, workload: &Workload) -> anyhow::Result<Self> {
        let mut host = Hostd::start(name, place.dir(), Limits::default())?;
        host.start_guest(workload)?;
        host.pause()?;
        Ok(Self { host, passes: Samples::default(), stop: Samples::default() })
    }

    fn take(&mut self) -> anyhow::Result<()> {
        self.host.go_on(GUEST)?;
        for (way, samples) in
            [(CaptureWay::Passes, &mut self.passes), (CaptureWay::Stop, &mut self.stop)]
        {
            let report = self.host.capture(way, None)?;
            eprintln!(
                "  {way:?}: {} ms, passes of {:?}",
                report.pause_ns / 1_000_000,
                report.pass_bytes
            );
            samples.push(report.pause_ns as f64 / 1e6);
            self.host.forget()?;
        }
        self.host.pause()
    }
}

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    let [small, large] = on_all_cpus(context.machine.cpus, || {
        let place = Place::new("pause")?;
        let mut turns = [Turn::new("s", &place, &SMALL)?, Turn::new("l", &place, &LARGE)?];
        for _ in 0..context.runs {
            for turn in &mut turns {
                turn.take()?;
            }
        }
        Ok(turns)
    })?;
    let versus = "itself with 256 MiB";
    Ok(Outcome {
        metrics: vec![
            Metric::beside("capture_pause_1g_vs_256m", "ms", large.passes, versus, small.passes)
                .note("by passes; both guests rewrite 8 MiB ten times a second, and are full"),
            Metric::beside("stop_pause_1g_vs_256m", "ms", large.stop, versus, small.stop)
                .note("for information: the same guests, all copied while they stand"),
        ],
        curves: Vec::new(),
    })
}
