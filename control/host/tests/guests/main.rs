//! Real QEMU guests on real hosts, over loopback.
#![allow(missing_docs)]

mod clone;
mod copies;
mod daemon;
mod ready;
mod refusals;
mod restart;
mod rig;
mod sockets;
