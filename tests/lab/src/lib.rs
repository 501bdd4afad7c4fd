//! End-to-end lab: a switch box, guests and clients in network namespaces.
//!
//! Everything here runs inside `tests/lab/scripts/lab`, whose network namespace is the box's side; the clients
//! have one of their own, with the box's uplink in it. See [`Lab`].
#![forbid(unsafe_code)]

pub mod apart;
pub mod api;
pub mod client;
pub mod clients;
pub mod cloud;
pub mod data_proxy;
pub mod drain_watch;
pub mod family;
pub mod figures;
pub mod lab;
pub mod migration;
pub mod monitor;
pub mod neighbours;
pub mod process;
pub mod pulse;
pub mod region;
pub mod report;
pub mod rig;
pub mod scenario;
pub mod switch_box;
pub mod view;

pub use family::Family;
pub use lab::Lab;
pub use rig::{Mode, Rig};
