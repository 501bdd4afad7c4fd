//! How fast: a schedule on the time stamp counter.

/// Parts of a tick the schedule is kept in.
const PARTS: u64 = 256;

/// When the next packet is due.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Between two packets, in parts of a tick.
    gap: u64,
    /// When the next is due, in parts of a tick.
    next: u64,
    /// How far behind the schedule may be, and be caught up with.
    slack: u64,
    /// When the schedule begins: in parts of ticks, the counter itself would overflow.
    start: u64,
}

impl Pace {
    /// `rate` packets per second from `now` on; after a pause, at most `slack` packets are made up for. A rate of zero
    /// is never due.
    pub(crate) fn new(rate: u64, slack: u64, tsc_hz: u64, now: u64) -> Self {
        let parts = u128::from(tsc_hz) * u128::from(PARTS);
        let gap = parts.checked_div(u128::from(rate)).map_or(u64::MAX, |gap| gap as u64);
        let next = if rate == 0 { u64::MAX } else { 0 };
        Self { gap, next, slack: gap.saturating_mul(slack), start: now }
    }

    /// Parts of ticks since the start.
    #[inline]
    fn parts(&self, now: u64) -> u64 {
        (now - self.start) * PARTS
    }

    /// Whether one may be sent.
    #[inline]
    pub(crate) fn is_due(&self, now: u64) -> bool {
        self.parts(now) >= self.next
    }

    /// `packets` were sent.
    #[inline]
    pub(crate) fn sent(&mut self, packets: u64, now: u64) {
        let earliest = self.parts(now).saturating_sub(self.slack);
        self.next = self.next.max(earliest).saturating_add(self.gap.saturating_mul(packets));
    }

    /// Ticks until the next is due.
    #[inline]
    pub(crate) fn wait(&self, now: u64) -> u64 {
        self.next.saturating_sub(self.parts(now)) / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 2_000_000_000;

    #[test]
    fn the_rate_is_kept_on_average() {
        let mut pace = Pace::new(1_000_000, 64, HZ, 0);
        let mut sent = 0u64;
        for now in (0..HZ / 100).step_by(700) {
            if pace.is_due(now) {
                pace.sent(32, now);
                sent += 32;
            }
        }
        assert!((9_990..=10_040).contains(&sent), "{sent}");
    }

    #[test]
    fn only_a_little_is_made_up_for() {
        let mut pace = Pace::new(1_000_000, 64, HZ, 0);
        let mut sent = 0;
        while pace.is_due(HZ) {
            pace.sent(32, HZ);
            sent += 32;
        }
        assert_eq!(sent, 96);
        assert_eq!(pace.wait(HZ), 32 * 2000);
    }

    #[test]
    fn no_rate_is_never_due() {
        assert!(!Pace::new(0, 64, HZ, 0).is_due(1 << 55));
    }
}
