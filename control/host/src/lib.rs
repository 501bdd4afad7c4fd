//! QEMU guests of one hypervisor host, and what their memory needs for a migration.
//!
//! [`Host::start`] runs everything `tidegate-hostd` does, in any process.
#![forbid(unsafe_code)]

mod agent;
mod ahead;
mod beside;
mod budget;
mod capture;
mod carriage;
mod config;
mod connections;
mod data;
mod destination;
mod disks;
mod dry_run;
mod error;
mod guest;
mod host;
mod image;
mod inner;
mod migration;
mod mirror;
mod qemu;
mod qemu_stream;
mod qmp;
mod ready;
mod receive;
mod records;
mod safety;
mod send;
mod service;
mod settle;
mod sockets;
mod spec;
mod warm;

pub use config::{ApiConfig, Compressing, DataConfig, HostConfig, QemuConfig, TlsConfig};
pub use data::Choice;
pub use error::HostError;
pub use host::Host;
#[doc(hidden)]
pub use qemu_stream::fuzzing;
