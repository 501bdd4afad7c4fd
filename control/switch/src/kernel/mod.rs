//! The Linux kernel beside the workers: its interfaces, routes and neighbours.
//!
//! A port may have a *twin*, a TAP interface of the kernel. What arrives at the port and is for the box itself goes to the
//! twin, and what the kernel sends by the twin leaves by the port. Both with their VLAN tags: a port that is a VLAN of a
//! device has the kernel's VLAN interface on the device's twin. So ARP, neighbour discovery, ping and routing protocols
//! are the kernel's, and `ip route`, `ip neigh` or a routing daemon drive the box: [`Mirror`] tells the workers what the
//! kernel knows.
//!
//! What was found out about the kernel (Linux 6.18; 6.1 is older and says less), and is relied on:
//!
//! - Notifications of routes say what was done, in order, and with their flags where among the routes of one metric. So
//!   they are followed one by one, however long the table is (`table.rs`). They are not the whole truth: IPv4's routes
//!   vanish silently with a link that is set down, with an address they come from, and with a next hop object. Then, and
//!   when something does not fit what is known, the table is read again, and what differs is told.
//! - What is notified while a table is read may be in it, or not. Where that makes a difference it is read once more.
//! - A next hop object that is replaced is notified with each of its routes, and routes come with their next hops spelt
//!   out, as long as the setting `net.ipv4.nexthop_compat_mode` is 1, which it is from the start.
//! - Notifications of neighbours are complete.
//! - A packet to an unknown neighbour that comes by a TAP interface is dropped, and nobody is asked: forwarding is off.
//!   The kernel looks for a neighbour when it is told that the neighbour is used (`NTF_USE`), without a packet, again
//!   also after it has failed. It does the same to keep one: workers' packets do not touch its entries, which grow stale.
//!   Whoever answers no more ends as failed, and is forgotten.
//! - When a reader is too slow the kernel says `ENOBUFS`, once; then everything is read again.
//! - Answers carry the sequence number of their request. One that was not read to its end goes on, and keeps the kernel
//!   from the next: so after a failure requests go by a new socket. A list that is marked as interrupted
//!   (`NLM_F_DUMP_INTR`) may lack entries, and is asked for again.

mod answer;
mod follow;
mod follower;
mod mirror;
mod netlink;
mod plan;
mod read;
mod table;
mod twin;

use std::{io, net::IpAddr};

use tidegate_dataplane::{
    packet::Mac,
    steering::{IpPrefix, NextHop, PortId},
};

pub use mirror::{Mirror, MirroredPort};
pub use plan::{interface_name, interfaces};
pub use twin::{TwinInterface, Vlan, set_up};

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
    /// Out by a port with a twin. Of several next hops one is taken, the same one for all packets.
    Next(NextHop),
    /// To the box itself: one of the kernel's own addresses.
    Host,
    /// Unreachable, prohibit, or out by an interface that is no port's: senders are told that there is no route.
    Unreachable,
    /// Nowhere, and nobody is told.
    Blackhole,
}

/// The kernel did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Netlink failed as such.
    #[error("{what}: {reason}")]
    Netlink {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        reason: io::Error,
    },
    /// A message could not be read.
    #[error("{what}: the kernel's answer cannot be read: {reason}")]
    Answer {
        /// What was done.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no whole list of what keeps changing.
    #[error(
        "{what}: it changed each of the {times} times it was read; is something making and removing interfaces?"
    )]
    Restless {
        /// What was done.
        what: &'static str,
        /// How often.
        times: u32,
    },
    /// There is no such interface.
    #[error(
        "there is no interface `{0}`; is tun in the kernel, and may this process make interfaces (CAP_NET_ADMIN)?"
    )]
    NoInterface(String),
    /// A VLAN of a twin could not be made.
    #[error(
        "interface `{name}` cannot be made on `{on}`: {reason}; is 8021q in the kernel, and the name free?"
    )]
    Vlan {
        /// Which.
        name: String,
        /// What was to carry it.
        on: String,
        /// Why not.
        reason: Box<Self>,
    },
    /// A setting under /proc/sys could not be written.
    #[error("{path}: {reason}; tidegated sets this for its twins, let it write there")]
    Setting {
        /// Which.
        path: String,
        /// Why not.
        reason: io::Error,
    },
}
