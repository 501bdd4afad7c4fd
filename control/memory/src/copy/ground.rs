//! Where a copy lands: the destination's files and the hashes of what is in them.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    Mapping, MemoryError,
    copy::{Layout, Section},
    locked,
    mapping::PAGE_BYTES,
    page_hashes::{Digest, PageHashes, ZERO_PAGE},
    transport::Piece,
};

/// Landed and hashed at once, so that the bytes come out of the cache they were just received into.
const STRIDE_BYTES: u64 = 256 * 1024;

/// The destination's files. Shared by the control stream and all lanes.
#[derive(Debug)]
pub struct Ground {
    layout: Layout,
    files: Vec<Arc<Mapping>>,
    sections: Vec<Mutex<Plot>>,
}

/// One section. Its lock is held for hashing, never while a peer is waited for.
#[derive(Debug)]
struct Plot {
    hashes: PageHashes,
    committed: bool,
}

impl Plot {
    /// Whether bytes have landed in all pages of a range since it was a hole: the file has its blocks.
    fn has_room(&self, start: u64, len_bytes: u64) -> bool {
        self.hashes.hashes()[pages(start, len_bytes)].iter().all(|hash| *hash != ZERO_PAGE)
    }
}

/// The pages of a range that starts at one.
fn pages(start: u64, len_bytes: u64) -> Range<usize> {
    let page = PAGE_BYTES as u64;
    (start / page) as usize..(start + len_bytes).div_ceil(page) as usize
}

impl Ground {
    /// `files` are the objects' in the layout's order, and hold zeros but where a section is committed.
    pub(crate) fn new(layout: Layout, files: Vec<Arc<Mapping>>) -> Self {
        let plot = |number| {
            let len = layout.section(number).map_or(0, |section| section.len_bytes);
            Mutex::new(Plot { hashes: PageHashes::zeros(len), committed: false })
        };
        let sections = (0..layout.sections()).map(plot).collect();
        Self { layout, files, sections }
    }

    /// What there is room for.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The objects' files in the layout's order.
    #[must_use]
    pub fn files(&self) -> &[Arc<Mapping>] {
        &self.files
    }

    /// Let `fill` put bytes into a piece, stretch by stretch, and hash them there. Its arguments are the file, an
    /// offset in it and a length.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`] for a piece that may not be, [`MemoryError::NoSpace`], and those of `fill`.
    pub fn land(
        &self,
        piece: Piece,
        mut fill: impl FnMut(&Mapping, u64, u64) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let (section, file) = self.open(piece)?;
        // A write into a hole of a full file system would end this process.
        if !self.plot(section).has_room(piece.offset - section.offset, piece.len_bytes) {
            file.make_room(piece.offset, piece.len_bytes)?;
        }
        let end = piece.offset + piece.len_bytes;
        let mut at = piece.offset;
        while at < end {
            let len = (end - at).min(STRIDE_BYTES);
            fill(file, at, len)?;
            let start = at - section.offset;
            self.plot(section).hashes.update(file, section.offset, start..start + len)?;
            at += len;
        }
        Ok(())
    }

    /// Make a piece zero.
    ///
    /// # Errors
    /// As [`Self::land`].
    pub fn zero(&self, piece: Piece) -> Result<(), MemoryError> {
        let (section, file) = self.open(piece)?;
        file.punch(piece.offset, piece.len_bytes)?;
        let pages = pages(piece.offset - section.offset, piece.len_bytes);
        self.plot(section).hashes.hashes_mut()[pages].fill(ZERO_PAGE);
        Ok(())
    }

    /// The digest of what is in a section's memory. `unseen`: hash all of it first.
    pub(crate) fn digest(&self, section: Section, unseen: bool) -> Result<Digest, MemoryError> {
        let mut plot = self.plot(section);
        if unseen {
            let file = &self.files[section.object];
            let all = 0..section.len_bytes;
            plot.hashes.update(file, section.offset, all)?;
        }
        Ok(plot.hashes.digest())
    }

    /// Nothing may land in a section any more.
    pub(crate) fn commit(&self, section: Section) {
        self.plot(section).committed = true;
    }

    /// Begin a section anew from zeros. `unseen`: a transport reaches its pages by itself, so they stay where they are.
    pub(crate) fn reset(&self, section: Section, unseen: bool) -> Result<(), MemoryError> {
        let mut plot = self.plot(section);
        let file = &self.files[section.object];
        if unseen {
            file.write_zeros(section.offset, section.len_bytes)?;
        } else {
            file.punch(section.offset, section.len_bytes)?;
        }
        *plot = Plot { hashes: PageHashes::zeros(section.len_bytes), committed: false };
        Ok(())
    }

    fn open(&self, piece: Piece) -> Result<(Section, &Mapping), MemoryError> {
        let section = self.layout.section_of(piece)?;
        if self.plot(section).committed {
            return Err(MemoryError::Protocol(format!(
                "bytes came for section {}, which is committed",
                section.number
            )));
        }
        Ok((section, &self.files[section.object]))
    }

    fn plot(&self, section: Section) -> MutexGuard<'_, Plot> {
        locked(&self.sections[section.number as usize])
    }
}
