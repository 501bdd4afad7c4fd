//! The sessions of one shard and family: two to a bucket, and a bucket is one cache line of hugepage memory, two for IPv6.
//!
//! A key has two buckets, both drawn from its hash, and its session is in one of them: in the first if there was room.
//! If both are full, sessions move to their other bucket to make room (cuckoo hashing). So five of six lookups that find
//! their session in a full table read one bucket, which holds the whole session, and no lookup reads more than two.
//!
//! Looking a burst up goes in three stages, so that no packet waits for memory: [`SessionTable::prefetch`] for all hashes,
//! [`SessionTable::glance`] for all keys, then [`SessionTable::find_from`].

use std::{
    hint::select_unpredictable,
    io,
    ops::{Index, IndexMut},
};

use ahash::RandomState;
use arrayvec::ArrayVec;
use tidegate_hugemem::HugeArray;
use zerocopy::FromZeros;

use super::{Session, SessionKey};
use crate::packet::Address;

/// Sessions in a bucket.
const PLACES: usize = 2;
/// Share of all places that may be in use. Room can be made up to 0.89 in theory, but the more are in use, the more
/// sessions are in their second bucket.
const MAX_LOAD: f64 = 0.55;
/// Buckets of the smallest table: in very few, chance may leave no room for a key.
const FEWEST_BUCKETS: usize = 64;
/// Buckets that are looked at to make room for a session.
const SEARCHED: usize = 64;

/// Whole cache lines.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct Bucket<A: Address>([Session<A>; PLACES]);

const _: () = assert!(size_of::<Bucket<u32>>() == 64 && size_of::<Bucket<u128>>() == 128);

impl<A: Address> Bucket<A> {
    /// Where the session with `key` is, and whether it is here at all.
    #[inline]
    fn find(&self, key: &SessionKey<A>) -> (usize, bool) {
        // Both are looked at whatever the first says: which one it is cannot be predicted.
        let [first, second] = [self.0[0].has(key), self.0[1].has(key)];
        (usize::from(second), first | second)
    }

    fn free_place(&self) -> Option<usize> {
        self.0.iter().position(Session::<A>::is_free)
    }
}

/// Sessions by key. Never grows: memory is taken once, when the shard is made.
pub struct SessionTable<A: Address> {
    buckets: HugeArray<Bucket<A>>,
    capacity: u32,
    len: u32,
    hasher: RandomState,
}

