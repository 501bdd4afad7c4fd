//! Safe libfabric: one host writes its memory into another's, and the other counts what arrives.
//!
//! ```no_run
//! # fn main() -> Result<(), tidegate_fabric::Error> {
//! # use std::sync::Arc;
//! # use tidegate_fabric::{Endpoint, Event, Provider, Write};
//! # let (ram, here) = (Arc::new(vm_memory::MmapRegion::<()>::new(1 << 30).unwrap()), "192.0.2.1".parse().unwrap());
//! # let (their_address, window) = (vec![], tidegate_fabric::Window { key: 1, base: 0, len: 1 << 30 });
//! // The address and the window of the other side come over a connection that is there already.
//! let mut endpoint = Endpoint::open(Provider::Tcp, here)?;
//! let peer = endpoint.connect(&their_address)?;
//! let source = endpoint.attach(ram)?;
//! let write = Write { source, from: 0, len: 1 << 20, peer, to: &window, at: 0, data: 7, id: 0 };
//! while !endpoint.write(&write)? {
//!     endpoint.poll(&mut |event: Event| assert_eq!(event, Event::Sent { id: 0 }))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The law of memory
//!
//! Here memory is read and written by others than this program's code: a network card, the kernel, another
//! process. So:
//!
//! - It is a [`MmapRegion`](vm_memory::MmapRegion), which nobody can have as a Rust reference to bytes: all
//!   other access to it is volatile, too.
//! - An [`Endpoint`] owns a share (`Arc`) of each region that it registers or writes from, and gives it up only
//!   after the endpoint and the registration are closed, when the transport can reach it no more. If closing
//!   fails, the share is never given up.
//! - A file that is mapped must not shrink: the files are this host's own.
//!
//! # What a completion means
//!
//! [`Event::Sent`] at the writer: the transport needs the source no more. It does not say that the bytes are
//! at the target, because providers differ in that. [`Event::Arrived`] at the target: the bytes of that
//! write are in its memory. So the target counts, and tells the writer over the connection they have.
//! Arrivals may come in another order than their writes.
//!
//! A message ([`Endpoint::send`]) goes to a place that the peer has chosen, and is for what is too small to be
//! worth a write of its own: many such pieces are packed into one message, and the peer puts them where they belong.
//!
//! Progress is manual: bytes move while both sides call [`Endpoint::poll`].
//!
//! # The death of the other side
//!
//! Over `tcp;ofi_rxm` and `verbs;ofi_rxm` a writer's writes fail when the peer's process dies. Over `shm` the kernel is
//! asked whether the peer's process lives ([`Endpoint::connect`], on both sides). A peer that just takes nothing any
//! more ends a write after [`PATIENCE`]. Nothing tells a target: its caller needs a limit of its own, or the end of
//! the connection over which both sides talk.
//!
//! A write with a wrong key, or beyond its window, writes nothing and does not count as an arrival. Neither side
//! is told (libfabric 1.17); the target's count falls short.
//!
//! # What is trusted
//!
//! The network and the peer. Whoever knows a window's key and the address may write into the window; keys that we
//! choose are 64 random bits. Nothing is encrypted, and the providers' parsers believe what comes: `tcp;ofi_rxm`
//! accepts connections from anyone who reaches its port as long as an endpoint is open. `shm` is between processes of
//! one user, which share their queues: one that is killed while it holds the lock of a queue leaves it locked.

mod address;
mod endpoint;
mod error;
mod info;
mod library;
mod memlock;
mod object;
mod provider;

pub use address::{MAX_ADDRESS_BYTES, ip_of};
pub use endpoint::{
    Endpoint, Event, MAX_WRITE_BYTES, Message, PATIENCE, Peer, Source, Window, Write,
};
pub use error::{Errno, Error};
pub use library::library_version;
pub use memlock::{Lockable, lockable};
pub use provider::{Missing, Provider};
