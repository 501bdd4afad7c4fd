//! The sessions of one shard: a fixed number of entries and an index over them.

use ahash::RandomState;
use hashbrown::HashTable;

use super::{Session, SessionKey};

/// Sessions by key. Never grows: memory is taken once, when the shard is made.
pub struct SessionTable {
    index: HashTable<u32>,
    entries: Vec<Option<Session>>,
    free: Vec<u32>,
    hasher: RandomState,
}

impl SessionTable {
    /// Room for `capacity` sessions.
    #[must_use]
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            // Twice the entries: clearing out tombstones then always finds room in place and never reallocates.
            index: HashTable::with_capacity(capacity as usize * 2),
            entries: vec![None; capacity as usize],
            free: (0..capacity).rev().collect(),
            hasher: RandomState::new(),
        }
    }

    /// The keyed hash of `key`: clients choose tuples, so the hash must not be theirs to predict.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &SessionKey) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The entry with `key`, whose hash is `hash`.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &SessionKey, hash: u64) -> Option<u32> {
        self.index
            .find(hash, |&at| {
                self.entries[at as usize].as_ref().is_some_and(|session| session.key == *key)
            })
            .copied()
    }

    /// The session at `at`.
    #[inline]
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&Session> {
        self.entries.get(at as usize)?.as_ref()
    }

    /// The session at `at`, to change; its key must stay.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<&mut Session> {
        self.entries.get_mut(at as usize)?.as_mut()
    }

    /// Add a session whose key is not in the table. Gives it back when the table is full.
    ///
    /// # Errors
    /// The session itself.
    pub fn insert(&mut self, session: Session, hash: u64) -> Result<u32, Session> {
        let Some(at) = self.free.pop() else {
            return Err(session);
        };
        self.entries[at as usize] = Some(session);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hash, at, |&at| {
            // Every indexed entry is occupied: remove() clears both.
            entries[at as usize].as_ref().map_or(0, |session| hasher.hash_one(session.key))
        });
        Ok(at)
    }

    /// Take the session at `at` out.
    pub fn remove(&mut self, at: u32) -> Option<Session> {
        let session = self.entries.get_mut(at as usize)?.take()?;
        let hash = self.hash(&session.key);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
        self.free.push(at);
        Some(session)
    }

    /// Entries in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether no entry is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{session::SessionState, steering::BackendSlot};

    fn key(n: u16) -> SessionKey {
        SessionKey { client: 1, address: 2, client_port: n, address_port: 80, protocol: 6 }
    }

    fn session(n: u16, owner: u32) -> Session {
        Session::new(key(n), BackendSlot(owner), 1, SessionState::Established, 0)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u32),
        Remove(u16),
        Find(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..40, any::<u32>()).prop_map(|(n, owner)| Step::Insert(n, owner)),
            (0u16..40).prop_map(Step::Remove),
            (0u16..40).prop_map(Step::Find),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_map(steps in prop::collection::vec(step(), 0..400)) {
            let mut table = SessionTable::with_capacity(24);
            let buckets = table.index.num_buckets();
            let mut oracle = HashMap::new();
            for step in steps {
                match step {
                    Step::Insert(n, owner) => {
                        let hash = table.hash(&key(n));
                        if table.find(&key(n), hash).is_some() { continue; }
                        let fits = oracle.len() < 24;
                        prop_assert_eq!(table.insert(session(n, owner), hash).is_ok(), fits);
                        if fits { oracle.insert(n, owner); }
                    }
                    Step::Remove(n) => {
                        let at = table.find(&key(n), table.hash(&key(n)));
                        let removed = at.and_then(|at| table.remove(at)).map(|session| session.owner.0);
                        prop_assert_eq!(removed, oracle.remove(&n));
                    }
                    Step::Find(n) => {
                        let at = table.find(&key(n), table.hash(&key(n)));
                        let found = at.and_then(|at| table.get(at)).map(|session| session.owner.0);
                        prop_assert_eq!(found, oracle.get(&n).copied());
                    }
                }
                prop_assert_eq!(table.len(), oracle.len());
                prop_assert_eq!(table.index.num_buckets(), buckets, "the index must never be reallocated");
            }
        }
    }
}
