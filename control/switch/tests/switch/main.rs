//! The service as its clients see it, over a Unix socket; behind it real shards that the tests feed with packets.
#![forbid(unsafe_code)]

mod daemon;
mod double;
mod encap;
mod importing;
mod interface;
mod life;
mod links;
mod links_v6;
mod many;
mod ports;
mod refusals;
mod testbox;
mod watching;
mod wire;
