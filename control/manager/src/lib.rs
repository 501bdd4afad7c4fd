//! tidegate-manager: drives migrations as journaled state machines.
//!
//! A migration is the sequence of its journal's [`record`]s; [`fold`] makes its state of them and says what
//! comes next; [`steps`] act on switch and hosts; the driver between them writes a record before and after
//! every step. [`migrations`] holds all of them, [`service`] shows them to the cloud platform.
#![forbid(unsafe_code)]

pub mod config;
mod driver;
mod dry_run;
pub mod error;
pub mod events;
pub mod fold;
pub mod guest;
pub mod journal;
pub mod link;
pub mod live;
pub mod migrations;
pub mod pace;
pub mod peers;
pub mod phase;
pub mod preflight;
pub mod record;
pub mod server;
pub mod service;
pub mod sessions;
pub mod spec;
pub mod steps;
