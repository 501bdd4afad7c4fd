//! The packet path over IPv6: what is the same for both families.

pub(crate) const OVER_IPV6: bool = true;

#[path = "../box/mod.rs"]
mod switch_box;

mod aging;
mod bound;
mod complaints;
mod counting;
mod direct;
mod extensions;
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
mod link_local;
mod migration;
mod ndp;
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
