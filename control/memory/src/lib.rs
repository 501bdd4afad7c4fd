//! Guest memory: capture, copy, diff and merge.
//!
//! Guest memory is files mapped shared ([`mapping::Mapping`]); it changes under the reader, so it is only
//! copied in and out. A migration's bytes take this path: source's files → [`twin`] (while the source is
//! paused) → [`copy`] over a [`transport`] → destination's files; later, source's regions against the twin →
//! [`diff`] → [`copy`] → [`merge`] into the destination's regions. Where the destination's memory shall be the source's,
//! RAM and regions against the twin → [`image_diff`] → destination's files.
//!
//! Everything here blocks; callers run it on threads that may.
#![forbid(unsafe_code)]

pub mod ahead;
pub mod copy;
pub mod diff;
pub mod error;
pub mod forecast;
#[doc(hidden)]
pub mod fuzzing;
mod header;
pub mod image_diff;
pub mod image_digest;
pub mod kept;
pub mod mapping;
pub mod merge;
pub mod object;
pub mod page_hashes;
mod parallel;
mod redo;
mod runs;
pub mod scan;
pub mod transport;
pub mod twin;
mod wire;

pub use error::MemoryError;
pub use mapping::Mapping;
pub use object::{Object, ObjectKind};
pub use page_hashes::PageHashes;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// For what is under locks here, a panic half way shows later, in a digest that differs.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
