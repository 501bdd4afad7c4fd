//! The way guest bytes take from host to host, apart from what is said about them.
//!
//! A copy ([`crate::copy`]) has one control stream and a data path. The data path is a [`Transport`]'s: it puts
//! pieces of the source's memory to the same place of the destination's, in any order, on one or more lanes, and
//! the receiving end counts for each lane what has arrived. What a count means is the transport's own matter
//! (chunks landed, writes completed); the sender asks its lane for the count that stands for "all until here"
//! ([`Lane::mark`]), tells the receiver over the control stream, and the receiver waits for it
//! ([`Arrivals::wait`]). Nothing else orders the lanes.
//!
//! ```text
//! sender's host                                     receiver's host
//!                     control stream: LAYOUT ──▶    Transport::accept(ground) ── Arrivals
//!   Transport::connect(offer)  ◀── PLAN (offer)     Arrivals::offer()
//!   Lane::put(piece) ════════ data path ═══════▶    bytes land in the ground, arrivals are counted
//!   Lane::mark() = n ──▶ SECTION (lane, n) ──▶      Arrivals::wait(lane, n), digest of what is in memory
//! ```
//!
//! One lane is used by one thread. What two lanes put to one page without a barrier between them may land in
//! either order.

pub mod fabric;
mod joins;
mod pack;
pub mod stream;
pub mod tcp;
pub mod tls;

use std::{sync::Arc, time::Duration};

use crate::{Mapping, MemoryError, copy::ground::Ground};

pub use joins::Joins;
pub use pack::Compression;
pub use stream::{Cut, Dial, DialPlain, Plain, Stream};
pub use tcp::{TcpReceiver, TcpSender};
pub use tls::{DialTls, TlsIdentity};

/// Most bytes put at once.
pub const MAX_PIECE_BYTES: u64 = 1 << 20;
/// Longest offer.
pub const MAX_OFFER_BYTES: usize = 4096;

/// A stretch of an object's memory: starts at a page, ends at one or at the object's end, not empty, of at most
/// [`MAX_PIECE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the object in the layout.
    pub object: usize,
    /// Where in the object.
    pub offset: u64,
    /// How long.
    pub len_bytes: u64,
}

/// A data path between two hosts.
pub trait Transport: Send + Sync {
    /// How it is named in configuration, HELLO and reports: `tcp`, `fabric:tcp;ofi_rxm`.
    fn name(&self) -> String;

    /// Whether what it carries is encrypted and both ends are authenticated.
    fn is_encrypted(&self) -> bool;

    /// The sending end: reach the receiver's end by its offer. `memory` are the objects in the layout's order, those without one have
    /// nothing to be put.
    /// One lane or more; they live as long as the copy.
    ///
    /// # Errors
    /// [`MemoryError::Connection`], [`MemoryError::Protocol`] when the offer makes no sense,
    /// [`MemoryError::Refused`].
    fn connect(
        &self,
        offer: &[u8],
        memory: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError>;

    /// The receiving end: be ready for a sender to put its memory into `ground`.
    ///
    /// # Errors
    /// [`MemoryError`] when this host cannot.
    fn accept(&self, ground: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError>;
}

/// One ordered way into the receiver's memory. Dropping it ends it.
pub trait Lane: Send {
    /// Put a piece of `memory` to the same place of the receiver's object. The memory must not be changed or
    /// unmapped before a later [`Self::mark`] has been reached. Answers the bytes that went over the wire.
    ///
    /// # Errors
    /// [`MemoryError::Connection`].
    fn put(&mut self, piece: Piece, memory: &Mapping) -> Result<u64, MemoryError>;

    /// Make the receiver's bytes of a piece zero.
    ///
    /// # Errors
    /// [`MemoryError::Connection`].
    fn zero(&mut self, piece: Piece) -> Result<u64, MemoryError>;

    /// The count the receiver's end has when everything of this lane until here has arrived. Some of it may be held
    /// back until the next [`Self::put`]s or [`Self::rest`].
    ///
    /// # Errors
    /// [`MemoryError::Connection`].
    fn mark(&mut self) -> Result<u64, MemoryError>;

    /// Nothing is put for a while: whatever was held back leaves now.
    ///
    /// # Errors
    /// [`MemoryError::Connection`].
    fn rest(&mut self) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// The receiving end of one copy. Dropping it ends its lanes, and nothing lands in the ground from then on.
pub trait Arrivals: Send + Sync {
    /// What the sender's end needs to know to reach this one, at most [`MAX_OFFER_BYTES`].
    fn offer(&self) -> Vec<u8>;

    /// Wait until a lane's count is at least `mark`, or for `patience`; the count then. What was counted is in the
    /// ground's memory and, unless [`Self::lands_unseen`], in its page hashes. A lane that has not come yet has
    /// counted nothing.
    ///
    /// # Errors
    /// [`MemoryError::Connection`] when the lane broke; what the sender did wrong on it.
    fn wait(&self, lane: usize, mark: u64, patience: Duration) -> Result<u64, MemoryError>;

    /// Whether no lane has failed since the last question.
    ///
    /// # Errors
    /// As [`Self::wait`].
    fn check(&self) -> Result<(), MemoryError>;

    /// Whether bytes land without [`Ground::land`], so that a section has to be hashed when it is committed.
    fn lands_unseen(&self) -> bool {
        false
    }
}
