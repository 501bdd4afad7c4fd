//! What changed in regions since T0: runs of bytes with their value at T0 and now, for merging.
//!
//! Runs start and end at multiples of [`ALIGN_BYTES`] (or the region's end), so that a value of any width a
//! region can declare lies in a run whole or not at all. Of each `append-log` range there are always its length and, whole,
//! what was appended since T0: the destination knows no bytes of T0 that a run does not have.
//!
//! A diff travels and is kept in this layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `TGDIFF` and two zeros |
//! | 4 | version, 2 |
//! | 4 | number of regions, at most 256 |
//! | each region | |
//! | 2, n | name's length and name |
//! | 8 | region's size, not zero |
//! | 4 | 4096 when a service has formatted the region, otherwise 0 |
//! | 4096 | if so: the header as the source has it now |
//! | 8 | number of runs |
//! | each run | ascending, not overlapping, inside the region |
//! | 8 | offset |
//! | 4 | length n, 1 to 65536 |
//! | n, n | bytes at T0, bytes now |

mod codec;
mod compare;
mod logs;

use tidegate_region::Header;

pub use crate::scan::Figures;
use crate::{runs::WORD_BYTES, scan::GROUP_BYTES};

/// Runs are widened to this.
pub const ALIGN_BYTES: usize = WORD_BYTES;
/// Changed words that are no further apart are one run: a run's own overhead is more than the gap.
pub(crate) const GAP_WORDS: usize = 1;
/// Longest run.
const MAX_RUN_BYTES: usize = GROUP_BYTES;

/// Bytes that changed, and what surrounds them up to the alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Where in the region.
    pub offset: u64,
    /// At T0.
    pub base: &'a [u8],
    /// Now, at the source; as long as `base`.
    pub theirs: &'a [u8],
}

/// Runs, packed: many are a few bytes long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Offset and length.
    places: Vec<(u64, u32)>,
    base: Vec<u8>,
    theirs: Vec<u8>,
}

/// What changed in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDiff {
    /// The region.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// The source's header, if a service has formatted the region.
    pub header: Option<Box<Header>>,
    /// Ascending, not overlapping.
    pub runs: Runs,
}

/// What changed in a guest's regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// One entry for each region compared.
    pub regions: Vec<RegionDiff>,
}

impl Runs {
    /// Append a run.
    pub fn push(&mut self, offset: u64, base: &[u8], theirs: &[u8]) {
        debug_assert!(base.len() == theirs.len() && base.len() <= MAX_RUN_BYTES);
        self.places.push((offset, theirs.len() as u32));
        self.base.extend_from_slice(base);
        self.theirs.extend_from_slice(theirs);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Run<'_>> {
        let mut from = 0;
        self.places.iter().map(move |(offset, len)| {
            let bytes = from..from + *len as usize;
            from = bytes.end;
            Run { offset: *offset, base: &self.base[bytes.clone()], theirs: &self.theirs[bytes] }
        })
    }

    /// Take over all of `other`'s, which lie behind.
    fn append(&mut self, other: &mut Self) {
        self.places.append(&mut other.places);
        self.base.append(&mut other.base);
        self.theirs.append(&mut other.theirs);
    }
}

#[cfg(test)]
mod tests;
