//! Real QEMU guests on real hosts, over loopback.
#![allow(missing_docs)]

mod clone;
mod refusals;
mod restart;
mod rig;
