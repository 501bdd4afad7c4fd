//! The header: from bytes to valid ranges and back.

use core::fmt;

use crate::{
    error::{HeaderError, RangeError},
    range::{MergeType, Range},
};

/// First eight bytes of a formatted region.
pub const MAGIC: [u8; 8] = *b"TGREGION";
/// The layout version that is written. Version 1, which had no schema version and no logs, is read too.
pub const VERSION: u32 = 2;
/// Bytes before the data.
pub const HEADER_BYTES: usize = 4096;
/// Most ranges one region can have.
pub const MAX_RANGES: usize = 64;

const SCHEMA_AT: usize = 32;
const RANGES_AT: usize = 64;
const RANGE_BYTES: usize = 32;
const FILLER: Range = Range { offset: 0, len_bytes: 0, merge_type: MergeType::Abort, width: 1 };

/// A valid header: every range lies within the data, ascending, without overlap, aligned to its width.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    version: u32,
    schema_version: u32,
    generation: u64,
    size_bytes: u64,
    count: usize,
    ranges: [Range; MAX_RANGES],
}

impl Header {
    /// A header for a region of `size_bytes` with these ranges.
    ///
    /// # Errors
    /// [`HeaderError::Schema`], [`HeaderError::RangeCount`] or [`HeaderError::Range`].
    pub fn new(
        schema_version: u32,
        generation: u64,
        size_bytes: u64,
        ranges: &[Range],
    ) -> Result<Self, HeaderError> {
        if schema_version == 0 {
            return Err(HeaderError::Schema);
        }
        let mut header = Self::empty(ranges.len())?;
        header.schema_version = schema_version;
        header.generation = generation;
        header.size_bytes = size_bytes;
        for (index, range) in ranges.iter().enumerate() {
            header.put(index, *range).map_err(|error| HeaderError::Range { index, error })?;
        }
        Ok(header)
    }

    /// Read the header at the start of `bytes`, of which only the first [`HEADER_BYTES`] are looked at.
    /// That the memory is as long as [`Self::size_bytes`] says is the caller's to check.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of the layout.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or(HeaderError::TooShort { bytes: bytes.len() })?;
        let found = array(bytes, 0);
        if found != MAGIC {
            return Err(HeaderError::Magic { found });
        }
        let version = u32_at(bytes, 8);
        let reserved_from = match version {
            1 => SCHEMA_AT,
            VERSION => SCHEMA_AT + 4,
            found => return Err(HeaderError::Version { found }),
        };
        let found = u32_at(bytes, 12);
        let count = usize::try_from(found).map_err(|_| HeaderError::RangeCount { found })?;
        let mut header = Self::empty(count)?;
        header.version = version;
        header.size_bytes = u64_at(bytes, 16);
        header.generation = u64_at(bytes, 24);
        header.schema_version = u32_at(bytes, SCHEMA_AT);
        if version > 1 && header.schema_version == 0 {
            return Err(HeaderError::Schema);
        }
        zeros(bytes, reserved_from, RANGES_AT)?;
        for index in 0..count {
            let at = RANGES_AT + index * RANGE_BYTES;
            let code = u32_at(bytes, at + 16);
            MergeType::from_code(code)
                .filter(|merge_type| version > 1 || *merge_type != MergeType::AppendLog)
                .ok_or(RangeError::MergeType { code })
                .and_then(|merge_type| {
                    let offset = u64_at(bytes, at);
                    let len_bytes = u64_at(bytes, at + 8);
                    let width = u32_at(bytes, at + 20);
                    header.put(index, Range { offset, len_bytes, merge_type, width })
                })
                .map_err(|error| HeaderError::Range { index, error })?;
            zeros(bytes, at + 24, at + RANGE_BYTES)?;
        }
        zeros(bytes, RANGES_AT + count * RANGE_BYTES, HEADER_BYTES)?;
        Ok(header)
    }

    /// Write the header as it stands at the start of a region.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES]) {
        out.fill(0);
        // `count` is at most MAX_RANGES.
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&count.to_le_bytes());
        out[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        out[SCHEMA_AT..SCHEMA_AT + 4].copy_from_slice(&self.schema_version.to_le_bytes());
        for (range, slot) in
            self.ranges().iter().zip(out[RANGES_AT..].chunks_exact_mut(RANGE_BYTES))
        {
            slot[..8].copy_from_slice(&range.offset.to_le_bytes());
            slot[8..16].copy_from_slice(&range.len_bytes.to_le_bytes());
            slot[16..20].copy_from_slice(&range.merge_type.code().to_le_bytes());
            slot[20..24].copy_from_slice(&range.width.to_le_bytes());
        }
    }

    /// The service's own number for the format of what it keeps in the region; 0 in a region of layout version 1.
    #[must_use]
    pub const fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// The service's own number for the content: another one each time it begins anew.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Size of the whole region in bytes, header included.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The ranges, ascending by offset.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges[..self.count]
    }

    /// A header whose numbers and ranges are to be filled in.
    fn empty(count: usize) -> Result<Self, HeaderError> {
        if count == 0 || count > MAX_RANGES {
            let found = u32::try_from(count).unwrap_or(u32::MAX);
            return Err(HeaderError::RangeCount { found });
        }
        Ok(Self {
            version: VERSION,
            schema_version: 0,
            generation: 0,
            size_bytes: 0,
            count,
            ranges: [FILLER; MAX_RANGES],
        })
    }

    /// Check `range` by itself, against the bounds and against the one before it, then keep it.
    fn put(&mut self, index: usize, range: Range) -> Result<(), RangeError> {
        range.check()?;
        let Range { offset, len_bytes, .. } = range;
        let end = offset.checked_add(len_bytes);
        if offset < HEADER_BYTES as u64 || end.is_none_or(|end| end > self.size_bytes) {
            let size_bytes = self.size_bytes;
            return Err(RangeError::OutOfBounds { offset, len_bytes, size_bytes });
        }
        let previous_end = index.checked_sub(1).map_or(0, |previous| self.ranges[previous].end());
        if offset < previous_end {
            return Err(RangeError::Overlap { offset, previous_end });
        }
        self.ranges[index] = range;
        Ok(())
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("version", &self.version)
            .field("schema_version", &self.schema_version)
            .field("generation", &self.generation)
            .field("size_bytes", &self.size_bytes)
            .field("ranges", &self.ranges())
            .finish()
    }
}

/// `N` bytes at a constant offset within the header.
fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn zeros(bytes: &[u8; HEADER_BYTES], from: usize, to: usize) -> Result<(), HeaderError> {
    match bytes[from..to].iter().position(|byte| *byte != 0) {
        Some(position) => Err(HeaderError::Reserved { offset: from + position }),
        None => Ok(()),
    }
}
