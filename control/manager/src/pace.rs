//! How long a manager waits, and how often it tries.

use std::time::Duration;

/// Limit of a call that changes or reads little.
pub const CALL: Duration = Duration::from_secs(30);
/// Limit of a call that goes through a guest's memory.
pub const MEMORY_CALL: Duration = Duration::from_secs(900);

/// How often it is asked how far RAM is that goes straight.
pub const COPY_LOOK: Duration = Duration::from_millis(200);
/// A copy without progress for this long is taken for broken; the receiver's last check is in it.
pub const COPY_SILENCE: Duration = Duration::from_secs(120);

/// What tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before the second attempt; doubled for each further one.
    pub retry_first: Duration,
    /// The longest pause between attempts.
    pub retry_longest: Duration,
    /// After this long without success, no further attempt; without progress, where a copy makes some.
    pub retry_budget: Duration,
    /// Limit of one call for a capture. Where RAM goes straight, it is called again ([`Pace::straight`]).
    pub capture: Duration,
    /// RAM that goes straight slower than this, without a cap that says so, is taken for stuck.
    pub slowest_bytes_per_s: u64,
    /// After this long since the first capture that broke, it is not begun anew: nothing of it is left.
    pub capture_budget: Duration,
    /// A drain stream without an event for this long is taken for broken.
    pub stream_silence: Duration,
    /// How long a booting destination may take until it runs, and until it says that it is ready.
    pub boot: Duration,
    /// How long the port of a source that is to be cloned may take until it has its link.
    pub link: Duration,
    /// The hold of a paused source's port is prolonged this often: well within its deadline.
    pub hold_again: Duration,
    /// How long a step may go on when the manager is stopped.
    pub stop_grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_millis(200),
            retry_longest: Duration::from_secs(5),
            retry_budget: Duration::from_secs(300),
            capture: MEMORY_CALL,
            slowest_bytes_per_s: 4_000_000,
            capture_budget: Duration::from_secs(60),
            stream_silence: Duration::from_secs(15),
            boot: Duration::from_secs(60),
            link: Duration::from_secs(5),
            hold_again: Duration::from_secs(5),
            stop_grace: Duration::from_secs(5),
        }
    }
}

impl Pace {
    /// How long a capture may take whose RAM goes straight, at most at so many Mbit/s (0: as the host is configured). Twice as
    /// long as its bytes take, for what changes meanwhile goes again.
    #[must_use]
    pub fn straight(&self, twin_bytes: u64, bandwidth_mbps: u64) -> Duration {
        let capped = Some(bandwidth_mbps.saturating_mul(1_000_000 / 8)).filter(|&rate| rate != 0);
        let rate = capped.unwrap_or(u64::MAX).min(self.slowest_bytes_per_s).max(1);
        Duration::from_secs_f64(2.0 * twin_bytes as f64 / rate as f64).max(self.capture)
    }

    /// The pause before the attempt after the `attempt`-th, counted from 1.
    #[must_use]
    pub fn pause(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
        self.retry_first.saturating_mul(factor).min(self.retry_longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_straight_has_as_long_as_its_bytes_take() {
        let pace = Pace::default();
        let hours = |bytes, mbps| pace.straight(bytes, mbps).as_secs() / 3600;
        assert_eq!(pace.straight(64 << 20, 0), MEMORY_CALL, "one call at least");
        assert_eq!(hours(64 << 30, 0), 9);
        assert_eq!(hours(64 << 30, 10_000), 9, "a cap is no promise");
        assert_eq!(hours(64 << 30, 8), 38);
    }
}
