//! What can be changed about a copy while it runs: its bandwidth, and whether it goes on.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::MemoryError;

/// Bytes that may go out at once after a pause, as the time they take.
const BURST: Duration = Duration::from_millis(50);

/// The bandwidth cap and the end of one copy. Shared by its lanes and whoever rules it.
#[derive(Debug)]
pub struct Controls {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    cap_bytes_per_s: Option<u64>,
    /// Bytes that have gone out.
    spent_bytes: u64,
    /// Bytes that may go now; below zero, what has gone already must be waited for.
    balance: f64,
    filled_at: Instant,
    cancelled: Option<String>,
}

impl Controls {
    /// With a cap in bytes per second, or none.
    #[must_use]
    pub fn new(cap_bytes_per_s: Option<u64>) -> Self {
        let state = State {
            cap_bytes_per_s,
            spent_bytes: 0,
            balance: 0.0,
            filled_at: Instant::now(),
            cancelled: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The cap that is in force.
    #[must_use]
    pub fn cap_bytes_per_s(&self) -> Option<u64> {
        self.state().cap_bytes_per_s
    }

    /// Bytes that have gone out.
    #[must_use]
    pub fn spent_bytes(&self) -> u64 {
        self.state().spent_bytes
    }

    /// Change the cap. It holds at once, for those who are waiting too; what was owed to the old one is not.
    pub fn set_cap(&self, cap_bytes_per_s: Option<u64>) {
        let mut state = self.state();
        state.fill();
        state.cap_bytes_per_s = cap_bytes_per_s;
        state.balance = 0.0;
        self.changed.notify_all();
    }

    /// End the copy. The receiver is told the reason.
    pub fn cancel(&self, reason: &str) {
        self.state().cancelled.get_or_insert_with(|| reason.to_owned());
        self.changed.notify_all();
    }

    /// Whether the copy may go on.
    ///
    /// # Errors
    /// [`MemoryError::Cancelled`].
    pub fn check(&self) -> Result<(), MemoryError> {
        self.state().check()
    }

    /// Account for bytes that have gone out, and wait until the next may, or `halted` is set.
    ///
    /// # Errors
    /// [`MemoryError::Cancelled`].
    pub(crate) fn spend(&self, bytes: u64, halted: &AtomicBool) -> Result<(), MemoryError> {
        let mut state = self.state();
        state.fill();
        state.balance -= bytes as f64;
        state.spent_bytes += bytes;
        loop {
            state.check()?;
            // Relaxed: whoever halts says nothing else by it.
            let goes_on = state.balance >= 0.0 || halted.load(Ordering::Relaxed);
            let Some(cap) = state.cap_bytes_per_s.filter(|_| !goes_on) else { return Ok(()) };
            let wait = Duration::from_secs_f64(-state.balance / cap.max(1) as f64);
            // Looked at again now and then: with a tiny cap a wait may be years.
            let wait = wait.min(Duration::from_secs(1));
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.fill();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fill(&mut self) {
        let now = Instant::now();
        let since = now.duration_since(self.filled_at);
        self.filled_at = now;
        match self.cap_bytes_per_s {
            Some(cap) => {
                let most = cap as f64 * BURST.as_secs_f64();
                self.balance = (self.balance + cap as f64 * since.as_secs_f64()).min(most);
            }
            None => self.balance = 0.0,
        }
    }

    fn check(&self) -> Result<(), MemoryError> {
        match &self.cancelled {
            Some(reason) => Err(MemoryError::Cancelled(reason.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn spend(controls: &Controls, bytes: u64) -> Result<(), MemoryError> {
        controls.spend(bytes, &AtomicBool::new(false))
    }

    #[test]
    fn a_cap_is_kept_over_all_lanes() {
        let controls = Controls::new(Some(8 << 20));
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        spend(&controls, 64 << 10).expect("goes on");
                    }
                });
            }
        });
        // 2 MiB at 8 MiB a second.
        let took = began.elapsed();
        assert!(took > Duration::from_millis(180), "{took:?}");
    }

    #[test]
    fn a_change_and_a_cancel_reach_those_who_wait() {
        let controls = Arc::new(Controls::new(Some(1)));
        let waiting = {
            let controls = controls.clone();
            thread::spawn(move || (spend(&controls, 1 << 30), spend(&controls, 1 << 40)))
        };
        controls.set_cap(None);
        let spent = waiting.join().expect("no panic");
        assert!(spent.0.is_ok() && spent.1.is_ok(), "{spent:?}");

        controls.set_cap(Some(1));
        let waiting = {
            let controls = controls.clone();
            thread::spawn(move || spend(&controls, 1 << 30))
        };
        controls.cancel("enough");
        let error = waiting.join().expect("no panic").expect_err("cancelled");
        assert!(matches!(&error, MemoryError::Cancelled(reason) if reason == "enough"), "{error}");
        assert!(controls.check().is_err());
    }
}
