//! The sessions of one shard: a fixed number of entries in hugepages and an index over them.
//!
//! Looking a burst up goes in three stages, so that no packet waits for memory: [`SessionTable::prefetch`] for all hashes,
//! [`SessionTable::prefetch_entry`] for all, then [`SessionTable::find`].

use std::{
    io,
    ops::{Index, IndexMut},
};

use ahash::RandomState;
use tidegate_hugemem::HugeArray;

use super::{Session, SessionKey, index};

/// No free entry.
const END: u32 = 0;

/// Sessions by key. Never grows: memory is taken once, when the shard is made.
pub struct SessionTable {
    index: index::Index,
    entries: HugeArray<Session>,
    /// First entry of the list of free ones, plus 1; [`END`] when it is empty.
    free: u32,
    /// Entries from here on have never been used and are in no list.
    untouched: u32,
    len: u32,
    hasher: RandomState,
}

impl SessionTable {
    /// Room for `capacity` sessions.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn with_capacity(capacity: u32) -> io::Result<Self> {
        Ok(Self {
            index: index::Index::new(capacity)?,
            entries: HugeArray::zeroed(capacity as usize)?,
            free: END,
            untouched: 0,
            len: 0,
            hasher: RandomState::new(),
        })
    }

    /// The keyed hash of `key`: clients choose tuples, so the hash must not be theirs to predict.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &SessionKey) -> u64 {
        self.hasher.hash_one(key.words())
    }

    /// First stage: start to load what [`SessionTable::prefetch_entry`] reads.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second stage: start to load what [`SessionTable::find`] reads. The entry it most likely is.
    #[inline]
    #[must_use]
    pub fn prefetch_entry(&self, hash: u64) -> Option<u32> {
        let guess = self.index.guess(hash);
        if let Some(at) = guess {
            self.entries.prefetch(at as usize);
        }
        guess
    }

    /// Last stage: as [`SessionTable::find`], looking at the entry first that the second stage named.
    #[inline]
    #[must_use]
    pub fn find_guessed(&self, key: &SessionKey, hash: u64, guess: Option<u32>) -> Option<u32> {
        match guess {
            Some(at) if self.entries[at as usize].has(key) => guess,
            _ => self.find(key, hash),
        }
    }

    /// The entry with `key`, whose hash is `hash`.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &SessionKey, hash: u64) -> Option<u32> {
        self.index.find(hash, |at| self.entries[at as usize].has(key))
    }

    /// The session at `at`, if there is one.
    #[inline]
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&Session> {
        self.entries.get(at as usize).filter(|session| !session.is_free())
    }

    /// Add a session whose key is not in the table. Gives it back when the table is full.
    ///
    /// # Errors
    /// The session itself.
    pub fn insert(&mut self, session: Session, hash: u64) -> Result<u32, Session> {
        let Some(at) = self.take_free() else { return Err(session) };
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash_of = |at: u32| hasher.hash_one(entries[at as usize].key().words());
        if !self.index.insert(hash, at, hash_of) {
            self.give_back(at);
            return Err(session);
        }
        self.entries[at as usize] = session;
        self.len += 1;
        Ok(at)
    }

    /// Take the session at `at` out.
    pub fn remove(&mut self, at: u32) -> Option<Session> {
        let session = self.get(at)?.clone();
        let hash = self.hash(&session.key());
        self.index.remove(hash, at);
        self.give_back(at);
        self.len -= 1;
        Some(session)
    }

    fn take_free(&mut self) -> Option<u32> {
        if self.free != END {
            let at = self.free - 1;
            self.free = self.entries[at as usize].next_free();
            return Some(at);
        }
        let at = self.untouched;
        (at < self.capacity()).then(|| {
            self.untouched += 1;
            at
        })
    }

    fn give_back(&mut self, at: u32) {
        self.entries[at as usize].free(self.free);
        self.free = at + 1;
    }

    /// Entries in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no entry is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Entries that have ever been in use come before this one.
    #[must_use]
    pub fn used_below(&self) -> u32 {
        self.untouched
    }

    /// Bytes of memory, everything included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.entries.mapped_bytes()
    }
}

/// The session at a place that [`SessionTable::find`] or [`SessionTable::insert`] gave.
impl Index<u32> for SessionTable {
    type Output = Session;

    #[inline]
    fn index(&self, at: u32) -> &Session {
        &self.entries[at as usize]
    }
}

impl IndexMut<u32> for SessionTable {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Session {
        &mut self.entries[at as usize]
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
