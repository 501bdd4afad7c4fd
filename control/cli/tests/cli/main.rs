//! The command line against processes that answer from a script.
#![forbid(unsafe_code)]

mod diff;
mod fakes;
mod lists;
mod migrate;
