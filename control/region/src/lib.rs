//! Layout of a state region in guest memory: what a service writes at the start of its region so that a
//! host can merge the source's changes into the destination without knowing the service.
//!
//! All numbers are little-endian; zero is never a valid version, count, merge type or width.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic, `TGREGION` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | number of ranges, 1 to 64 |
//! | 16 | 8 | size of the whole region in bytes |
//! | 24 | 8 | generation: the service's own number for what it keeps here |
//! | 32 | 32 | zero |
//! | 64 | 32 each | ranges, ascending by offset, not overlapping |
//! | after the last range | | zero up to 4096 |
//! | 4096 | | data |
//!
//! | offset in a range | bytes | what |
//! |---|---|---|
//! | 0 | 8 | offset from the start of the region, in bytes; a multiple of the width |
//! | 8 | 8 | length in bytes, not zero; a multiple of the width |
//! | 16 | 4 | merge type: 1 sum, 2 max, 3 min, 4 or, 5 source-wins, 6 destination-wins, 7 abort |
//! | 20 | 4 | width of one value in bytes: 1, 2, 4 or 8 for 1 to 4, otherwise 1 |
//! | 24 | 8 | zero |
//!
//! A service writes the magic last: a region whose magic is there is complete.
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod layout;
mod range;

pub use error::{HeaderError, RangeError};
pub use layout::{HEADER_BYTES, Header, MAGIC, MAX_RANGES, VERSION};
pub use range::{MergeType, Range};
