//! How much a worker hands to the kernel: each packet costs it a system call, and a flood must not cost others their time.

/// A token bucket on the workers' clock.
pub(crate) struct HostLimit {
    tokens: usize,
    refilled_ms: u64,
}

/// Packets per millisecond: a routing protocol that sends its whole table needs less.
const RATE_PER_MS: u64 = 10;
/// Packets at once.
const BURST: usize = 512;

impl HostLimit {
    pub(crate) fn new() -> Self {
        Self { tokens: BURST, refilled_ms: 0 }
    }

    /// How many of `wanted` packets may go now.
    pub(crate) fn take(&mut self, wanted: usize, now_ms: u64) -> usize {
        let elapsed = now_ms.saturating_sub(self.refilled_ms);
        let refill = usize::try_from(elapsed.saturating_mul(RATE_PER_MS)).unwrap_or(BURST);
        self.tokens = self.tokens.saturating_add(refill).min(BURST);
        self.refilled_ms = now_ms;
        let allowed = wanted.min(self.tokens);
        self.tokens -= allowed;
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = HostLimit::new();
        assert_eq!(limit.take(BURST + 100, 1_000), BURST);
        assert_eq!(limit.take(64, 1_000), 0);
        assert_eq!(limit.take(64, 1_003), 3 * RATE_PER_MS as usize);
        assert_eq!(limit.take(1, 100_000), 1);
        assert_eq!(limit.take(BURST, 100_000), BURST - 1);
    }
}
