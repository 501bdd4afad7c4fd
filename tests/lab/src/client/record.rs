//! What one session saw.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// One session, as its client saw it. Times are microseconds since 1970: all programs of the lab share a clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub session: u32,
    /// Just before the first packet was sent.
    pub connecting_us: u64,
    /// When the connection was established; 0: never.
    pub connected_us: u64,
    /// Just before the client began to close it; 0: not yet.
    pub closing_us: u64,
    /// When the client saw the service's end of it, after its own; 0: not yet.
    pub closed_us: u64,
    /// Answers by who gave them.
    pub identities: BTreeMap<String, u64>,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered, once.
    pub answered: u64,
    /// Answers to requests that were answered already.
    pub doubled: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// The longest a request took.
    pub slowest_us: u64,
    /// Whether the connection was reset or refused, or ended from the other side.
    pub reset: bool,
    /// What went wrong, if anything.
    pub error: Option<String>,
}

impl Record {
    /// Whether it was established and is not closed yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.connected_us != 0 && self.closed_us == 0 && self.error.is_none()
    }
}

/// Now, in microseconds since 1970.
#[must_use]
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
