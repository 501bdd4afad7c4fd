//! The machine the numbers are of, its clock and its CPUs.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use core_affinity::CoreId;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use tidegate_dpdk::clock;

/// Where the harness and every control thread run.
pub const CONTROL_CPU: usize = 0;
/// Where whatever is measured runs.
pub const WORKER_CPU: usize = 1;

/// What the numbers depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// CPUs.
    pub cpus: usize,
    /// Memory.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Rate of the time stamp counter.
    pub tsc_hz: f64,
    /// DPDK's version.
    pub dpdk: String,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// When it has not the CPUs the benches need.
    pub fn probe() -> anyhow::Result<Self> {
        let cpus = thread::available_parallelism()?.get();
        anyhow::ensure!(
            cpus > WORKER_CPU,
            "the benches need two CPUs: {CONTROL_CPU} for control, {WORKER_CPU} for what is measured"
        );
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cpus,
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            tsc_hz: measure_tsc(),
            dpdk: tidegate_dpdk::dpdk_version(),
        })
    }
}

/// Ticks per second, against the system's clock.
fn measure_tsc() -> f64 {
    let (from, started) = (clock::tsc(), Instant::now());
    thread::sleep(Duration::from_millis(300));
    let (to, elapsed) = (clock::tsc(), started.elapsed());
    (to - from) as f64 / elapsed.as_secs_f64()
}

/// Bind this thread, and what it starts, to `cpu`.
///
/// # Errors
/// When the system refuses.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        core_affinity::set_for_current(CoreId { id: cpu }),
        "cannot run on CPU {cpu}: the harness needs CPUs {CONTROL_CPU} and {WORKER_CPU}"
    );
    Ok(())
}

/// Run `work` on a thread bound to `cpu`.
///
/// # Errors
/// Those of `work`, or when the CPU cannot be had.
pub fn on_cpu<T: Send>(
    cpu: usize,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let running = scope.spawn(|| pin(cpu).and_then(|()| work()));
        running.join().unwrap_or_else(|_| anyhow::bail!("the thread on CPU {cpu} panicked"))
    })
}

/// Run `work`, and what it starts, on whichever of `cpus` CPUs is free.
///
/// # Errors
/// Those of `work`, or when the system refuses.
pub fn on_all_cpus<T: Send>(
    cpus: usize,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let mut all = CpuSet::new();
    (0..cpus).for_each(|cpu| all.set(cpu));
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            sched_setaffinity(None, &all).context("use all CPUs")?;
            work()
        });
        running.join().unwrap_or_else(|_| anyhow::bail!("the thread on all CPUs panicked"))
    })
}

/// The commit that is measured, and whether files differ from it.
///
/// # Errors
/// When git is not there.
pub fn revision(of: &Path) -> anyhow::Result<String> {
    // The harness runs as root in the lab, the files are whoever's who asked for it.
    let git = |args: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new("git");
        command.args(["-c", "safe.directory=*", "-C"]).arg(of).args(args);
        let output = command.output().context("start git")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(if changed { format!("{commit}+changes") } else { commit })
}
