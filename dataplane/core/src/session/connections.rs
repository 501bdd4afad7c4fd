//! Whose connections are: the connection IDs that servers have chosen, and their owners.
//!
//! A QUIC connection outlives its client's address (RFC 9000, section 9), and its packets then come to another shard. So
//! all shards share this one: a fixed number of words, sixteen bits of each the owner, that any worker writes and any reads
//! without waiting. Two that write at once may lose one connection ID, and a wrong answer needs two IDs whose keyed
//! hashes agree in some forty bits; neither does harm beyond what happens to a connection ID that is not known.
//!
//! A server's long header is where an ID comes from, and only the ID that the server chose. A flood of clients' first
//! packets makes a server choose many, and then the oldest are forgotten. What a server gives out later is encrypted, and
//! stays unknown.
//!
//! | bits of a word | |
//! |---|---|
//! | 0–15 | the owner |
//! | 16–31 | when it was written, in units of 16 s; the oldest of a set makes room |
//! | 32–63 | of the hash of address and connection ID, never zero |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::RandomState;

use crate::{packet::Address, steering::BackendSlot};

/// Words of a set, which is one cache line.
const WAYS: usize = 8;

#[repr(align(64))]
#[derive(Default)]
struct Set([AtomicU64; WAYS]);

/// The owners of QUIC connections by connection ID.
pub struct Connections {
    sets: Box<[Set]>,
    hasher: RandomState,
}

/// A word, read.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn new(tag: u32, owner: BackendSlot, now: u16) -> Self {
        Self(u64::from(tag) << 32 | u64::from(now) << 16 | u64::from(owner.0 as u16))
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn owner(self) -> BackendSlot {
        BackendSlot(u32::from(self.0 as u16))
    }

    fn age(self, now: u16) -> u16 {
        now.wrapping_sub((self.0 >> 16) as u16)
    }
}

impl Connections {
    /// Room for at least `room` connection IDs.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let sets = room.div_ceil(WAYS).next_power_of_two();
        let sets = (0..sets).map(|_| Set::default()).collect();
        Self { sets, hasher: RandomState::new() }
    }

    /// The server that `owner` is has chosen this ID for a connection to `address`.
    pub fn learn<A: Address>(&self, address: A, id: &[u8], owner: BackendSlot, now_ms: u64) {
        let (set, tag) = self.place(address, id);
        let now = stamp(now_ms);
        let known = set.0.iter().position(|word| Entry(word.load(Relaxed)).tag() == tag);
        let at = known.unwrap_or_else(|| oldest(set, now));
        set.0[at].store(Entry::new(tag, owner, now).0, Relaxed);
    }

    /// Who owns the connection to `address` with this ID.
    #[must_use]
    pub fn owner<A: Address>(&self, address: A, id: &[u8]) -> Option<BackendSlot> {
        let (set, tag) = self.place(address, id);
        let entries = set.0.iter().map(|word| Entry(word.load(Relaxed)));
        entries.into_iter().find(|entry| entry.tag() == tag).map(Entry::owner)
    }

    fn place<A: Address>(&self, address: A, id: &[u8]) -> (&Set, u32) {
        let hash = self.hasher.hash_one((address, id));
        let at = hash as usize & (self.sets.len() - 1);
        (&self.sets[at], ((hash >> 32) as u32).max(1))
    }
}

/// A free word of `set`, or the one that was written longest ago.
fn oldest(set: &Set, now: u16) -> usize {
    let age = |at: &usize| {
        let entry = Entry(set.0[*at].load(Relaxed));
        if entry.tag() == 0 { u32::MAX } else { u32::from(entry.age(now)) }
    };
    (0..WAYS).max_by_key(age).unwrap_or(0)
}

fn stamp(now_ms: u64) -> u16 {
    (now_ms >> 14) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u32 = 0xc000_0201;

    #[test]
    fn finds_what_it_learned() {
        let connections = Connections::new(1 << 16);
        for number in 0..1000u32 {
            connections.learn(ADDRESS, &number.to_be_bytes(), BackendSlot(number % 7), 0);
        }
        let found = |number: u32| connections.owner(ADDRESS, &number.to_be_bytes());
        for number in 0..1000 {
            assert_eq!(found(number), Some(BackendSlot(number % 7)), "{number}");
        }
        assert_eq!(found(1000), None);
        assert_eq!(connections.owner(ADDRESS + 1, &1u32.to_be_bytes()), None, "another address's");
        connections.learn(ADDRESS, &5u32.to_be_bytes(), BackendSlot(3), 0);
        assert_eq!(found(5), Some(BackendSlot(3)), "the last one counts");
    }

    #[test]
    fn the_oldest_makes_room() {
        let connections = Connections::new(WAYS);
        for number in 0..=WAYS as u32 {
            let now_ms = u64::from(number) * 20_000;
            connections.learn(ADDRESS, &number.to_be_bytes(), BackendSlot(1), now_ms);
        }
        let known = |number: u32| connections.owner(ADDRESS, &number.to_be_bytes()).is_some();
        assert!(!known(0), "the oldest");
        assert!((1..=WAYS as u32).all(known));
    }
}
