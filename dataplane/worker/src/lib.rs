//! Poll-mode workers: the packet loops on DPDK ports.
//!
//! [`Workers::start`] launches one [`worker`] per CPU and opens the ports; others may come and go later. A worker polls its queues, takes each
//! burst through its [`Shard`](tidegate_dataplane::pipeline::Shard) and transmits what comes out; packets of
//! another worker's sessions go to it over a ring of the [`mesh`]. The control core speaks to a worker only by
//! its [`link`]: orders one way, reports the other, both taken up between two bursts.
#![forbid(unsafe_code)]

mod clock;
mod config;
mod held;
mod hold;
mod host_limit;
mod idle;
mod link;
mod mesh;
mod outbox;
mod ports;
mod routes;
mod slots;
mod worker;
mod workers;

pub use config::{Idle, PortSpec, Routes, WorkersConfig};
pub use link::Listing;
pub use ports::PortError;
pub use slots::PortReport;
pub use workers::{Acknowledged, Counted, StartError, WorkerError, Workers};
