//! The table and the shard alone, in memory: no port, no process.

pub mod churn;
pub mod lookup;
pub mod tables;

pub use tidegate_packets::{shard, table::key};

/// The same key in 16 bytes, as other tables take it.
#[inline]
#[must_use]
pub fn key_bytes(number: u32) -> [u8; 16] {
    let key = key(number);
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&key.client().to_be_bytes());
    bytes[4..8].copy_from_slice(&key.address().to_be_bytes());
    bytes[8..10].copy_from_slice(&key.client_port().to_be_bytes());
    bytes[10..12].copy_from_slice(&key.address_port().to_be_bytes());
    bytes[12] = key.protocol();
    bytes
}
