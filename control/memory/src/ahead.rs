//! What goes to the destination ahead of its guest's image, while the source still runs: the twin goes along, so that it stays what
//! the destination has.
//!
//! From the moment that a piece of a twin changes until the destination has said that it has everything, nobody knows whether the two
//! are the same. So a piece is marked before its twin changes, in a file beside the twin, and the marks go when the destination has
//! confirmed. A marked piece counts as changed in whole, whatever its twin says. The marks are in the same kernel's page cache as the twin
//! and the guest's memory: they outlive this process, and no machine outlives its guests.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{
    Mapping, MemoryError, ObjectKind,
    kept::{Kept, rehash},
    locked,
    mapping::PAGE_BYTES,
    page_hashes::hash_page,
    scan::{PIECE_BYTES, Piece, Twin},
    twin::{allocate, path_of},
};

/// What a diff is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// Nothing is sent.
    Nowhere,
    /// Ahead of the image: the twin takes over what is sent.
    Ahead,
    /// With the image: the twin stays as it is, and what is sent stays marked. So all of it is sent again, should the guest run on after all.
    Last,
}

/// What is known of one object's twin, and how it is to change.
#[derive(Debug)]
pub struct Ahead {
    going: Going,
    /// A byte for each piece; other than zero: marked. None while there are no marks and none will be made.
    marks: Option<Mapping>,
    /// As it was when this was opened.
    doubtful: Vec<bool>,
    /// What the hashes of a twin without bytes are now.
    moved: Mutex<Vec<(usize, u128)>>,
}

impl Ahead {
    /// What the twin's directory says of an object.
    ///
    /// # Errors
    /// [`MemoryError::File`], [`MemoryError::NoSpace`].
    pub fn open(
        dir: &Path,
        kind: &ObjectKind,
        size_bytes: u64,
        going: Going,
    ) -> Result<Self, MemoryError> {
        let path = marks_path(dir, kind);
        let pieces = size_bytes.div_ceil(PIECE_BYTES);
        // One that was not finished marks nothing: what is marked is marked in a file of the right size.
        let is_there = fs::metadata(&path).is_ok_and(|meta| meta.len() == pieces);
        if !is_there && going != Going::Nowhere {
            // With room for all of it: marks are written in memory.
            allocate(&path, pieces)?;
        }
        let marks = (is_there || going != Going::Nowhere).then(|| Mapping::open(&path));
        let marks = marks.transpose()?;
        let mut bytes = vec![0; pieces as usize];
        if let Some(marks) = &marks {
            marks.read(0, &mut bytes)?;
        }
        let doubtful = bytes.into_iter().map(|byte| byte != 0).collect();
        Ok(Self { going, marks, doubtful, moved: Mutex::default() })
    }

    /// Whether the destination may have something else of a piece than the twin says.
    pub(crate) fn doubts(&self, piece: &Piece) -> bool {
        self.doubtful.get((piece.start / PIECE_BYTES) as usize).copied().unwrap_or(true)
    }

    /// Some bytes of a piece will be sent, from a page on.
    pub(crate) fn will_send(
        &self,
        twin: Twin<'_>,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), MemoryError> {
        let Some(marks) = self.marks.as_ref().filter(|_| self.going != Going::Nowhere) else {
            return Ok(());
        };
        marks.write(start / PIECE_BYTES, &[1])?;
        if self.going == Going::Last {
            return Ok(());
        }
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
        match self.marks {
            Some(marks) => {
                let path = marks.path();
                fs::remove_file(path).map_err(MemoryError::file("remove", path))
            }
            None => Ok(()),
        }
    }
}

/// Not by another extension: a region's name may have dots.
fn marks_path(dir: &Path, kind: &ObjectKind) -> PathBuf {
    let twin = path_of(dir, kind);
    let name = twin.file_name().unwrap_or_default().to_string_lossy();
    dir.join(format!("ahead-{name}"))
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

        fn ahead(&self, going: Going) -> Ahead {
            Ahead::open(self.dir.path(), &ObjectKind::Ram, SIZE, going).expect("opened")
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
            let ahead = rig.ahead(Going::Ahead);
            let (diff, pages) = rig.diff(&ahead);
            assert_eq!(pages, 5, "three bytes are in two pages");
            rig.arrives(&diff);
            ahead.confirmed(rig.dir.path(), &ObjectKind::Ram, rig.kept()).expect("confirmed");
            // One page more changes, and one changes back.
            rig.now.write(9 * 4096, b"later").expect("written");
            rig.now.write(4 * 4096 + 7, &[0; 3]).expect("written");
            let (diff, pages) = rig.diff(&rig.ahead(Going::Last));
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
            let (_lost, pages) = rig.diff(&rig.ahead(Going::Ahead));
            assert_eq!(pages, 1);
            // It changes back: the twin alone would say that there is nothing to send.
            rig.there.write(PIECE_BYTES + 4096, b"went, or not").expect("written");
            rig.now.write(PIECE_BYTES + 4096, &[0; 12]).expect("written");
            let (diff, pages) = rig.diff(&rig.ahead(Going::Last));
            assert_eq!(pages, 256, "a piece");
            rig.arrives(&diff);
            assert!(rig.is_same());
        }
    }

    #[test]
    fn whoever_only_looks_marks_nothing_and_sees_the_marks() {
        let rig = Rig::new(false);
        rig.now.write(0, b"x").expect("written");
        let path = marks_path(rig.dir.path(), &ObjectKind::Ram);
        assert_eq!(rig.diff(&rig.ahead(Going::Nowhere)).1, 1);
        assert!(!path.exists());
        // A last one that was sent, or not, is sent again in whole when the guest has run on meanwhile.
        assert_eq!(rig.diff(&rig.ahead(Going::Last)).1, 1);
        rig.now.write(0, &[0]).expect("written");
        assert_eq!(rig.diff(&rig.ahead(Going::Nowhere)).1, 256);
        assert_eq!(rig.diff(&rig.ahead(Going::Last)).1, 256);
    }

    #[test]
    fn marks_of_another_size_are_none() {
        let rig = Rig::new(false);
        rig.now.write(0, b"x").expect("written");
        rig.diff(&rig.ahead(Going::Ahead));
        assert_eq!(rig.ahead(Going::Nowhere).doubtful, [true, false, false]);
        for len in [0, 1] {
            fs::write(marks_path(rig.dir.path(), &ObjectKind::Ram), vec![1; len]).expect("written");
            assert_eq!(rig.ahead(Going::Nowhere).doubtful, [false; 3]);
            assert_eq!(rig.ahead(Going::Last).doubtful, [false; 3]);
        }
    }

    #[test]
    fn each_region_has_marks_of_its_own() {
        let dir = Path::new("twin");
        let of = |name: &str| marks_path(dir, &ObjectKind::Region(name.to_owned()));
        let paths = [of("state.a"), of("state.b"), of("state"), marks_path(dir, &ObjectKind::Ram)];
        let names: std::collections::BTreeSet<_> = paths.iter().collect();
        assert_eq!(names.len(), paths.len(), "{paths:?}");
        let twins = ["state.a", "ahead"].map(|name| path_of(dir, &ObjectKind::Region(name.into())));
        assert!(twins.iter().all(|twin| !names.contains(twin)));
    }
}
