//! The table and the shard alone, in memory: no port, no process.

pub mod lookup;
pub mod shard;
pub mod tables;

use tidegate_dataplane::{packet::protocol, session::SessionKey};

use crate::frame;

/// Key of the session of client `number`.
#[inline]
#[must_use]
pub fn key(number: u32) -> SessionKey {
    let service = (frame::MANAGED, frame::SERVICE_PORT);
    SessionKey::new(frame::client(number), service, protocol::TCP)
}

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
