//! Tables that can hold sessions: ours and others, filled and looked up in bursts the way each is best used.

use ahash::RandomState;
use anyhow::Context as _;
use hashbrown::HashMap;
use tidegate_dataplane::{
    pipeline::BURST,
    session::{Session, SessionState},
    steering::BackendSlot,
};
use tidegate_dpdk::{Eal, HashTable};
pub use tidegate_packets::table::Ours;

use super::{key, key_bytes};

/// A filled table.
pub trait Table {
    /// Look the sessions of these clients up; how many were found. What is found is read.
    fn lookup(&mut self, clients: &[u32; BURST]) -> u32;

    /// End the sessions of the first clients, begin those of the others.
    ///
    /// # Errors
    /// When one that should end is not there, or one that should begin finds no room.
    fn replace(&mut self, old: &[u32; BURST], new: &[u32; BURST]) -> anyhow::Result<()>;
}

impl Table for Ours {
    fn lookup(&mut self, clients: &[u32; BURST]) -> u32 {
        Self::lookup(self, &clients.map(key))
    }

    fn replace(&mut self, old: &[u32; BURST], new: &[u32; BURST]) -> anyhow::Result<()> {
        Self::replace(self, &old.map(key), &new.map(key))
    }
}

/// hashbrown with ahash, without prefetch: it offers none.
pub struct Hashbrown(HashMap<[u8; 16], Session<u32>, RandomState>);

impl Hashbrown {
    /// With the sessions of clients below `sessions`.
    #[must_use]
    pub fn filled(sessions: u32) -> Self {
        let mut map = HashMap::with_capacity_and_hasher(sessions as usize, RandomState::new());
        for number in 0..sessions {
            map.insert(key_bytes(number), session(number));
        }
        Self(map)
    }
}

fn session(number: u32) -> Session<u32> {
    Session::new(&key(number), BackendSlot(0), 1, SessionState::Established, false, 0)
}

impl Table for Hashbrown {
    fn lookup(&mut self, clients: &[u32; BURST]) -> u32 {
        let keys = clients.map(key_bytes);
        keys.iter().map(|key| u32::from(self.0.get(key).is_some_and(Session::is_live))).sum()
    }

    fn replace(&mut self, old: &[u32; BURST], new: &[u32; BURST]) -> anyhow::Result<()> {
        for &number in old {
            self.0.remove(&key_bytes(number)).context("a session is missing")?;
        }
        for &number in new {
            self.0.insert(key_bytes(number), session(number));
        }
        Ok(())
    }
}

/// DPDK's table. Its values are pointer-wide: entry numbers, as who keeps sessions with it would have. The session behind
/// the number is not read, which is to its advantage.
pub struct RteHash(HashTable);

impl RteHash {
    /// With the sessions of clients below `sessions`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn filled(eal: &Eal, sessions: u32) -> anyhow::Result<Self> {
        // The room that its documentation asks for.
        let room = sessions + sessions / 3;
        let mut table = eal.create_hash(&format!("bench{sessions}"), room)?;
        for number in 0..sessions {
            table
                .add(&key_bytes(number), u64::from(number))
                .with_context(|| format!("session {number} of {sessions}"))?;
        }
        Ok(Self(table))
    }
}

impl Table for RteHash {
    fn lookup(&mut self, clients: &[u32; BURST]) -> u32 {
        const { assert!(BURST == tidegate_dpdk::KEYS_AT_ONCE) };
        let mut values = [0; BURST];
        let found = self.0.lookup_burst(&clients.map(key_bytes), &mut values);
        std::hint::black_box(&values);
        found.count_ones()
    }

    fn replace(&mut self, old: &[u32; BURST], new: &[u32; BURST]) -> anyhow::Result<()> {
        for &number in old {
            self.0.remove(&key_bytes(number))?;
        }
        for &number in new {
            self.0.add(&key_bytes(number), u64::from(number))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_find_what_is_there_and_nothing_else() {
        let mut tables: [Box<dyn Table>; 2] =
            [Box::new(Ours::filled(10_000).expect("memory")), Box::new(Hashbrown::filled(10_000))];
        for table in &mut tables {
            assert_eq!(table.lookup(&std::array::from_fn(|at| at as u32 * 150)), BURST as u32);
            assert_eq!(table.lookup(&std::array::from_fn(|at| 10_000 + at as u32)), 0);
        }
    }
}
