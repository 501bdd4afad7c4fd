//! What can be wrong with a region's header.

use core::{error::Error, fmt};

use crate::{HEADER_BYTES, MAX_RANGES, MergeType, VERSION};

/// Why the start of a region is not a valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    TooShort {
        /// How many there were.
        bytes: usize,
    },
    /// The magic is not there: no service has formatted the region yet.
    Magic {
        /// What is there instead.
        found: [u8; 8],
    },
    /// A version this code does not know.
    Version {
        /// What is there.
        found: u32,
    },
    /// No range, or more than fit.
    RangeCount {
        /// What is there.
        found: u32,
    },
    /// The schema version is zero.
    Schema,
    /// Bytes that must be zero are not.
    Reserved {
        /// The first such byte.
        offset: usize,
    },
    /// A range is wrong in itself or against its neighbours.
    Range {
        /// Which, from 0.
        index: usize,
        /// How.
        error: RangeError,
    },
}

/// What is wrong with one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// A merge type this code does not know.
    MergeType {
        /// What is there.
        code: u32,
    },
    /// A width the merge type does not have.
    Width {
        /// The merge type.
        merge_type: MergeType,
        /// What is there.
        width: u32,
    },
    /// Length zero.
    Empty,
    /// Offset or length is not a multiple of the width, or of 8 for a log.
    Misaligned {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        len_bytes: u64,
        /// What both must be multiples of.
        unit: u64,
    },
    /// A log without room for records.
    NoRoom {
        /// How long it is.
        len_bytes: u64,
    },
    /// It reaches into the header or past the region's end.
    OutOfBounds {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        len_bytes: u64,
        /// Size of the region.
        size_bytes: u64,
    },
    /// It starts before the previous range ends.
    Overlap {
        /// Where it starts.
        offset: u64,
        /// Where the previous range ends.
        previous_end: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { bytes } => {
                write!(f, "a region header is {HEADER_BYTES} bytes, there are only {bytes}")
            }
            Self::Magic { found } => write!(
                f,
                "the region is not formatted: it starts with `{}` instead of `TGREGION`",
                found.escape_ascii()
            ),
            Self::Version { found } => {
                write!(f, "region layout version {found} is not supported, only 1 to {VERSION} are")
            }
            Self::RangeCount { found } => {
                write!(f, "the region declares {found} ranges; 1 to {MAX_RANGES} are allowed")
            }
            Self::Schema => f.write_str("the region's schema version is zero; count from 1"),
            Self::Reserved { offset } => {
                write!(f, "byte {offset} of the region header must be zero")
            }
            Self::Range { index, error } => write!(f, "range {index} of the region: {error}"),
        }
    }
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MergeType { code } => {
                write!(
                    f,
                    "merge type {code} is unknown; 1 to 7 are known, since layout version 2 also 8"
                )
            }
            Self::Width { merge_type, width } => {
                let allowed = if merge_type.widths().len() > 1 { "1, 2, 4 or 8" } else { "1" };
                write!(f, "width {width} does not fit merge type {merge_type}; {allowed} does")
            }
            Self::Empty => f.write_str("its length is zero"),
            Self::Misaligned { offset, len_bytes, unit } => {
                write!(f, "offset {offset} and length {len_bytes} must be multiples of {unit}")
            }
            Self::NoRoom { len_bytes } => {
                write!(f, "a log of {len_bytes} bytes has no room for records behind its length")
            }
            Self::OutOfBounds { offset, len_bytes, size_bytes } => write!(
                f,
                "{len_bytes} bytes at {offset} are not within the data of the region, \
                 {HEADER_BYTES} to {size_bytes}"
            ),
            Self::Overlap { offset, previous_end } => {
                write!(f, "it starts at {offset}, before the previous one ends at {previous_end}")
            }
        }
    }
}

impl Error for HeaderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Range { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Error for RangeError {}
