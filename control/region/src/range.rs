//! One range of a region and how its bytes are merged.

use core::fmt;

use crate::{error::RangeError, log::LOG_HEAD_BYTES};

/// How bytes that changed on both sides since T0 are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MergeType {
    /// Destination plus what the source added since T0, wrapping.
    Sum,
    /// The larger value.
    Max,
    /// The smaller value.
    Min,
    /// The bits of both.
    Or,
    /// The source's bytes.
    SourceWins,
    /// The destination's bytes.
    DestinationWins,
    /// No merge is possible: both sides changing a byte fails the migration.
    Abort,
    /// What the destination has appended since T0, then what the source has; see [`crate::log`].
    AppendLog,
}

impl MergeType {
    /// Every merge type.
    pub const ALL: [Self; 8] = [
        Self::Sum,
        Self::Max,
        Self::Min,
        Self::Or,
        Self::SourceWins,
        Self::DestinationWins,
        Self::Abort,
        Self::AppendLog,
    ];

    /// The number that stands for it in a region.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Sum => 1,
            Self::Max => 2,
            Self::Min => 3,
            Self::Or => 4,
            Self::SourceWins => 5,
            Self::DestinationWins => 6,
            Self::Abort => 7,
            Self::AppendLog => 8,
        }
    }

    /// The merge type a number stands for.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Sum,
            2 => Self::Max,
            3 => Self::Min,
            4 => Self::Or,
            5 => Self::SourceWins,
            6 => Self::DestinationWins,
            7 => Self::Abort,
            8 => Self::AppendLog,
            _ => return None,
        })
    }

    /// Whether values wider than a byte are meant.
    #[must_use]
    pub const fn is_arithmetic(self) -> bool {
        matches!(self, Self::Sum | Self::Max | Self::Min | Self::Or)
    }

    /// The widths a range of this type can have.
    #[must_use]
    pub const fn widths(self) -> &'static [u32] {
        match self {
            Self::Sum | Self::Max | Self::Min | Self::Or | Self::AppendLog => &[1, 2, 4, 8],
            Self::SourceWins | Self::DestinationWins | Self::Abort => &[1],
        }
    }

    /// Its name in messages and documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
            Self::Or => "or",
            Self::SourceWins => "source-wins",
            Self::DestinationWins => "destination-wins",
            Self::Abort => "abort",
            Self::AppendLog => "append-log",
        }
    }
}

impl fmt::Display for MergeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A run of bytes of the region with one merge type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// From the start of the region, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// How it is merged.
    pub merge_type: MergeType,
    /// Bytes of one value; of a log, what the length of every record is a multiple of.
    pub width: u32,
}

impl Range {
    /// First byte after the range; saturates, so that a range that is out of bounds stays so.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len_bytes)
    }

    /// What can be checked about a range without its region.
    pub(crate) fn check(&self) -> Result<(), RangeError> {
        let Self { offset, len_bytes, merge_type, width } = *self;
        if !merge_type.widths().contains(&width) {
            return Err(RangeError::Width { merge_type, width });
        }
        if len_bytes == 0 {
            return Err(RangeError::Empty);
        }
        let is_log = merge_type == MergeType::AppendLog;
        // A log's length is a number of 8 bytes at its start.
        let unit = if is_log { LOG_HEAD_BYTES } else { u64::from(width) };
        if !offset.is_multiple_of(unit) || !len_bytes.is_multiple_of(unit) {
            return Err(RangeError::Misaligned { offset, len_bytes, unit });
        }
        if is_log && len_bytes == LOG_HEAD_BYTES {
            return Err(RangeError::NoRoom { len_bytes });
        }
        Ok(())
    }
}
