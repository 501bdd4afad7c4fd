//! The packet generator: clients and VMs on either side of a box, millions of sessions with a whole TCP life through
//! it, and a check of every packet that comes back.
//!
//! One thread plays all ends. [`Life`] knows every session and needs no DPDK; [`Generator`] moves its frames between
//! ports, keeps the rate and takes the time. Each frame carries a [`frame::Tag`]: its session, the VM it must reach,
//! and the time stamp counter when it was sent. Nothing is allocated, locked or asked of the system per packet.
//!
//! Whoever drives a migration meanwhile says so through a [`Conductor`], so that the generator knows who may get a
//! new session.
#![forbid(unsafe_code)]

mod arp;
pub mod checksum;
mod conductor;
mod faults;
pub mod frame;
mod generator;
mod latency;
mod life;
mod pace;
mod ports;
mod report;
mod session;
mod topology;

pub use conductor::{Conductor, Phase};
pub use faults::Faults;
pub use generator::{Generator, Plan};
pub use latency::{Latency, Quantiles};
pub use life::{Answer, Arrival, Life, Stage, Tally};
pub use ports::{Devices, Start, StartError};
pub use report::{Packets, Poller, Report, Sessions};
pub use session::Owner;
pub use topology::{Clients, Topology, Vm};
