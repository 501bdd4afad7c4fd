//! The packet generator, at the other ends of a subject's wires.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{ChildStdin, Command},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_lab::process::{Process, built};
use tidegate_pktgen::Report;

use super::wires::{Wire, Wires};
use crate::machine::{CONTROL_CPU, Machine, WORKER_CPU};

/// The longest phase.
const PATIENCE: Duration = Duration::from_secs(120);
/// The generator's priority among real-time threads: any is before all others.
const PRIORITY: &str = "50";

/// What it sends.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Sessions open at a time.
    pub sessions: u32,
    /// Sessions ended and begun per second.
    pub churn: u32,
    /// Packets per second, both directions together.
    pub rate: u32,
    /// Data before latencies are recorded.
    pub warm_up: Duration,
    /// How long they are.
    pub measure: Duration,
}

/// Who is between its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// A box that rewrites addresses.
    Nat,
    /// A forwarder that leaves addresses as they are: VMs have the managed address.
    Forwarder,
}

/// A running generator.
pub struct Pktgen {
    process: Process,
    orders: ChildStdin,
    report: PathBuf,
}

impl Pktgen {
    /// Start it. The subject is there already.
    ///
    /// It has a CPU to itself if there is one. Otherwise it shares with control threads, is before them, and lets them run
    /// while no packet is under way.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        wires: &Wires,
        traffic: &Traffic,
        between: Between,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let spare = WORKER_CPU + 1;
        let cpu = if machine.cpus > spare { spare } else { CONTROL_CPU };
        let report = wires.dir().join("pktgen.json");
        let mut command = Command::new(built("tidegate-pktgen")?);
        for (option, wire) in [
            ("--client", Wire::Uplink),
            ("--source", Wire::Source),
            ("--destination", Wire::Destination),
        ] {
            command.args([option.to_owned(), wires.generator(wire)]);
        }
        if between == Between::Nat {
            command.args(["--source-locator", "10.8.0.11", "--destination-locator", "10.8.0.12"]);
        }
        if cpu == CONTROL_CPU {
            command.arg("--rest");
        }
        command.args([
            format!("--cpu={cpu}"),
            format!("--sessions={}", traffic.sessions),
            format!("--churn={}", traffic.churn),
            format!("--rate={}", traffic.rate),
            format!("--warm-up-ms={}", traffic.warm_up.as_millis()),
            format!("--measure-ms={}", traffic.measure.as_millis()),
            format!("--report={}", report.display()),
        ]);
        let (process, orders) = Process::start_told("pktgen", &mut command, wires.dir())?;
        let mut pktgen = Self { process, orders, report };
        pktgen.says("opening")?;
        pktgen.is_first()?;
        Ok(pktgen)
    }

    /// Have its thread run before all others on its CPU. Not while EAL starts: that waits for threads of its own by sleeping
    /// for a microsecond again and again, which on a CPU of theirs alone no real-time thread gets past.
    fn is_first(&self) -> anyhow::Result<()> {
        let pid = self.process.pid().to_string();
        let done = Command::new("chrt").args(["--fifo", "--pid", PRIORITY, &pid]).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "chrt: {said}");
        Ok(())
    }

    /// Wait until it says `text`.
    ///
    /// # Errors
    /// When it ends before.
    pub fn says(&mut self, text: &str) -> anyhow::Result<()> {
        self.process.wait_for(&line(text), PATIENCE)
    }

    /// Whether it has said `text`.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.process.printed().contains(&line(text))
    }

    /// Give an order and wait until it is in force.
    ///
    /// # Errors
    /// When it ends before.
    pub fn order(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{text}").context("order the generator")?;
        self.says(text)
    }

    /// Have sessions closed now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        writeln!(self.orders, "stop").context("order the generator")
    }

    /// Wait for its end; what it found, clean or not.
    ///
    /// # Errors
    /// When it found nothing because it failed.
    pub fn end(mut self) -> anyhow::Result<Report> {
        let status = self.process.wait(PATIENCE)?;
        let report = fs::read(&self.report).with_context(|| {
            format!("the generator ended ({status}):\n{}", self.process.printed())
        })?;
        fs::remove_file(&self.report)?;
        Ok(serde_json::from_slice(&report)?)
    }
}

/// As it stands between others.
fn line(text: &str) -> String {
    format!("\n{text}\n")
}
