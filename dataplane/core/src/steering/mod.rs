//! What workers act on: an immutable [`Snapshot`] published by the control core.

mod address;
mod fib;
mod filter;
mod service;
mod snapshot;
mod timeouts;

pub use address::{
    Backend, BackendSlot, Destination, ManagedAddress, Neighbour, Port, PortId, PortRole, Rewrite,
    UnknownTcp,
};
pub use fib::{Fib, Ipv4Prefix, NextHop, PrefixError};
pub use service::{Path, Service};
pub use snapshot::{Direction, LinkHop, Recent, Snapshot, SnapshotError};
pub use timeouts::Timeouts;