impl<A: Address> SessionTable<A> {
    /// Room for `capacity` sessions.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn with_capacity(capacity: u32) -> io::Result<Self> {
        let buckets = (f64::from(capacity) / MAX_LOAD / PLACES as f64).ceil() as usize;
        Ok(Self {
            buckets: HugeArray::zeroed(buckets.max(FEWEST_BUCKETS))?,
            capacity,
            len: 0,
            hasher: RandomState::new(),
        })
    }

    /// The keyed hash of `key`: clients choose tuples, so the hash must not be theirs to predict.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &SessionKey<A>) -> u64 {
        self.hasher.hash_one(key.words())
    }

    /// A key's buckets: each half of the hash, scaled to their number.
    #[inline]
    fn first(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    /// Another than the first: three keys with one and the same bucket would have no room in a table that has.
    #[inline]
    fn second(&self, hash: u64) -> usize {
        let other = ((u64::from(hash as u32) * (self.buckets.len() as u64 - 1)) >> 32) as usize;
        other + usize::from(other >= self.first(hash))
    }

    /// First stage: start to load what [`SessionTable::glance`] reads.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(self.first(hash));
    }

    /// Second stage: where the session is, if it is in its first bucket; otherwise start to load its second.
    #[inline]
    #[must_use]
    pub fn glance(&self, key: &SessionKey<A>, hash: u64) -> u32 {
        let (first, second) = (self.first(hash), self.second(hash));
        let (place, is_here) = self.buckets[first].find(key);
        self.buckets.prefetch(select_unpredictable(is_here, first, second));
        position(first, place)
    }

    /// Last stage: the session with `key`, if it is where the second stage said. It may be elsewhere, or have moved.
    #[inline]
    #[must_use]
    pub fn glanced(&mut self, glanced: u32, key: &SessionKey<A>) -> Option<&mut Session<A>> {
        Some(&mut self[glanced]).filter(|session| session.has(key))
    }

    /// Last stage: as [`SessionTable::find`], looking first where the second stage said: it may be elsewhere, or have moved.
    #[inline]
    #[must_use]
    pub fn find_from(&self, glanced: u32, key: &SessionKey<A>, hash: u64) -> Option<u32> {
        if self[glanced].has(key) { Some(glanced) } else { self.find(key, hash) }
    }

    /// Where the session with `key` is, whose hash is `hash`. It stays there until the next insertion or its removal.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &SessionKey<A>, hash: u64) -> Option<u32> {
        [self.first(hash), self.second(hash)].into_iter().find_map(|bucket| {
            let (place, is_here) = self.buckets[bucket].find(key);
            is_here.then(|| position(bucket, place))
        })
    }

    /// The session at `at`, if there is one.
    #[inline]
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&Session<A>> {
        let bucket = self.buckets.get(at as usize / PLACES)?;
        Some(&bucket.0[at as usize % PLACES]).filter(|session| !session.is_free())
    }

    /// Add a session whose key is not in the table; where it is now. Others may move.
    ///
    /// # Errors
    /// The session itself, when the table is full.
    pub fn insert(&mut self, session: Session<A>, hash: u64) -> Result<u32, Session<A>> {
        if self.is_full() {
            return Err(session);
        }
        let homes = [self.first(hash), self.second(hash)];
        let free = |bucket: usize| Some((bucket, self.buckets[bucket].free_place()?));
        let Some((bucket, place)) =
            homes.into_iter().find_map(free).or_else(|| self.make_room(homes))
        else {
            return Err(session);
        };
        self.buckets[bucket].0[place] = session;
        self.len += 1;
        Ok(position(bucket, place))
    }

    /// Free a place in one of two full buckets: sessions move to their other bucket, along the shortest way to a free
    /// place that is found.
    #[cold]
    fn make_room(&mut self, homes: [usize; 2]) -> Option<(usize, usize)> {
        /// A full bucket, and the step before with the place that would move here.
        struct Step {
            bucket: usize,
            before: Option<(usize, usize)>,
        }
        let mut steps: ArrayVec<Step, SEARCHED> =
            homes.map(|bucket| Step { bucket, before: None }).into_iter().collect();
        let mut at = 0;
        while at < steps.len() {
            for place in 0..PLACES {
                let bucket = self.other_bucket(steps[at].bucket, place);
                let Some(free) = self.buckets[bucket].free_place() else {
                    let _ = steps.try_push(Step { bucket, before: Some((at, place)) });
                    continue;
                };
                // From the free place back to a home.
                let (mut to, mut from) = ((bucket, free), (at, place));
                loop {
                    let leaving = (steps[from.0].bucket, from.1);
                    debug_assert_eq!(self.other_bucket(leaving.0, leaving.1), to.0);
                    self.shift(leaving, to);
                    to = leaving;
                    match steps[from.0].before {
                        Some(before) => from = before,
                        None => return Some(to),
                    }
                }
            }
            at += 1;
        }
        None
    }

    /// Where the session at this place may be instead.
    fn other_bucket(&self, bucket: usize, place: usize) -> usize {
        let hash = self.hash(&self.buckets[bucket].0[place].key());
        let (first, second) = (self.first(hash), self.second(hash));
        if bucket == first { second } else { first }
    }

    fn shift(&mut self, from: (usize, usize), to: (usize, usize)) {
        let session = self.buckets[from.0].0[from.1].take();
        self.buckets[to.0].0[to.1] = session;
    }

    /// Take the session at `at` out.
    pub fn remove(&mut self, at: u32) -> Option<Session<A>> {
        self.get(at)?;
        self.len -= 1;
        Some(self[at].take())
    }

    /// Sessions in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Sessions there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Places for sessions, used or free.
    #[must_use]
    pub fn places(&self) -> u32 {
        (self.buckets.len() * PLACES) as u32
    }

    /// Bytes of memory, everything included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buckets.mapped_bytes()
    }
}

#[inline]
fn position(bucket: usize, place: usize) -> u32 {
    (bucket * PLACES + place) as u32
}

/// The session at a place that [`SessionTable::find`] or [`SessionTable::insert`] gave.
impl<A: Address> Index<u32> for SessionTable<A> {
    type Output = Session<A>;

    #[inline]
    fn index(&self, at: u32) -> &Session<A> {
        &self.buckets[at as usize / PLACES].0[at as usize % PLACES]
    }
}

impl<A: Address> IndexMut<u32> for SessionTable<A> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Session<A> {
        &mut self.buckets[at as usize / PLACES].0[at as usize % PLACES]
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
