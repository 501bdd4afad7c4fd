//! The quota of sessions that are only begun.
//!
//! A flood of first packets from spoofed addresses fills this quota and no more of the table. The oldest of them make
//! room: an honest client's handshake is over before its turn comes, a spoofed one's never is.
//!
//! | standing | waits for | makes room |
//! |---|---|---|
//! | unanswered | the VM, which is near | first, while they have more than a quarter of what is taken |
//! | answered | the client, which may be far away | only then |
//! | passed over | either; a cutover has made it old | not while it is old |
//!
//! So a flood that the VM does not answer takes nothing from those whom it has answered. One that the VM does answer must
//! not make every first packet push out the one before, ahead of its answer: the quarter is for these.
//!
//! There may be a whole quota of old ones, a flood's or a name server's, so what begins after the cutover has a quota beside
//! them. Where several cutovers follow each other it has what is left of two, and never less than a quarter of one: on the
//! shard are other addresses too, and nobody is kept out by their cutovers.
//!
//! All of it takes the same time however many there are: an order of keys is never searched, and what is in it without
//! need is dropped when its turn comes.

use std::io;

use tidegate_hugemem::HugeArray;

use super::SessionKey;
use crate::packet::Address;

/// Share of the table that may be half open, and that is remembered.
const SHARE: u32 = 4;
const LEAST: u32 = 64;
/// Share of the quota by which it may be exceeded. As many keys are looked at for one session that begins as makes this
/// more than enough: an order is no longer than the quota.
const MARGIN: u32 = 8;
/// Share of them that unanswered ones keep from answered ones; see the module.
const KEPT: u32 = 4;
/// Share of the quota that those passed over leave to others, however many they are.
const LEFT: u32 = 4;

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
        if self.is_full() {
            self.take_oldest();
        }
        let at = self.wrapped(self.first + self.len);
        self.ring[at] = key;
        self.len += 1;
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.len == self.ring.len()
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

/// As what a half-open session may make room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody but its initiator has been heard.
    Unanswered,
    /// The other side has answered.
    Answered,
    /// It is old, and does not.
    PassedOver,
}

/// Half-open sessions, and how many there may be.
pub(crate) struct HalfOpen<A: Address> {
    /// Those that are unanswered, and those that are answered, as they became it.
    orders: [Youngest<A>; 2],
    /// Sessions of each standing.
    counts: [u32; 3],
    quota: u32,
    /// Up to how many there may be beside those passed over.
    limit: u32,
}

impl<A: Address> HalfOpen<A> {
    /// For a table of `capacity` sessions.
    pub(crate) fn new(capacity: u32) -> io::Result<Self> {
        let orders = [Youngest::new(capacity)?, Youngest::new(capacity)?];
        let quota = share(capacity);
        Ok(Self { orders, counts: [0; 3], quota, limit: quota })
    }

