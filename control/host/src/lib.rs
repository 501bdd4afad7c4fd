//! QEMU guests of one hypervisor host, and what their memory needs for a migration.
//!
//! [`Host::start`] runs everything `tidegate-hostd` does, in any process.
#![forbid(unsafe_code)]

mod agent;
mod capture;
mod config;
mod connections;
mod destination;
mod error;
mod guest;
mod host;
mod inner;
mod migration;
mod qemu;
mod qemu_stream;
mod qmp;
mod ready;
mod receive;
mod records;
mod send;
mod service;
mod sockets;
mod spec;

pub use config::{ApiConfig, DataConfig, HostConfig, QemuConfig};
pub use error::HostError;
pub use host::Host;
