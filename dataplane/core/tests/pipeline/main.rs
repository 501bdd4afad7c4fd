//! The packet path as a whole: bursts in, verdicts and rewritten frames out, on one or several shards.

/// Everything here is over IPv4; the same over IPv6 is in `v6.rs`.
pub(crate) const OVER_IPV6: bool = false;

#[path = "../box/mod.rs"]
mod switch_box;

mod aging;
mod arp;
mod bound;
mod complaints;
mod counting;
mod direct;
mod fragment_attacks;
mod fragment_model;
mod fragments;
mod from_vm;
mod hairpin;
mod hairpin_errors;
mod half_open_model;
mod icmp_errors;
mod imported;
mod limits;
mod malformed;
mod migration;
mod new_sessions;
mod quic;
mod requirements;
mod rewriting;
mod routing;
mod summed;
mod tunnels;
mod unknown_tcp;
mod unsupported;
mod vlan;
