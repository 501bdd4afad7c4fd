//! The content of a range of type `append-log`.
//!
//! | offset in the range | bytes | what |
//! |---|---|---|
//! | 0 | 8 | length: bytes of all records, a multiple of the range's width |
//! | 8 | length | records, one after the other; what they are is the service's business |
//! | 8 + length | | free, up to the range's end; what is there means nothing |
//!
//! A record is written behind the others, then the length over it: a record counts when the length does. Records are not
//! changed afterwards and the length never shrinks. There is no wrapping: a full log is full.
//!
//! A merge keeps the destination's log and appends to it what the source has appended since T0. It is refused, by name and
//! with nothing merged, when that does not fit, when a length is wrong or shorter than at T0, and when the source changed
//! a record it already had at T0.

use core::{
    error::Error,
    fmt,
    sync::atomic::{Ordering, fence},
};

/// Bytes of a log's length, before the records.
pub const LOG_HEAD_BYTES: u64 = 8;
const HEAD: usize = LOG_HEAD_BYTES as usize;

/// Why a log cannot be read or appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The record does not fit any more.
    Full {
        /// Its length.
        record_bytes: usize,
        /// What is free.
        free_bytes: usize,
    },
    /// The record's length is not a multiple of the width, or zero.
    Record {
        /// Its length.
        record_bytes: usize,
        /// The width.
        width: u32,
    },
    /// The log's own length cannot be right.
    Length {
        /// What is there.
        found: u64,
        /// Bytes that fit.
        capacity_bytes: u64,
        /// What it must be a multiple of.
        width: u32,
    },
}

/// The length that a log with room for `capacity_bytes` says it has, if that can be.
///
/// # Errors
/// [`LogError::Length`].
pub fn checked_len(found: u64, capacity_bytes: u64, width: u32) -> Result<u64, LogError> {
    if found > capacity_bytes || !found.is_multiple_of(u64::from(width.max(1))) {
        return Err(LogError::Length { found, capacity_bytes, width });
    }
    Ok(found)
}

/// The records in the bytes of a log's range.
///
/// # Errors
/// [`LogError::Length`].
pub fn records(range: &[u8], width: u32) -> Result<&[u8], LogError> {
    let len = len_of(range, width)?;
    Ok(&range[HEAD..HEAD + len])
}

/// Append a record to the log in the bytes of its range.
///
/// # Errors
/// [`LogError`], with nothing changed.
pub fn append(range: &mut [u8], width: u32, record: &[u8]) -> Result<(), LogError> {
    let len = len_of(range, width)?;
    let record_bytes = record.len();
    if record.is_empty() || !record_bytes.is_multiple_of(width.max(1) as usize) {
        return Err(LogError::Record { record_bytes, width });
    }
    let free = &mut range[HEAD + len..];
    let free_bytes = free.len();
    let place = free.get_mut(..record_bytes).ok_or(LogError::Full { record_bytes, free_bytes })?;
    place.copy_from_slice(record);
    // The guest may be stopped at any instruction: never with a length over a record that is not there.
    fence(Ordering::Release);
    range[..HEAD].copy_from_slice(&((len + record_bytes) as u64).to_le_bytes());
    Ok(())
}

fn len_of(range: &[u8], width: u32) -> Result<usize, LogError> {
    let capacity_bytes = range.len().saturating_sub(HEAD) as u64;
    let head = range.first_chunk().ok_or(LogError::Length { found: 0, capacity_bytes, width })?;
    // Not more than the capacity, which is a `usize`.
    checked_len(u64::from_le_bytes(*head), capacity_bytes, width).map(|len| len as usize)
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full { record_bytes, free_bytes } => {
                write!(f, "the log is full: a record of {record_bytes} bytes, {free_bytes} free")
            }
            Self::Record { record_bytes, width } => write!(
                f,
                "a record of {record_bytes} bytes; its length must be a multiple of {width}, not zero"
            ),
            Self::Length { found, capacity_bytes, width } => write!(
                f,
                "the log says it has {found} bytes; {capacity_bytes} fit, in multiples of {width}"
            ),
        }
    }
}

impl Error for LogError {}
