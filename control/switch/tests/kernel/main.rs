//! The mirror against a real kernel: `ip` changes it, and the mirror says the same as `ip` shows.
//!
//! Runs in the lab's network namespace, and makes interfaces there.
#![forbid(unsafe_code)]

mod load;
mod neighbours;
mod random;
mod rig;
mod routes;
mod twins;
