//! How long what is measured had to wait for its CPU because somebody else had it.

use std::{fs, path::Path};

use anyhow::Context as _;

use crate::machine::WORKER_CPU;

/// Nanoseconds the threads of `pid` that are bound to the measured CPU have been ready to run and were not let, since
/// they began (`schedstat`, second number: <https://docs.kernel.org/scheduler/sched-stats.html>).
///
/// # Errors
/// When there is no such thread, or the kernel does not say.
pub fn waited_ns(pid: u32) -> anyhow::Result<u64> {
    let mut waited = None;
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        let task = task?.path();
        // A thread may end while others are read.
        if let Some(thread) = bound(&task).and_then(|()| of_thread(&task)) {
            waited = Some(waited.unwrap_or(0) + thread);
        }
    }
    waited.with_context(|| {
        format!("no thread of process {pid} is bound to CPU {WORKER_CPU} alone, or the kernel lacks schedstat")
    })
}

/// Whether a thread is bound to the measured CPU alone.
fn bound(task: &Path) -> Option<()> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    (cpus.trim() == WORKER_CPU.to_string()).then_some(())
}

fn of_thread(task: &Path) -> Option<u64> {
    let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process, thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::machine::on_cpu;

    fn spin() -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(200) {}
        Ok(())
    }

    #[test]
    fn two_on_a_cpu_wait_for_each_other() {
        let waited = thread::scope(|scope| {
            let other = scope.spawn(|| on_cpu(WORKER_CPU, spin));
            let waited = on_cpu(WORKER_CPU, || {
                let before = waited_ns(process::id())?;
                spin()?;
                Ok(waited_ns(process::id())? - before)
            });
            other.join().expect("no panic").expect("bound");
            waited.expect("the kernel says")
        });
        // Each about half of the time; more when others want the CPU, too.
        assert!((50_000_000..1_000_000_000).contains(&waited), "{waited} ns");
    }
}
