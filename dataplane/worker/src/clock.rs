//! The clock all workers and the control core share.

use tidegate_dpdk::clock::tsc;

/// Milliseconds since the workers were started. Sessions live for seconds: it is read once a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started_tsc: u64,
    tsc_per_ms: u64,
}

impl Clock {
    /// Starts now, with a time stamp counter of this frequency.
    pub(crate) fn start(tsc_hz: u64) -> Self {
        Self { started_tsc: tsc(), tsc_per_ms: (tsc_hz / 1000).max(1) }
    }

    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        // Another CPU's counter may be a little behind the one it was started by.
        tsc().saturating_sub(self.started_tsc) / self.tsc_per_ms
    }
}
