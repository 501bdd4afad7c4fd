//! What goes to the destination ahead of its guest's image, while the source still runs: the twin goes along, so that it stays what
//! the destination has.
//!
//! From the moment that a piece of a twin changes until the destination has said that it has everything, nobody knows whether the two
//! are the same. So a piece is marked before its twin changes, in a file beside the twin, and the marks go when the destination has
//! confirmed. A marked piece counts as changed in whole, whatever its twin says. The marks are in the same kernel's page cache as the twin
//! and the guest's memory: they outlive this process, and no machine outlives its guests.

use std::{fs, io, path::Path, sync::Mutex};

use crate::{
    Mapping, MemoryError, ObjectKind,
    kept::{Kept, rehash},
    locked,
    mapping::PAGE_BYTES,
    page_hashes::hash_page,
    scan::{PIECE_BYTES, Piece, Twin},
    twin::path_of,
};

/// What is known of one object's twin, and how it is to change.
#[derive(Debug)]
pub struct Ahead {
    /// A byte for each piece; other than zero: marked.
    marks: Mapping,
    /// As it was when this was opened.
    doubtful: Vec<bool>,
    /// The twin takes over what is sent.
    moves: bool,
    /// What the hashes of a twin without bytes are now.
    moved: Mutex<Vec<(usize, u128)>>,
}

