//! The packet path as a whole: bursts in, verdicts and rewritten frames out, on one or several shards.

#[path = "../box/mod.rs"]
mod switch_box;

mod aging;
mod arp;
mod bound;
mod counting;
mod direct;
mod from_vm;
mod limits;
mod malformed;
mod migration;
mod model;
mod model_against_box;
mod new_sessions;
mod rewriting;
mod routing;
mod unknown_tcp;
mod unsupported;
