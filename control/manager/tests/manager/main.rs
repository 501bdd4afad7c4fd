//! The manager against a switch and hosts that only remember.
#![forbid(unsafe_code)]

mod fakes;
mod migrations;
mod preflight;
mod process;
mod ready;
mod service;
mod sessions;