impl Ahead {
    /// What the twin's directory says of an object. With `moves`, the twin takes over what is sent.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub fn open(
        dir: &Path,
        kind: &ObjectKind,
        size_bytes: u64,
        moves: bool,
    ) -> Result<Self, MemoryError> {
        let path = path_of(dir, kind).with_extension("ahead");
        let pieces = size_bytes.div_ceil(PIECE_BYTES);
        let marks = match Mapping::open(&path) {
            Ok(marks) if marks.size_bytes() == pieces => marks,
            Err(MemoryError::File { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MemoryError::file("open", &path)(source));
            }
            // None, or none that was finished: what is marked is marked in a file of the right size.
            _ => Mapping::create(&path, pieces)?,
        };
        let mut bytes = vec![0; pieces as usize];
        marks.read(0, &mut bytes)?;
        let doubtful = bytes.into_iter().map(|byte| byte != 0).collect();
        Ok(Self { marks, doubtful, moves, moved: Mutex::default() })
    }

    /// Whether the destination may have something else of a piece than the twin says.
    pub(crate) fn doubts(&self, piece: &Piece) -> bool {
        self.doubtful.get((piece.start / PIECE_BYTES) as usize).copied().unwrap_or(true)
    }

    /// Some bytes of a piece will be sent, from a page on: the twin takes them over, if it is to.
    pub(crate) fn take_over(
        &self,
        twin: Twin<'_>,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), MemoryError> {
        if !self.moves {
            return Ok(());
        }
        self.marks.write(start / PIECE_BYTES, &[1])?;
        match twin {
            Twin::Bytes(twin) => twin.write_through(start, bytes),
            Twin::Hashes(_) => {
                let pages = bytes.chunks(PAGE_BYTES).map(hash_page);
                let first = (start / PAGE_BYTES as u64) as usize;
                locked(&self.moved)
                    .extend(pages.enumerate().map(|(page, hash)| (first + page, hash)));
                Ok(())
            }
        }
    }

    /// The destination has everything: the twin is what it has.
    ///
    /// # Errors
    /// [`MemoryError::File`]; everything that went stays marked then.
    pub fn confirmed(self, dir: &Path, kind: &ObjectKind, kept: Kept) -> Result<(), MemoryError> {
        if let Kept::Hashes(hashes) = kept {
            let moved = self.moved.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            rehash(dir, kind, hashes, &moved)?;
        }
        let path = self.marks.path();
        fs::remove_file(path).map_err(MemoryError::file("remove", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Object, PageHashes,
        image_diff::{apply, write_beside},
        kept::keep_hashes,
        scan::Compared,
    };

    const SIZE: u64 = 3 * PIECE_BYTES - 8192;

    struct Rig {
        dir: tempfile::TempDir,
        now: Mapping,
        there: Mapping,
    }

    impl Rig {
        /// Source, twin and destination are the same.
        fn new(hashes: bool) -> Self {
            let dir = tempfile::tempdir().expect("dir");
            let make = |path: &Path| {
                let memory = Mapping::create(path, SIZE).expect("created");
                memory.write(5000, b"as of T0").expect("written");
                memory
            };
            let twin = make(&path_of(dir.path(), &ObjectKind::Ram));
            if hashes {
                let hashes = PageHashes::of(&twin).expect("hashed");
                keep_hashes(dir.path(), &ObjectKind::Ram, &hashes).expect("kept");
            }
            let (now, there) = (make(&dir.path().join("now")), make(&dir.path().join("there")));
            Self { dir, now, there }
        }

        fn ahead(&self, moves: bool) -> Ahead {
            Ahead::open(self.dir.path(), &ObjectKind::Ram, SIZE, moves).expect("opened")
        }

        fn kept(&self) -> Kept {
            Kept::open(self.dir.path(), &ObjectKind::Ram).expect("kept")
        }

        /// The diff that is sent now, and its pages.
        fn diff(&self, ahead: &Ahead) -> (Vec<u8>, u64) {
            let (object, kept) = (Object { kind: ObjectKind::Ram, size_bytes: SIZE }, self.kept());
            let compared = [Compared { object, twin: kept.twin(), now: &self.now }];
            let mut diff = Vec::new();
            let figures = write_beside(&mut diff, &compared, std::slice::from_ref(ahead));
            (diff, figures.expect("written")[0].dirty_pages)
        }

        fn arrives(&self, diff: &[u8]) {
            apply(diff, &[(ObjectKind::Ram, &self.there)]).expect("applied");
        }

        fn is_same(&self) -> bool {
            !self.now.differs(0, SIZE, &self.there).expect("compared")
        }
    }

    #[test]
    fn what_went_ahead_is_not_sent_again() {
        for hashes in [false, true] {
            let rig = Rig::new(hashes);
            for at in [4096, 4 * 4096 + 7, PIECE_BYTES - 1, SIZE - 3] {
                rig.now.write(at, b"ABC").expect("written");
            }
            let ahead = rig.ahead(true);
            let (diff, pages) = rig.diff(&ahead);
            assert_eq!(pages, 5, "three bytes are in two pages");
            rig.arrives(&diff);
            ahead.confirmed(rig.dir.path(), &ObjectKind::Ram, rig.kept()).expect("confirmed");
            // One page more changes, and one changes back.
            rig.now.write(9 * 4096, b"later").expect("written");
            rig.now.write(4 * 4096 + 7, &[0; 3]).expect("written");
            let (diff, pages) = rig.diff(&rig.ahead(false));
            assert_eq!(pages, 2);
            rig.arrives(&diff);
            assert!(rig.is_same());
        }
    }

    #[test]
    fn what_was_lost_on_its_way_is_sent_in_whole() {
        for hashes in [false, true] {
            let rig = Rig::new(hashes);
            rig.now.write(PIECE_BYTES + 4096, b"went, or not").expect("written");
            let (_lost, pages) = rig.diff(&rig.ahead(true));
            assert_eq!(pages, 1);
            // It changes back: the twin alone would say that there is nothing to send.
            rig.there.write(PIECE_BYTES + 4096, b"went, or not").expect("written");
            rig.now.write(PIECE_BYTES + 4096, &[0; 12]).expect("written");
            let (diff, pages) = rig.diff(&rig.ahead(false));
            assert_eq!(pages, 256, "a piece");
            rig.arrives(&diff);
            assert!(rig.is_same());
        }
    }

    #[test]
    fn marks_of_another_size_are_none() {
        let rig = Rig::new(false);
        rig.now.write(0, b"x").expect("written");
        rig.diff(&rig.ahead(true));
        assert_eq!(rig.ahead(false).doubtful, [true, false, false]);
        let path = path_of(rig.dir.path(), &ObjectKind::Ram).with_extension("ahead");
        fs::write(&path, [1]).expect("written");
        assert_eq!(rig.ahead(false).doubtful, [false; 3]);
    }
}
