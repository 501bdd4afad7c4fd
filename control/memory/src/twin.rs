//! The copy of a guest's memory as of T0, in files.
//!
//! [`Prepared::new`] does everything that can fail or takes long before the source is paused: it checks the
//! room and allocates the files. For stop-and-copy [`Prepared::prefault`] then touches every page, and
//! [`Prepared::fill`] is what happens during the pause. Who has the pages come in while the source runs writes them
//! to [`Prepared::twin`] instead.

use std::{
    fs::{self, File, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    Mapping, MemoryError, Object, ObjectKind,
    mapping::{self, PAGE_BYTES, create_file, free_bytes},
    parallel::in_parallel,
};

/// What one thread copies at a time.
const PIECE_BYTES: u64 = 8 << 20;
/// What is copied when something in it differs.
const COMPARED_BYTES: u64 = 16 * 1024;

/// Where the twin of an object is kept in the twin's directory.
#[must_use]
pub fn path_of(dir: &Path, kind: &ObjectKind) -> PathBuf {
    dir.join(match kind {
        ObjectKind::Ram => "ram".to_owned(),
        ObjectKind::DeviceState => "device-state".to_owned(),
        ObjectKind::Diff => "diff".to_owned(),
        ObjectKind::DryRun => "diff-of-dry-run".to_owned(),
        ObjectKind::Region(name) => format!("region-{name}"),
    })
}

/// Check that `needed_bytes` fit into the file system of `dir`, which must exist.
///
/// # Errors
/// [`MemoryError::NoSpace`] with both numbers.
pub fn check_space(dir: &Path, needed_bytes: u64) -> Result<(), MemoryError> {
    let free_bytes = free_bytes(dir)?;
    if free_bytes < needed_bytes {
        return Err(MemoryError::NoSpace { path: dir.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// Create a file of `size_bytes` zeros with room for all of them.
///
/// # Errors
/// [`MemoryError::NoSpace`], [`MemoryError::File`].
pub fn allocate(path: &Path, size_bytes: u64) -> Result<(), MemoryError> {
    make_room(path, &create_file(path, size_bytes)?)
}

/// Make room for the holes of a file.
///
/// # Errors
/// [`MemoryError::NoSpace`], [`MemoryError::File`].
pub fn reserve(path: &Path) -> Result<(), MemoryError> {
    let file = OpenOptions::new().write(true).open(path);
    make_room(path, &file.map_err(MemoryError::file("open", path))?)
}

fn make_room(path: &Path, file: &File) -> Result<(), MemoryError> {
    let size_bytes = file.metadata().map_err(MemoryError::file("find", path))?.len();
    mapping::allocate(path, file, 0, size_bytes)
}

/// A twin whose files are there and present in memory, waiting for T0.
#[derive(Debug)]
pub struct Prepared {
    pieces: Vec<Copied>,
}

/// A twin beside its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Pages that are not the same.
    pub differing_pages: u64,
    /// Where the first of them is: object and offset.
    pub first: Option<(ObjectKind, u64)>,
}

#[derive(Debug)]
struct Copied {
    object: Object,
    source: Mapping,
    twin: Mapping,
}

impl Prepared {
    /// Make the files in `dir`, which is created, for a copy of `sources`. `reserve_bytes` is room that
    /// others need in the same place. On an error nothing is left in `dir`.
    ///
    /// # Errors
    /// [`MemoryError::NoSpace`], [`MemoryError::File`].
    pub fn new(
        dir: &Path,
        sources: &[(ObjectKind, PathBuf)],
        reserve_bytes: u64,
    ) -> Result<Self, MemoryError> {
        fs::create_dir_all(dir).map_err(MemoryError::file("create", dir))?;
        let prepared = Self::allocate(dir, sources, reserve_bytes);
        if prepared.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(dir);
        }
        prepared
    }

    fn allocate(
        dir: &Path,
        sources: &[(ObjectKind, PathBuf)],
        reserve_bytes: u64,
    ) -> Result<Self, MemoryError> {
        let mut objects = Vec::new();
        let mut needed_bytes = reserve_bytes;
        for (kind, source) in sources {
            let meta = fs::metadata(source).map_err(MemoryError::file("find", source))?;
            needed_bytes = needed_bytes.saturating_add(meta.len());
            objects.push((Object { kind: kind.clone(), size_bytes: meta.len() }, source.clone()));
        }
        check_space(dir, needed_bytes)?;
        let mut pieces = Vec::new();
        for (object, source) in objects {
            let path = path_of(dir, &object.kind);
            allocate(&path, object.size_bytes)?;
            let (source, twin) = (Mapping::open(&source)?, Mapping::open(&path)?);
            pieces.push(Copied { object, source, twin });
        }
        Ok(Self { pieces })
    }

    /// Touch every page that [`Self::fill`] will need. Holes of the sources need none.
    ///
    /// # Errors
    /// [`MemoryError`] when a source cannot be read.
    pub fn prefault(&self) -> Result<(), MemoryError> {
        let work = self.work(|piece| data_extents(&piece.source))?;
        in_parallel(&work, |(index, offset, len)| {
            self.pieces[*index].twin.prefault(*offset, *len)
        })?;
        self.look_at_sources()
    }

    /// Look at every page of the sources, so that [`Self::fill`] finds it present.
    ///
    /// # Errors
    /// [`MemoryError`] when a source cannot be read.
    pub fn look_at_sources(&self) -> Result<(), MemoryError> {
        let work = self.work(|piece| data_extents(&piece.source))?;
        in_parallel(&work, |(index, offset, len)| self.pieces[*index].source.look_at(*offset, *len))
    }

    /// Copy the sources as they are now into a twin that is all zeros. The guest must be paused.
    ///
    /// # Errors
    /// [`MemoryError`] when a source cannot be read.
    pub fn fill(&self) -> Result<(), MemoryError> {
        let work = self.work(|piece| data_extents(&piece.source))?;
        in_parallel(&work, |(index, offset, len)| {
            let piece = &self.pieces[*index];
            piece.twin.copy_from(&piece.source, *offset, *len)
        })
    }

    /// As [`Self::fill`], into a twin in which there is something already, and most of it right: only what differs is copied,
    /// which reads twice and writes little. Holes of the sources are filled.
    ///
    /// # Errors
    /// [`MemoryError`] when a source cannot be read.
    pub fn fill_again(&self) -> Result<(), MemoryError> {
        let work = self.work(|piece| Ok(vec![(0, piece.object.size_bytes)]))?;
        in_parallel(&work, |(index, offset, len)| {
            let Copied { source, twin, .. } = &self.pieces[*index];
            let end = offset + len;
            for at in (*offset..end).step_by(COMPARED_BYTES as usize) {
                let len = COMPARED_BYTES.min(end - at);
                if twin.differs(at, len, source)? {
                    twin.copy_from(source, at, len)?;
                }
            }
            Ok(())
        })
    }

    /// How many pages of the twin are not as the source's, which must not change meanwhile, and the first of them.
    ///
    /// # Errors
    /// [`MemoryError`] when a source cannot be read.
    pub fn audit(&self) -> Result<Audit, MemoryError> {
        let work = self.work(|piece| Ok(vec![(0, piece.object.size_bytes)]))?;
        let found = Mutex::new(Audit::default());
        in_parallel(&work, |(index, offset, len)| {
            let piece = &self.pieces[*index];
            let path = piece.source.path();
            let file = File::open(path).map_err(MemoryError::file("open", path))?;
            let (mut now, mut then) = (vec![0; *len as usize], vec![0; *len as usize]);
            // Not from the mapping: that would fill holes.
            file.read_exact_at(&mut now, *offset).map_err(MemoryError::file("read", path))?;
            piece.twin.read(*offset, &mut then)?;
            let pages = now.chunks(PAGE_BYTES).zip(then.chunks(PAGE_BYTES));
            for (page, _) in pages.enumerate().filter(|(_, (now, then))| now != then) {
                let place = (piece.object.kind.clone(), offset + (page * PAGE_BYTES) as u64);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.differing_pages += 1;
                found.first = found.first.take().into_iter().chain([place]).min();
            }
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The twin of an object.
    #[must_use]
    pub fn twin(&self, kind: &ObjectKind) -> Option<&Mapping> {
        let piece = self.pieces.iter().find(|piece| piece.object.kind == *kind);
        piece.map(|piece| &piece.twin)
    }

    /// The objects and their sizes.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.pieces.iter().map(|piece| &piece.object)
    }

    /// The extents of every object, cut into pieces for threads: object, offset, length.
    fn work(
        &self,
        extents: impl Fn(&Copied) -> Result<Vec<(u64, u64)>, MemoryError>,
    ) -> Result<Vec<(usize, u64, u64)>, MemoryError> {
        let mut work = Vec::new();
        for (index, piece) in self.pieces.iter().enumerate() {
            for (offset, len) in extents(piece)? {
                let end = (offset + len).min(piece.object.size_bytes);
                for start in (offset..end).step_by(PIECE_BYTES as usize) {
                    work.push((index, start, PIECE_BYTES.min(end - start)));
                }
            }
        }
        Ok(work)
    }
}

/// Where a mapping's file has bytes: a guest's RAM that was never touched is a hole, and the twin's zeros already
/// say so. Offset and length.
pub(crate) fn data_extents(memory: &Mapping) -> Result<Vec<(u64, u64)>, MemoryError> {
    let mut extents = Vec::new();
    let mut at = 0;
    while let Some(extent) = next_extent(memory.file(), memory.path(), at)? {
        extents.push((extent.start, extent.end - extent.start));
        at = extent.end;
    }
    Ok(extents)
}

/// The next stretch of a file that has data, from `at` on.
pub(crate) fn next_extent(
    file: &File,
    path: &Path,
    at: u64,
) -> Result<Option<Range<u64>>, MemoryError> {
    use rustix::fs::{SeekFrom, seek};
    let Some(start) = next_data(file, path, at)? else { return Ok(None) };
    let end = seek(file, SeekFrom::Hole(start))
        .map_err(|error| MemoryError::file("seek in", path)(error.into()))?;
    Ok(Some(start..end))
}

/// Where a file has data, at `at` or behind it.
pub(crate) fn next_data(file: &File, path: &Path, at: u64) -> Result<Option<u64>, MemoryError> {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(MemoryError::file("seek in", path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::FallocateFlags;

    use super::*;

    #[test]
    fn a_twin_is_the_source_as_it_was() {
        let dir = tempfile::tempdir().expect("dir");
        let source = dir.path().join("source");
        let file = create_file(&source, 64 << 20).expect("source");
        for at in [0_u64, 4096 * 77 + 5, (64 << 20) - 3] {
            file.write_all_at(b"abc", at).expect("write");
        }
        let region = dir.path().join("r");
        fs::write(&region, [7; 8192]).expect("region");
        let sources =
            [(ObjectKind::Ram, source.clone()), (ObjectKind::Region("r".into()), region.clone())];
        let twin_dir = dir.path().join("twin");
        let prepared = Prepared::new(&twin_dir, &sources, 0).expect("prepare");
        prepared.prefault().expect("touched");
        let allocated = fs::metadata(twin_dir.join("ram")).expect("twin").blocks() * 512;
        assert!(allocated >= 64 << 20, "{allocated} bytes are allocated before the pause");
        prepared.fill().expect("fill");
        assert_eq!(prepared.audit().expect("audit"), Audit::default());
        file.write_all_at(b"later", 9000).expect("write");
        file.write_all_at(b"and later", 50 << 20).expect("write");
        let first = Some((ObjectKind::Ram, 8192));
        assert_eq!(prepared.audit().expect("audit"), Audit { differing_pages: 2, first });
        prepared.fill_again().expect("fill");
        assert_eq!(prepared.audit().expect("audit"), Audit::default());
        file.write_all_at(&[0; 9], 50 << 20).expect("write");
        let page = 4096 * 77;
        file.write_all_at(b"xyz", 60 << 20).expect("write");
        prepared.fill_again().expect("fill");
        file.write_all_at(&[0; 3], 60 << 20).expect("write");
        rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            page,
            4096,
        )
        .expect("punched");
        prepared.fill_again().expect("fill");
        assert_eq!(prepared.audit().expect("audit"), Audit::default());
        file.write_all_at(b"abc", page + 5).expect("write");
        prepared.fill_again().expect("fill");
        let twin = fs::read(twin_dir.join("ram")).expect("twin");
        let mut then = fs::read(&source).expect("source");
        assert!(twin == then);
        file.write_all_at(b"after", 9000).expect("write");
        then[9000..9005].copy_from_slice(b"after");
        assert!(fs::read(twin_dir.join("ram")).expect("twin") != then, "it stays as it was");
        assert_eq!(fs::read(twin_dir.join("region-r")).expect("twin"), [7; 8192]);
    }

    #[test]
    fn a_full_disk_is_found_before_anything_is_copied() {
        let dir = tempfile::tempdir().expect("dir");
        let source = dir.path().join("source");
        let free = free_bytes(dir.path()).expect("free");
        // As long as the disk is, and a hole.
        create_file(&source, free + (1 << 30)).expect("source");
        let twin_dir = dir.path().join("twin");
        let error = Prepared::new(&twin_dir, &[(ObjectKind::Ram, source)], 5).expect_err("full");
        let MemoryError::NoSpace { needed_bytes, free_bytes, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*needed_bytes, free + (1 << 30) + 5);
        assert!(*free_bytes < *needed_bytes);
        assert!(error.to_string().contains(&twin_dir.display().to_string()), "{error}");
        assert!(!twin_dir.exists());
    }
}
