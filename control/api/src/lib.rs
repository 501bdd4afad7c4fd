//! The gRPC interface: generated types, clients and servers.
//!
//! `proto/` is the reference. Everything that knows the RPC library's transport is in [`endpoint`], so that
//! servers and clients elsewhere only name an [`Endpoint`](endpoint::Endpoint).
#![forbid(unsafe_code)]

pub mod endpoint;

/// The switch box.
pub mod switch {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("tidegate.switch.v1");
}

/// A hypervisor host.
pub mod host {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("tidegate.host.v1");
}

/// The migration manager.
pub mod manager {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("tidegate.manager.v1");
}

pub use tonic::transport::Channel;
pub use tonic::{Code, Request, Response, Status, Streaming};

/// Encoded descriptors of all services, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate.bin"));
