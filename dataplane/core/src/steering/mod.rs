//! What workers act on: an immutable [`Snapshot`] published by the control core.

mod fib;
mod snapshot;

pub use fib::{Fib, Ipv4Prefix, NextHop, PrefixError};
pub use snapshot::{
    Backend, BackendSlot, Destination, Direction, ManagedAddress, Neighbour, Port, PortId,
    PortRole, Rewrite, Snapshot, SnapshotError, Timeouts, UnknownTcp,
};
