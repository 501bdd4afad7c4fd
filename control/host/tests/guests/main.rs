//! Real QEMU guests on real hosts, over loopback.
#![allow(missing_docs)]

mod capture;
mod clone;
mod copies;
mod daemon;
mod image;
mod kept;
mod killed;
mod ready;
mod refusals;
mod restart;
mod rewriter;
mod rig;
mod sockets;
mod straight;
