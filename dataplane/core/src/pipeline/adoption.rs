//! The rate limit of adoption, so that a spray of stray segments cannot fill the table.

/// A token bucket on the shard's millisecond clock.
pub(super) struct AdoptionLimit {
    tokens: u64,
    refilled_ms: u64,
}

/// Sessions a shard may adopt per millisecond.
const RATE_PER_MS: u64 = 10;
/// Sessions it may adopt at once: what a box meets that starts in front of a busy service.
const BURST: u64 = 20_000;

impl AdoptionLimit {
    pub(super) fn new() -> Self {
        Self { tokens: BURST, refilled_ms: 0 }
    }

    /// Whether one more may be adopted now.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.refilled_ms);
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(RATE_PER_MS)).min(BURST);
        self.refilled_ms = now_ms;
        let granted = self.tokens > 0;
        self.tokens -= u64::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = AdoptionLimit::new();
        let granted = |limit: &mut AdoptionLimit, now_ms| {
            (0..2 * BURST).filter(|_| limit.take(now_ms)).count() as u64
        };
        assert_eq!(granted(&mut limit, 1000), BURST);
        assert_eq!(granted(&mut limit, 1003), 3 * RATE_PER_MS);
        assert_eq!(granted(&mut limit, 1003), 0);
    }
}
