//! The gRPC interface: generated types, clients and servers.
//!
//! `proto/` is the reference. Everything that knows the RPC library's transport is in [`endpoint`], so that
//! servers and clients elsewhere only name an [`Endpoint`](endpoint::Endpoint).
#![forbid(unsafe_code)]

pub mod endpoint;

/// The packages as they are nested in `proto/`: types of one name those of another by that path.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod tidegate {
    pub mod switch {
        pub mod v1 {
            tonic::include_proto!("tidegate.switch.v1");
        }
    }
    pub mod host {
        pub mod v1 {
            tonic::include_proto!("tidegate.host.v1");
        }
    }
    pub mod manager {
        pub mod v1 {
            tonic::include_proto!("tidegate.manager.v1");
        }
    }
}

/// A hypervisor host.
pub use tidegate::host::v1 as host;
/// The migration manager.
pub use tidegate::manager::v1 as manager;
/// The switch box.
pub use tidegate::switch::v1 as switch;
pub use tonic::transport::Channel;
pub use tonic::{Code, Request, Response, Status, Streaming};

/// Encoded descriptors of all services, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate.bin"));
