//! The manager against a switch and hosts that only remember.
#![forbid(unsafe_code)]

mod carriage;
mod copies;
mod fakes;
mod families;
mod holds;
mod link;
mod migrations;
mod mirror;
mod policies;
mod preflight;
mod process;
mod ready;
mod restarts;
mod service;
mod sessions;
mod source_gone;
mod straight;
mod tunnels;
