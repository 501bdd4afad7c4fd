//! How long a manager waits, and how often it tries.

use std::time::Duration;

/// Limit of a call that changes or reads little.
pub const CALL: Duration = Duration::from_secs(30);
/// Limit of a call that goes through a guest's memory.
pub const MEMORY_CALL: Duration = Duration::from_secs(900);

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
    /// The pause before the attempt after the `attempt`-th, counted from 1.
    #[must_use]
    pub fn pause(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
        self.retry_first.saturating_mul(factor).min(self.retry_longest)
    }
}
