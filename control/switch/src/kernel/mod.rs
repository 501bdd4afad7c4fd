//! The Linux kernel beside the workers: its interfaces, routes and neighbours.
//!
//! A port may have a *twin*, a TAP interface of the kernel. What arrives at the port and is for the box itself goes to the
//! twin, and what the kernel sends by the twin leaves by the port. So ARP, neighbour discovery, ping and routing protocols
//! are the kernel's, and `ip route`, `ip neigh` or a routing daemon drive the box: [`mirror`] tells the workers what the
//! kernel knows.
//!
//! What was found out about the kernel, and is relied on:
//!
//! - Notifications of routes are not the whole truth: a link that goes down takes its IPv4 routes away silently, IPv6
//!   multipath routes come hop by hop, and what is appended to a prefix may or may not be what the kernel uses. So a
//!   notification is only a reason to read the table again.
//! - Notifications of neighbours are complete, and are followed one by one.
//! - The kernel looks for a neighbour when it is told that the neighbour is used (`NTF_USE`), without a packet. It does the
//!   same to keep one: workers' packets do not touch its entries, which grow stale.
//! - When a reader is too slow the kernel says `ENOBUFS`, once; then everything is read again.

mod mirror;
mod netlink;
mod twin;

use std::{io, net::IpAddr};

use tidegate_dataplane::{
    packet::Mac,
    steering::{IpPrefix, NextHop, PortId},
};

pub use mirror::{Mirror, MirroredPort};
pub use twin::{TwinInterface, set_up};

/// What the kernel knows has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Where a prefix leads; `None` when there is no such route any more.
    Route(IpPrefix, Option<KernelRoute>),
    /// A neighbour's MAC; `None` when it is not known any more.
    Neighbour(PortId, IpAddr, Option<Mac>),
}

/// Where a route of the kernel leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRoute {
    /// Out by a port with a twin. Of several next hops the first is taken.
    Next(NextHop),
    /// To the box itself: one of the kernel's own addresses.
    Host,
    /// Blackhole, unreachable, prohibit, or out by an interface that is no port's.
    Unreachable,
}

/// The kernel did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Netlink failed as such.
    #[error("{what}: {source}")]
    Netlink {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A message could not be read.
    #[error("{what}: the kernel's answer cannot be read: {reason}")]
    Answer {
        /// What was done.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no such interface.
    #[error(
        "there is no interface `{0}`; is tun in the kernel, and may this process make interfaces (CAP_NET_ADMIN)?"
    )]
    NoInterface(String),
    /// A setting under /proc/sys could not be written.
    #[error("{path}: {source}; tidegated sets this for its twins, let it write there")]
    Setting {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
}
