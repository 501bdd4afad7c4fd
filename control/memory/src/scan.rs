//! Comparing memory with its twin at memory's speed.
//!
//! A page that is as it was costs two reads and nothing else: it is compared where it is. What differs is copied out, a
//! group of neighbouring pages at a time, and looked at in the copies, so that what is found and what is sent are the same
//! bytes even when a guest writes meanwhile.

use std::ops::AddAssign;

use crate::{
    Mapping, MemoryError, Object,
    mapping::PAGE_BYTES,
    page_hashes::{PageHashes, ZERO_PAGE, hash_page_in},
    runs::pack,
    twin::next_data,
};

/// What one thread compares at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// Most bytes copied out at once: both copies fit the second-level cache.
pub(crate) const GROUP_BYTES: usize = 64 * 1024;
/// Compared at once, before single pages are.
const BLOCK_BYTES: u64 = 64 * 1024;

/// What is kept of T0 of one object.
#[derive(Clone, Copy, Debug)]
pub enum Twin<'a> {
    /// All bytes: changes are found byte by byte.
    Bytes(&'a Mapping),
    /// A hash for each page: a changed page counts as changed in whole.
    Hashes(&'a PageHashes),
}

/// An object beside its twin.
#[derive(Clone, Debug)]
pub struct Compared<'a> {
    /// Which, and its size.
    pub object: Object,
    /// As of T0.
    pub twin: Twin<'a>,
    /// As it is.
    pub now: &'a Mapping,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes looked at.
    pub compared_bytes: u64,
    /// Pages in which something differs.
    pub dirty_pages: u64,
    /// Bytes that differ; all bytes of a page where only its hash is known.
    pub changed_bytes: u64,
    /// Runs they are packed in.
    pub runs: u64,
    /// Bytes of these runs, the small gaps between changes included.
    pub run_bytes: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.compared_bytes += other.compared_bytes;
        self.dirty_pages += other.dirty_pages;
        self.changed_bytes += other.changed_bytes;
        self.runs += other.runs;
        self.run_bytes += other.run_bytes;
    }
}

impl Twin<'_> {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(twin) => twin.size_bytes(),
            Self::Hashes(hashes) => hashes.size_bytes(),
        }
    }
}

impl Compared<'_> {
    /// Twin and memory must be as large as they are said to be.
    pub(crate) fn check(&self) -> Result<(), MemoryError> {
        let (is, was) = (self.now.size_bytes(), self.twin.size_bytes());
        if is == was && is == self.object.size_bytes {
            return Ok(());
        }
        Err(MemoryError::Mismatch {
            object: self.object.kind.clone(),
            reason: format!(
                "it is {is} bytes, its twin {was}, and {} were expected",
                self.object.size_bytes
            ),
        })
    }

    pub(crate) fn pieces(&self) -> Result<Vec<Piece>, MemoryError> {
        pieces_of(self.now)
    }
}

/// Cut memory into pieces, each with data or a hole.
pub(crate) fn pieces_of(memory: &Mapping) -> Result<Vec<Piece>, MemoryError> {
    pieces(|at| next_data(memory.file(), memory.path(), at), memory.size_bytes())
}

/// A part of an object, at most [`PIECE_BYTES`] long and not across a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    /// The file has a hole here: it reads as zeros, and looking at it in memory would allocate it.
    pub(crate) hole: bool,
}

/// Cut an object of `size_bytes` into pieces. `next_data` is asked where its file has data at an offset or behind it: of what has
/// data, that is answered at once, where asking for the end of data would look at every page.
fn pieces(
    mut next_data: impl FnMut(u64) -> Result<Option<u64>, MemoryError>,
    size_bytes: u64,
) -> Result<Vec<Piece>, MemoryError> {
    let mut data = None;
    let mut pieces = Vec::new();
    for start in (0..size_bytes).step_by(PIECE_BYTES as usize) {
        let len_bytes = PIECE_BYTES.min(size_bytes - start);
        if data.is_none_or(|data| data < start) {
            data = Some(next_data(start)?.unwrap_or(size_bytes));
        }
        let hole = data.is_some_and(|data| data >= start + len_bytes);
        pieces.push(Piece { start, len_bytes, hole });
    }
    Ok(pieces)
}

/// Neighbouring pages that changed.
pub(crate) struct Group<'a> {
    /// Where in the object.
    pub(crate) start: u64,
    /// At T0, where it is known.
    pub(crate) base: Option<&'a [u8]>,
    /// Now.
    pub(crate) theirs: &'a [u8],
}

impl Group<'_> {
    /// Call `run` for each run of changed bytes in the group; the number of bytes that changed.
    pub(crate) fn runs(
        &self,
        gap_words: usize,
        mut run: impl FnMut(std::ops::Range<usize>),
    ) -> u64 {
        if let Some(base) = self.base {
            return pack(base, self.theirs, gap_words, run);
        }
        run(0..self.theirs.len());
        self.theirs.len() as u64
    }
}

/// One thread's buffers.
pub(crate) struct Scanner {
    base: Vec<u8>,
    theirs: Vec<u8>,
    /// Of the latest piece.
    dirty_pages: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { base: vec![0; GROUP_BYTES], theirs: vec![0; GROUP_BYTES], dirty_pages: 0 }
    }
}

