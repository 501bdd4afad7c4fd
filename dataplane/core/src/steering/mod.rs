//! What workers act on: an immutable [`Snapshot`] published by the control core.

mod address;
mod filter;
mod plane;
mod prefix;
mod routing;
mod service;
mod snapshot;
mod timeouts;
mod tunnels;

pub use address::{
    Backend, BackendSlot, Cutover, Destination, ETHERNET_MTU, Link, ManagedAddress, Neighbour,
    Port, PortId, PortRole, QUIC_PORTS, Quic, Rewrite, Tunnel, Unknown,
};
pub use plane::{Direction, Plane, Recent};
pub use prefix::{IpPrefix, PrefixError};
pub use routing::{
    Hop, HopNumber, LinkHop, NextHop, PrefixTable, RouteChange, RouteTable, RouteTables, Routing,
};
pub use service::{Path, Service};
pub use snapshot::{Family, Snapshot, SnapshotError};
pub use timeouts::Timeouts;
pub use tunnels::{AtEnd, Tunnels, Underlay};
