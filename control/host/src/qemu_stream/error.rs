//! A stream that is not as it should be.

use std::{fmt, io};

/// What is wrong with a stream, and where.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// Bytes before.
    pub(crate) at_bytes: u64,
    pub(crate) reason: String,
}

impl Malformed {
    pub(super) fn new(at_bytes: u64, reason: impl Into<String>) -> Self {
        Self { at_bytes, reason: reason.into() }
    }

    pub(super) fn ended(at_bytes: u64, awaited: &str) -> Self {
        Self { at_bytes, reason: format!("it ends where {awaited} should come") }
    }

    pub(super) fn unread(at_bytes: u64, error: &io::Error) -> Self {
        Self { at_bytes, reason: format!("it cannot be read: {error}") }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at_bytes, self.reason)
    }
}
