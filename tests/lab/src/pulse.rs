//! Whether workers stand still: they count how often they poll.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::api::Api;

/// A worker that sleeps between polls makes thousands a second; one that waits for a peer would make none.
const STALL: Duration = Duration::from_millis(500);

/// Looks all the while whether every worker polls on.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<anyhow::Result<Duration>>,
}

impl Pulse {
    /// Look from now on, at the box that `api` asks.
    #[must_use]
    pub fn watch(api: Api) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let watching = thread::spawn(move || {
            let polls = || -> anyhow::Result<Vec<u64>> {
                Ok(api.counters()?.workers.iter().map(|worker| worker.polls).collect())
            };
            let (mut last, mut longest) = (polls()?, Duration::ZERO);
            let mut moved = vec![Instant::now(); last.len()];
            while !stopping.load(Ordering::Relaxed) {
                // The time is that of the question, so that a slow answer does not look like a worker's stall.
                let asked = Instant::now();
                let now = polls()?;
                for (worker, (now, last)) in now.iter().zip(&last).enumerate() {
                    if now > last {
                        longest = longest.max(asked.saturating_duration_since(moved[worker]));
                        moved[worker] = Instant::now();
                    }
                }
                last = now;
                thread::sleep(Duration::from_millis(5));
            }
            let left = moved.iter().map(Instant::elapsed).max().unwrap_or_default();
            Ok(longest.max(left))
        });
        Self { stop, watching }
    }

    /// Stop looking.
    ///
    /// # Errors
    /// When a worker stood still, as far as can be seen, or the box did not answer.
    pub fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.watching.join().map_err(|_| anyhow::anyhow!("the pulse panicked"))??;
        ensure!(longest < STALL, "a worker stood still for {longest:?}");
        Ok(())
    }
}
