//! The header: from bytes to valid ranges and back.

use core::fmt;

use crate::{
    error::{HeaderError, RangeError},
    range::{MergeType, Range},
};

/// First eight bytes of a formatted region.
pub const MAGIC: [u8; 8] = *b"TGREGION";
/// The only layout version there is.
pub const VERSION: u32 = 1;
/// Bytes before the data.
pub const HEADER_BYTES: usize = 4096;
/// Most ranges one region can have.
pub const MAX_RANGES: usize = 64;

const RANGES_AT: usize = 64;
const RANGE_BYTES: usize = 32;
const FILLER: Range = Range { offset: 0, len_bytes: 0, merge_type: MergeType::Abort, width: 1 };

/// A valid header: every range lies within the data, ascending, without overlap, aligned to its width.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The service's own number for what it keeps in the region.
    pub generation: u64,
    size_bytes: u64,
    count: usize,
    ranges: [Range; MAX_RANGES],
}

impl Header {
    /// A header for a region of `size_bytes` with these ranges.
    ///
    /// # Errors
    /// [`HeaderError::RangeCount`] or [`HeaderError::Range`].
    pub fn new(generation: u64, size_bytes: u64, ranges: &[Range]) -> Result<Self, HeaderError> {
        let mut header = Self::empty(generation, size_bytes, ranges.len())?;
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
        if version != VERSION {
            return Err(HeaderError::Version { found: version });
        }
        let found = u32_at(bytes, 12);
        let count = usize::try_from(found).map_err(|_| HeaderError::RangeCount { found })?;
        let mut header = Self::empty(u64_at(bytes, 24), u64_at(bytes, 16), count)?;
        zeros(bytes, 32, RANGES_AT)?;
        for index in 0..count {
            let at = RANGES_AT + index * RANGE_BYTES;
            let code = u32_at(bytes, at + 16);
            MergeType::from_code(code)
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
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&count.to_le_bytes());
        out[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        for (range, slot) in
            self.ranges().iter().zip(out[RANGES_AT..].chunks_exact_mut(RANGE_BYTES))
        {
            slot[..8].copy_from_slice(&range.offset.to_le_bytes());
            slot[8..16].copy_from_slice(&range.len_bytes.to_le_bytes());
            slot[16..20].copy_from_slice(&range.merge_type.code().to_le_bytes());
            slot[20..24].copy_from_slice(&range.width.to_le_bytes());
        }
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

    fn empty(generation: u64, size_bytes: u64, count: usize) -> Result<Self, HeaderError> {
        if count == 0 || count > MAX_RANGES {
            let found = u32::try_from(count).unwrap_or(u32::MAX);
            return Err(HeaderError::RangeCount { found });
        }
        Ok(Self { generation, size_bytes, count, ranges: [FILLER; MAX_RANGES] })
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
