//! The manager against a switch and hosts that only remember.
#![forbid(unsafe_code)]

mod carriage;
mod fakes;
mod families;
mod link;
mod migrations;
mod mirror;
mod policies;
mod preflight;
mod process;
mod ready;
mod service;
mod sessions;
mod tunnels;
