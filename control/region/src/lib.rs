//! Layout of a state region in guest memory: what a service writes at the start of its region so that a
//! host can merge the source's changes into the destination without knowing the service.
//!
//! `README.md` says how a service adopts it; `include/tidegate_region.h` is the same for programs in C.
//!
//! All numbers are little-endian; zero is never a valid version, count, merge type or width.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic, `TGREGION` |
//! | 8 | 4 | layout version, 2 |
//! | 12 | 4 | number of ranges, 1 to 64 |
//! | 16 | 8 | size of the whole region in bytes |
//! | 24 | 8 | generation: the service's own number for the content; another one when it begins anew |
//! | 32 | 4 | schema version: the service's own number for the content's format, not zero |
//! | 36 | 28 | zero |
//! | 64 | 32 each | ranges, ascending by offset, not overlapping |
//! | after the last range | | zero up to 4096 |
//! | 4096 | | data |
//!
//! | offset in a range | bytes | what |
//! |---|---|---|
//! | 0 | 8 | offset from the start of the region, in bytes; a multiple of the width, of 8 for a log |
//! | 8 | 8 | length in bytes, not zero; a multiple of the width, of 8 and more than 8 for a log |
//! | 16 | 4 | merge type |
//! | 20 | 4 | width of one value in bytes |
//! | 24 | 8 | zero |
//!
//! | merge type | | widths | what the destination has after the merge, where both sides changed a value since T0 |
//! |---|---|---|---|
//! | `sum` | 1 | 1, 2, 4, 8 | its own value plus what the source added, wrapping |
//! | `max` | 2 | 1, 2, 4, 8 | the larger value |
//! | `min` | 3 | 1, 2, 4, 8 | the smaller value |
//! | `or` | 4 | 1, 2, 4, 8 | the bits of both |
//! | `source-wins` | 5 | 1 | the source's byte; reported |
//! | `destination-wins` | 6 | 1 | its own byte; reported |
//! | `abort` | 7 | 1 | nothing is merged at all; so it is for the header and for bytes outside of every range |
//! | `append-log` | 8 | 1, 2, 4, 8 | its own records, then those the source appended: see [`log`] |
//!
//! A value that one side changed is taken from that side. Values are unsigned. Source and destination must have the same
//! schema version, generation and ranges.
//!
//! Layout version 1 had no schema version (zero is there) and no `append-log`; it is still read.
//!
//! A service writes the magic last: a region whose magic is there is complete.
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod layout;
pub mod log;
mod range;

pub use error::{HeaderError, RangeError};
pub use layout::{HEADER_BYTES, Header, MAGIC, MAX_RANGES, VERSION};
pub use log::LogError;
pub use range::{MergeType, Range};
