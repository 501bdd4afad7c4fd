//! Packets of the benches, the same in every run, and the parts of the packet path that can be fed with them in
//! memory: the session table and a shard. No port, no process, and little to build.
#![forbid(unsafe_code)]

pub mod client;
pub mod frame;
pub mod random;
pub mod shard;
pub mod table;