    /// Whether one must make room for another.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        let [unanswered, answered, _] = self.counts;
        unanswered + answered >= self.limit
    }

    /// Whether there are more than may be even for a moment, while those who may go are looked for.
    pub(crate) fn is_overfull(&self) -> bool {
        let [unanswered, answered, _] = self.counts;
        unanswered + answered >= self.limit + self.quota / MARGIN
    }

    /// Those passed over leave others a quota, up to a second one in all, and always some.
    #[cold]
    fn set_limit(&mut self) {
        let [.., passed_over] = self.counts;
        let left = (2 * self.quota).saturating_sub(passed_over);
        self.limit = left.clamp(self.quota / LEFT, self.quota);
    }

    /// Sessions of each standing.
    pub(crate) fn counts(&self) -> [u32; 3] {
        self.counts
    }

    /// Whose oldest makes room for another, and whose if there is none.
    pub(crate) fn first_to_go(&self) -> [Standing; 2] {
        let [unanswered, answered, _] = self.counts;
        if unanswered * KEPT > unanswered + answered {
            [Standing::Unanswered, Standing::Answered]
        } else {
            [Standing::Answered, Standing::Unanswered]
        }
    }

    /// The oldest that is remembered to have had this standing, and is forgotten now. It need not have it any more.
    pub(crate) fn take_oldest(&mut self, standing: Standing) -> Option<SessionKey<A>> {
        self.orders.get_mut(standing as usize)?.take_oldest()
    }

    /// Whether the oldest of this standing must be looked at before another is remembered. Where they are few, one that is
    /// forgotten costs others little room; but where they are many, all might be, and nobody left to make room.
    #[inline]
    pub(crate) fn is_crowded(&self, standing: Standing) -> bool {
        let is_full = self.orders.get(standing as usize).is_some_and(Youngest::is_full);
        is_full && self.counts[standing as usize] > self.quota / KEPT
    }

    /// A session has begun, unanswered.
    #[inline]
    pub(crate) fn begin(&mut self, key: SessionKey<A>) {
        let [unanswered, _] = &mut self.orders;
        unanswered.push(key);
        self.counts[Standing::Unanswered as usize] += 1;
    }

    /// A session is not half open any more, or gone.
    #[inline]
    pub(crate) fn end(&mut self, standing: Standing) {
        self.counts[standing as usize] -= 1;
        if standing == Standing::PassedOver {
            self.set_limit();
        }
    }

    /// A session's standing changes.
    pub(crate) fn change(&mut self, key: &SessionKey<A>, before: Standing, after: Standing) {
        self.end(before);
        self.counts[after as usize] += 1;
        match self.orders.get_mut(after as usize) {
            Some(order) => order.push(*key),
            None => self.set_limit(),
        }
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

    fn begin(half_open: &mut HalfOpen<u32>, keys: std::ops::Range<u32>) {
        keys.for_each(|n| half_open.begin(key(n)));
    }

    #[test]
    fn old_ones_leave_others_a_quota_of_their_own_and_no_more() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        begin(&mut half_open, 0..LEAST);
        assert!(half_open.is_full());
        for n in LEAST..2 * LEAST {
            half_open.change(&key(n - LEAST), Standing::Unanswered, Standing::PassedOver);
            assert!(!half_open.is_full());
            begin(&mut half_open, n..n + 1);
        }
        half_open.change(&key(LEAST), Standing::Unanswered, Standing::PassedOver);
        assert!(half_open.is_full());
        (0..=LEAST).for_each(|_| half_open.end(Standing::PassedOver));
        assert!(!half_open.is_full());
        begin(&mut half_open, 0..1);
        assert!(half_open.is_full(), "nothing is left of the second quota");
    }

    #[test]
    fn however_many_are_old_some_room_is_left() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        for n in 0..3 * LEAST {
            assert!(!half_open.is_full(), "{n} are old");
            begin(&mut half_open, n..n + 1);
            half_open.change(&key(n), Standing::Unanswered, Standing::PassedOver);
        }
        begin(&mut half_open, 0..LEAST / LEFT - 1);
        assert!(!half_open.is_full());
        begin(&mut half_open, 0..1);
        assert!(half_open.is_full());
    }

    #[test]
    fn the_oldest_come_first_and_the_ring_goes_round() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        for round in 0..5 {
            for n in 0..LEAST {
                assert!(!half_open.is_full());
                begin(&mut half_open, round * LEAST + n..round * LEAST + n + 1);
            }
            assert!(half_open.is_full());
            for n in 0..LEAST / 2 {
                let oldest = half_open.take_oldest(Standing::Unanswered);
                assert_eq!(oldest, Some(key(round * LEAST + n)));
            }
            (0..LEAST).for_each(|_| half_open.end(Standing::Unanswered));
        }
    }

    #[test]
    fn the_answered_have_an_order_of_their_own_and_go_last() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        begin(&mut half_open, 0..LEAST);
        let order = [Standing::Unanswered, Standing::Answered];
        for n in (0..LEAST).rev() {
            let unanswered = n + 1;
            let expected = if unanswered * KEPT > LEAST { order } else { [order[1], order[0]] };
            assert_eq!(half_open.first_to_go(), expected, "{unanswered} unanswered");
            half_open.change(&key(n), Standing::Unanswered, Standing::Answered);
            assert!(half_open.is_full());
        }
        assert_eq!(half_open.take_oldest(Standing::Answered), Some(key(LEAST - 1)));
        assert_eq!(half_open.take_oldest(Standing::Unanswered), Some(key(0)));
    }

    #[test]
    fn what_is_forgotten_is_the_oldest_and_never_without_a_look_where_there_are_many() {
        let mut half_open = HalfOpen::new(0).expect("memory");
        let few = LEAST / KEPT;
        begin(&mut half_open, 0..few);
        for n in few..LEAST {
            assert!(!half_open.is_crowded(Standing::Unanswered));
            begin(&mut half_open, n..n + 1);
            half_open.end(Standing::Unanswered);
        }
        assert!(!half_open.is_crowded(Standing::Unanswered), "few");
        begin(&mut half_open, LEAST..LEAST + 1);
        assert!(half_open.is_crowded(Standing::Unanswered));
        assert!(!half_open.is_crowded(Standing::Answered));
        let oldest = half_open.take_oldest(Standing::Unanswered);
        assert_eq!(oldest, Some(key(1)), "the first had been forgotten");
        assert!(!half_open.is_crowded(Standing::Unanswered));
    }
}
