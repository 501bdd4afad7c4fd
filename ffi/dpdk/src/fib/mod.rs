//! Longest-prefix match: tables that say where an address's packets go.
//!
//! A lookup walks a table by the address: 24 bits at once, then a byte at a time in tables of 256 entries, DPDK's *tbl8*s.
//! An IPv4 address takes one or two reads, an IPv6 address one to fourteen.
//!
//! Of DPDK's four libraries for this, [`Fib4`] is `rte_fib` and [`Fib6`] is `rte_lpm6`. `rte_fib6` of 22.11 never gives
//! back the tbl8s that it has set aside for a route, so that a table whose routes come and go fills up while it is empty;
//! `rte_lpm` goes through all rules of a length for each change.

mod v4;
mod v6;

pub use v4::Fib4;
pub use v6::Fib6;

use crate::error::{Errno, Error};

/// The largest next hop.
pub const MAX_HOP: u16 = 32_766;
/// What a lookup answers where no route is. A route may lead there, too: as if it and the shorter ones were not.
const NO_ROUTE: u16 = 0;
/// Addresses looked up in one call of DPDK's.
const AT_ONCE: usize = 64;

/// How much a table holds. All of it is taken from EAL's memory when the table is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FibConfig {
    /// Routes, at least 1.
    pub max_routes: u32,
    /// tbl8s, at least 1.
    ///
    /// IPv4: one for each /24 network with a longer route in it, 512 bytes each, at most 32,766; beside them the table
    /// takes 32 MiB.
    ///
    /// IPv6: one for each network of /24, /32, … /120 with a longer route in it: five for a /64 alone, eight more for
    /// each /128 in it that shares no further byte with another. 1 KiB each, at most 2,097,152; beside them the table
    /// takes 64 MiB.
    pub tbl8s: u32,
}

fn check_hop(hop: u16) -> Result<(), Error> {
    if hop > MAX_HOP { Err(Error::NextHop { hop }) } else { Ok(()) }
}

/// The error of a call that concerns one route.
fn route_error(call: &'static str, errno: Errno, prefix: String, name: &str) -> Error {
    Error::Call { call, on: format!("{prefix} in table {name:?}"), errno }
}
