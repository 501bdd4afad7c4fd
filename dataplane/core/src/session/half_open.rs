//! The quota of sessions that are only begun.
//!
//! A flood of first packets from spoofed addresses fills this quota and no more of the table. The oldest of them make
//! room: an honest client's handshake is over before its turn comes, a spoofed one's never is.
//!
//! Those that a cutover has made old are not evicted. There may be a whole quota of them, a flood's or a name server's, so
//! what begins after the cutover has a quota beside them.

use std::io;

use tidegate_hugemem::HugeArray;

use super::SessionKey;
use crate::packet::Address;

/// Share of the table that may be half open, and that is remembered.
const SHARE: u32 = 4;
const LEAST: u32 = 64;

/// The youngest of the sessions that may make room for others, in the order in which they began. Many of them need not do so
/// any more.
pub(crate) struct Youngest<A: Address> {
    ring: HugeArray<SessionKey<A>>,
    first: usize,
    len: usize,
}

impl<A: Address> Youngest<A> {
    /// Of a table of `capacity` sessions, a share.
    pub(crate) fn new(capacity: u32) -> io::Result<Self> {
        Ok(Self { ring: HugeArray::zeroed(share(capacity) as usize)?, first: 0, len: 0 })
    }

    /// One more. Where there is no room for it the oldest is forgotten, and expires by itself.
    #[inline]
    pub(crate) fn push(&mut self, key: SessionKey<A>) {
        if self.len == self.ring.len() {
            self.take_oldest();
        }
        let at = self.wrapped(self.first + self.len);
        self.ring[at] = key;
        self.len += 1;
    }

    /// The oldest that is remembered, which is forgotten now.
    pub(crate) fn take_oldest(&mut self) -> Option<SessionKey<A>> {
        self.len = self.len.checked_sub(1)?;
        let oldest = self.ring[self.first];
        self.first = self.wrapped(self.first + 1);
        Some(oldest)
    }

    #[inline]
    fn wrapped(&self, at: usize) -> usize {
        if at < self.ring.len() { at } else { at - self.ring.len() }
    }
}

/// Half-open sessions, and how many there may be.
pub(crate) struct HalfOpen<A: Address> {
    pub(crate) youngest: Youngest<A>,
    /// Sessions that are half open.
    count: u32,
    quota: u32,
    /// Old ones that were found where one was to be evicted: others have so much more room, up to a second quota.
    passed_over: u32,
}

impl<A: Address> HalfOpen<A> {
    /// For a table of `capacity` sessions.
    pub(crate) fn new(capacity: u32) -> io::Result<Self> {
        let youngest = Youngest::new(capacity)?;
        Ok(Self { youngest, count: 0, quota: share(capacity), passed_over: 0 })
    }

    /// Whether the oldest must make room for another.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.count >= self.quota + self.passed_over
    }

    /// One that was taken as the oldest must not be evicted. It is no more asked for, and ends by itself.
    pub(crate) fn pass_over(&mut self) {
        self.passed_over = self.quota.min(self.passed_over + 1);
    }

    /// A session has begun and is half open: the youngest.
    #[inline]
    pub(crate) fn begin(&mut self, key: SessionKey<A>) {
        self.count += 1;
        self.youngest.push(key);
    }

    /// A session is not half open any more, or gone.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.count -= 1;
        self.passed_over = self.passed_over.min(self.count);
    }
}

fn share(capacity: u32) -> u32 {
    (capacity / SHARE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> SessionKey<u32> {
        SessionKey::new((n, 1), (2, 80), 6)
    }

    #[test]
    fn old_ones_leave_others_a_quota_of_their_own_and_no_more() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        (0..LEAST).for_each(|n| half_open.begin(key(n)));
        assert!(half_open.is_full());
        for n in LEAST..2 * LEAST {
            half_open.pass_over();
            assert!(!half_open.is_full());
            half_open.begin(key(n));
        }
        half_open.pass_over();
        assert!(half_open.is_full());
        (0..2 * LEAST).for_each(|_| half_open.end());
        (0..LEAST).for_each(|n| half_open.begin(key(n)));
        assert!(half_open.is_full(), "nothing is left of the second quota");
    }

    #[test]
    fn the_oldest_come_first_and_the_ring_goes_round() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        for round in 0..5 {
            for n in 0..LEAST {
                assert!(!half_open.is_full());
                half_open.begin(key(round * LEAST + n));
            }
            assert!(half_open.is_full());
            for n in 0..LEAST / 2 {
                assert_eq!(half_open.youngest.take_oldest(), Some(key(round * LEAST + n)));
            }
            (0..LEAST).for_each(|_| half_open.end());
        }
    }

    #[test]
    fn what_is_forgotten_is_the_oldest() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        (0..LEAST + 3).for_each(|n| half_open.begin(key(n)));
        assert!(half_open.is_full());
        assert_eq!(half_open.youngest.take_oldest(), Some(key(3)));
        (1..LEAST).for_each(|_| assert!(half_open.youngest.take_oldest().is_some()));
        assert_eq!(half_open.youngest.take_oldest(), None);
    }
}
