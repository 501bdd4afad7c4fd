//! Which shard a session lives on.

use std::{hash::Hash, net::IpAddr};

use ahash::RandomState;

use crate::{packet::Address, session::Tuple};

/// Which shard a client's sessions live on: a function of the client's address and port only, so
/// that no rewriting of the VM's side can move them. All shards of a box use copies of one selector.
#[derive(Clone)]
pub struct ShardSelector {
    hasher: RandomState,
    shards: u16,
}

impl ShardSelector {
    /// A selector over `shards` shards, at least one.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { hasher: RandomState::new(), shards: shards.max(1) }
    }

    /// The shard of the session with this key.
    #[must_use]
    pub fn shard_of(&self, tuple: &Tuple) -> u16 {
        match tuple.client {
            IpAddr::V4(client) => self.shard(client.to_bits(), tuple.client_port),
            IpAddr::V6(client) => self.shard(client.to_bits(), tuple.client_port),
        }
    }

    /// The shard of this client.
    #[inline]
    #[must_use]
    pub fn shard<A: Address>(&self, client: A, client_port: u16) -> u16 {
        self.choose((client, client_port))
    }

    /// The shard that gathers the fragments of one of this client's datagrams: what all of them carry decides, and the
    /// port is not part of that.
    #[must_use]
    pub fn gatherer<A: Address>(&self, client: A, identification: u32) -> u16 {
        self.choose((client, identification))
    }

    #[inline]
    fn choose(&self, by: impl Hash) -> u16 {
        if self.shards == 1 {
            return 0;
        }
        let hash = self.hasher.hash_one(by);
        // Multiply-shift maps the hash's upper half evenly without a division.
        (((hash >> 32) * u64::from(self.shards)) >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_clients_evenly() {
        let selector = ShardSelector::new(3);
        let mut counts = [0u32; 3];
        for client in 0..3000u32 {
            counts[usize::from(selector.shard(0x0a00_0000 + client / 10, client as u16))] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