impl Scanner {
    /// Call `found` for each group of changed pages of a piece, ascending.
    pub(crate) fn piece(
        &mut self,
        compared: &Compared<'_>,
        piece: &Piece,
        found: &mut dyn FnMut(&Group<'_>),
    ) -> Result<(), MemoryError> {
        self.dirty_pages = 0;
        let end = piece.start + piece.len_bytes;
        let mut at = piece.start;
        while at < end {
            if at.is_multiple_of(BLOCK_BYTES) && Self::is_as_it_was(compared, piece, at, end)? {
                at += BLOCK_BYTES;
                continue;
            }
            let most = end.min(at + GROUP_BYTES as u64);
            let first = at;
            while at < most && self.page_differs(compared, piece, at, end)? {
                at += PAGE_BYTES as u64;
                self.dirty_pages += 1;
            }
            if at > first {
                self.group(compared, piece, first, at.min(end), found)?;
            }
            if at < most {
                // The page that ended the group, if any page did, is as it was.
                at += PAGE_BYTES as u64;
            }
        }
        Ok(())
    }

    /// Call `found` for all of a piece, whatever its twin says.
    pub(crate) fn whole_piece(
        &mut self,
        compared: &Compared<'_>,
        piece: &Piece,
        found: &mut dyn FnMut(&Group<'_>),
    ) -> Result<(), MemoryError> {
        self.dirty_pages = piece.len_bytes.div_ceil(PAGE_BYTES as u64);
        let end = piece.start + piece.len_bytes;
        for start in (piece.start..end).step_by(GROUP_BYTES) {
            let theirs = &mut self.theirs[..(end - start).min(GROUP_BYTES as u64) as usize];
            Self::read_now(compared, piece, start, theirs)?;
            found(&Group { start, base: None, theirs });
        }
        Ok(())
    }

    /// Figures of the latest piece that its groups do not tell.
    pub(crate) fn looked_at(&self, piece: &Piece) -> Figures {
        Figures {
            compared_bytes: piece.len_bytes,
            dirty_pages: self.dirty_pages,
            ..Figures::default()
        }
    }

    /// Whether nothing of a block changed, as is the case with most of them: at the speed of memory, which page by page is not
    /// reached. What cannot be said at once is said page by page.
    fn is_as_it_was(
        compared: &Compared<'_>,
        piece: &Piece,
        at: u64,
        end: u64,
    ) -> Result<bool, MemoryError> {
        match compared.twin {
            Twin::Bytes(twin) if !piece.hole => {
                Ok(!compared.now.differs(at, BLOCK_BYTES.min(end - at), twin)?)
            }
            _ => Ok(false),
        }
    }

    fn page_differs(
        &mut self,
        compared: &Compared<'_>,
        piece: &Piece,
        at: u64,
        end: u64,
    ) -> Result<bool, MemoryError> {
        let len = (end - at).min(PAGE_BYTES as u64) as usize;
        match compared.twin {
            Twin::Bytes(twin) if !piece.hole => compared.now.differs(at, len as u64, twin),
            Twin::Bytes(twin) => {
                twin.read(at, &mut self.base[..len])?;
                Ok(self.base[..len] != [0; PAGE_BYTES][..len])
            }
            Twin::Hashes(hashes) => {
                // In bounds: the sizes were compared.
                let was = hashes.hashes()[(at / PAGE_BYTES as u64) as usize];
                let now = if piece.hole {
                    ZERO_PAGE
                } else {
                    hash_page_in(compared.now, at, len as u64)?
                };
                Ok(was != now)
            }
        }
    }

    fn group(
        &mut self,
        compared: &Compared<'_>,
        piece: &Piece,
        start: u64,
        end: u64,
        found: &mut dyn FnMut(&Group<'_>),
    ) -> Result<(), MemoryError> {
        let len = (end - start) as usize;
        let theirs = &mut self.theirs[..len];
        Self::read_now(compared, piece, start, theirs)?;
        let base = match compared.twin {
            Twin::Bytes(twin) => {
                twin.read(start, &mut self.base[..len])?;
                Some(&self.base[..len])
            }
            Twin::Hashes(_) => None,
        };
        found(&Group { start, base, theirs });
        Ok(())
    }

    fn read_now(
        compared: &Compared<'_>,
        piece: &Piece,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        if piece.hole {
            into.fill(0);
            return Ok(());
        }
        compared.now.read(start, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_without_data_is_a_hole() {
        const PIECES: u64 = 9;
        let data =
            [(0, 1), (2 * PIECE_BYTES - 1, 2 * PIECE_BYTES), (6 * PIECE_BYTES + 9, u64::MAX)];
        let mut asked = 0;
        let next_data = |at: u64| {
            asked += 1;
            Ok(data.iter().find(|(_, end)| *end > at).map(|(start, _)| at.max(*start)))
        };
        let found = pieces(next_data, PIECES * PIECE_BYTES + 5).expect("no file");
        let holes: Vec<_> = found.iter().map(|piece| piece.hole).collect();
        assert_eq!(holes, [false, false, true, true, true, true, false, false, false, false]);
        assert_eq!(found[9], Piece { start: PIECES * PIECE_BYTES, len_bytes: 5, hole: false });
        assert!(asked < 8, "{asked} questions");
        assert!(pieces(|_| Ok(None), PIECE_BYTES).expect("no file")[0].hole);
    }
}
