//! The crate's errors.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::time::Duration;

use tidegate_fabric_sys as sys;

use crate::{Missing, Provider, library::Library};

/// An error number of libfabric (POSIX numbers and a few of its own), positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Memory cannot be registered: of verbs, mostly that so much may not be locked.
    pub const ENOMEM: Self = Self(sys::FI_ENOMEM as i32);
    /// There is nothing that fits what was asked.
    pub const ENODATA: Self = Self(sys::FI_ENODATA as i32);

    /// Not now.
    pub(crate) const EAGAIN: Self = Self(sys::FI_EAGAIN as i32);
    /// An error waits to be read.
    pub(crate) const EAVAIL: Self = Self(sys::FI_EAVAIL as i32);
    /// An argument is not valid.
    pub(crate) const EINVAL: Self = Self(sys::FI_EINVAL as i32);

    /// The number in a function's negative answer.
    pub(crate) fn of(answer: impl Into<i64>) -> Self {
        Self(i32::try_from(-answer.into()).unwrap_or(i32::MAX))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Library::load().is_err() {
            return write!(f, "errno {}", self.0);
        }
        // SAFETY: the library is loaded; fi_strerror answers with static text, or with strerror's for POSIX
        // numbers, which is copied out at once.
        let text = unsafe { CStr::from_ptr(sys::tg_fi_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The provider is not there.
    #[error("{provider} cannot be used: {missing}")]
    Missing {
        /// Which.
        provider: Provider,
        /// Why.
        missing: Missing,
    },
    /// A libfabric function failed.
    #[error("{provider}: {call} failed: {errno}")]
    Call {
        /// Of which provider.
        provider: Provider,
        /// The function.
        call: &'static str,
        /// What it answered.
        errno: Errno,
    },
    /// Memory could not be registered.
    #[error(
        "{provider}: {len} bytes of memory cannot be registered: {errno}{}",
        if provider.pins() { "; raise the limit of locked memory (`ulimit -l`, LimitMEMLOCK= of the unit)" } else { "" }
    )]
    Register {
        /// With which provider.
        provider: Provider,
        /// How much.
        len: u64,
        /// What the provider answered.
        errno: Errno,
    },
    /// No random key could be had.
    #[error("no random key for a window of memory: {0}")]
    Random(io::Error),
    /// An address that the peer sent is not one of this provider.
    #[error("the peer's address is not one of {provider}: {reason}")]
    Address {
        /// Which provider.
        provider: Provider,
        /// What is wrong with it.
        reason: String,
    },
    /// A write that does not lie within its source or its window. Nothing was written.
    #[error("{len} bytes at {offset} lie outside {what} of {size} bytes")]
    OutOfBounds {
        /// The source or the window.
        what: &'static str,
        /// Start.
        offset: u64,
        /// Length.
        len: u64,
        /// What there is.
        size: u64,
    },
    /// A write failed on its way: the peer refused it, or is gone. The endpoint is of no more use.
    #[error("{provider}: write {id} failed: {errno}{}{said}", if said.is_empty() { "" } else { ": " })]
    Write {
        /// Of which provider.
        provider: Provider,
        /// Its number.
        id: u64,
        /// The error.
        errno: Errno,
        /// How the provider puts it.
        said: String,
    },
    /// Something that the peer did failed here, such as a write with a wrong key. The endpoint is of no more use.
    #[error("{provider}: a write of the peer failed: {errno}{}{said}", if said.is_empty() { "" } else { ": " })]
    Arrival {
        /// Of which provider.
        provider: Provider,
        /// The error.
        errno: Errno,
        /// How the provider puts it.
        said: String,
    },
    /// The peer has taken nothing for too long: it cannot be reached, or does not poll.
    #[error("{provider}: the peer takes nothing since {} s", silence.as_secs())]
    Stuck {
        /// Of which provider.
        provider: Provider,
        /// For how long.
        silence: Duration,
    },
    /// The peer's process has ended.
    #[error("{provider}: the peer, process {pid}, is gone")]
    PeerGone {
        /// Of which provider.
        provider: Provider,
        /// Its number.
        pid: i32,
    },
}
