//! Packet and session logic of the switch box, without DPDK.
//!
//! A [`Shard`](pipeline::Shard) owns the sessions of one worker. It is given bursts of packets, acts on them by an
//! immutable [`Snapshot`](steering::Snapshot) and its own [session table](session::SessionTable), rewrites them in
//! place and says for each where it goes and why ([`Verdict`](pipeline::Verdict)). Nothing here allocates, locks or
//! calls the system while packets are processed; nothing here knows where packets come from, so that all of it runs
//! in plain tests.
//!
//! One packet's path: [`packet::parse`] → [`steering::Plane::direction`] → [`session::SessionTable::find`] →
//! [`pipeline`]'s classification → rewriting → verdict.
#![forbid(unsafe_code)]

pub mod counters;
mod fragments;
pub mod packet;
pub mod pipeline;
pub mod session;
pub mod steering;
