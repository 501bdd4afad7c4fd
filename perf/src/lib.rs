//! The harness: what a packet costs on the box, beside what the same port can do without sessions and beside
//! others that keep them. `README.md` says how to read, rerun and extend it.
//!
//! A *subject* is a program that forwards the packets of a capture: ours or a peer. A *bench* compares subjects,
//! or runs our table and our shard in memory, and gives *metrics*; some metrics have a target.
#![forbid(unsafe_code)]

pub mod bench;
pub mod capture;
pub mod engine;
pub mod machine;
pub mod memory;
pub mod plot;
pub mod result;
pub mod runner;
pub mod samples;
pub mod subject;
pub mod target;
pub mod waiting;

pub use tidegate_packets::{frame, random};
