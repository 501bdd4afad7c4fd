//! Rate limits, so that a spray of packets cannot make a worker do more than it should.

/// A token bucket on the workers' millisecond clock.
#[derive(Debug)]
pub struct RateLimit {
    rate_per_ms: u64,
    burst: u64,
    tokens: u64,
    refilled_ms: u64,
}

impl RateLimit {
    /// Sessions a shard may adopt: at once as many as a box meets that starts in front of a busy service.
    pub(super) fn of_adoption() -> Self {
        Self::new(10, 20_000)
    }

    /// ICMP errors of a kind that a shard may send: at once, one for each of many sessions whose path has become narrower.
    pub(super) fn of_complaints() -> Self {
        Self::new(10, 1_000)
    }

    /// So many per millisecond, and `burst` at once.
    #[must_use]
    pub fn new(rate_per_ms: u64, burst: u64) -> Self {
        Self { rate_per_ms, burst, tokens: burst, refilled_ms: 0 }
    }

    /// Whether one more is within the limit now.
    #[must_use = "one that is granted counts as done"]
    pub fn take(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.refilled_ms);
        let refilled = self.tokens.saturating_add(elapsed.saturating_mul(self.rate_per_ms));
        self.tokens = refilled.min(self.burst);
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
        let mut limit = RateLimit::new(10, 200);
        let granted =
            |limit: &mut RateLimit, now_ms| (0..400).filter(|_| limit.take(now_ms)).count();
        assert_eq!(granted(&mut limit, 1000), 200);
        assert_eq!(granted(&mut limit, 1003), 30);
        assert_eq!(granted(&mut limit, 1003), 0);
    }
}
