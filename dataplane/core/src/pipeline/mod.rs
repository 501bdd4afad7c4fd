//! Bursts of packets through one shard.
//!
//! A burst goes through stages, each over all its packets ([`Shard::process`]): read headers and find the direction, glance
//! at the sessions, then decide, rewrite and choose the way out. Decisions are in `classify`, the way out in `egress`,
//! header changes in `packet::rewrite`.

mod aside;
mod classify;
mod complaints;
mod egress;
mod fragments;
mod icmp_error;
mod import;
mod lane;
mod limit;
mod neighbours;
mod outcome;
mod quic;
mod selector;
mod sessions;
mod shard;
mod tunnels;
mod upkeep;

pub use import::{Import, ImportedSession};
pub use limit::RateLimit;
pub use outcome::Outcome;
pub use selector::ShardSelector;
pub use shard::{Capacity, Shard};

use std::net::IpAddr;

use crate::{fragments::WAITING, packet::Mac, steering::PortId};

/// The most packets in one burst. Twice what drivers are usually asked for: the more packets, the more of their sessions
/// are on their way from memory at once.
pub const BURST: usize = 64;

/// Places in which a worker keeps frames that its shard holds.
pub const HELD: usize = 2 * WAITING;

/// Who gives a shard a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port.
    Port,
    /// Another worker, which was told to redirect it; or the shard's own, which held it.
    Worker,
}

/// Where a packet goes from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out by this device; the outcome counts once it is sent.
    Transmit(PortId, Outcome),
    /// To the worker with this number: its shard owns the session. It is untouched, or as [`Shard::process`] says.
    Redirect(u16),
    /// It waits in this place, below [`HELD`], until the shard [releases](Shard::next_released) it. What is still in that
    /// place ends as [`Outcome::FragmentNoRoom`].
    Hold(u16),
    /// Nowhere.
    Drop(Outcome),
}

/// What becomes of the frame that is held in this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// What it waited for has come: it is to be processed, and comes from a worker.
    Process(u16),
    /// It goes nowhere.
    Drop(u16, Outcome),
}

/// What the control core should know, noticed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Punt {
    /// A neighbour announced itself, and the snapshot does not know it like that.
    Neighbour {
        /// Where.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
        /// Whether it replaces what is known of the address on that link.
        overrides: bool,
    },
    /// A packet needs this neighbour's MAC.
    Resolve {
        /// Where it should be.
        port: PortId,
        /// Its address.
        address: IpAddr,
    },
}
