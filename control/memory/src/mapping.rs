//! Guest memory as files mapped shared.
//!
//! The law of this file: guest memory changes while we look at it, so there is never a reference into it.
//! Bytes are copied out into our own buffers, copied in, or moved between the mapping and a file
//! descriptor by the kernel, or compared and hashed where they are by `tidegate-guestmem`. vm-memory's slices are volatile,
//! bounds-checked and tied to the mapping's life, so nothing here needs `unsafe`.
//!
//! A mapped file must not shrink while it is mapped: the files are this host's own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FallocateFlags;
use vm_memory::{
    Bytes as _, FileOffset, MmapRegion, ReadVolatile, VolatileMemory as _, VolatileMemoryError,
    VolatileSlice, mmap::MmapRegionError,
};

use crate::{MemoryError, parallel::in_parallel, twin::data_extents};

/// What a file's blocks are counted in (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Looked at by one thread at a time.
const LOOKED_AT_BYTES: u64 = 2 << 20;

/// Bytes of a page on every machine this runs on.
pub const PAGE_BYTES: usize = 4096;

/// A file mapped shared, for reading and writing.
#[derive(Debug)]
pub struct Mapping {
    region: Arc<MmapRegion>,
    file: FileOffset,
    path: PathBuf,
}

impl Mapping {
    /// Map all of an existing file.
    ///
    /// # Errors
    /// [`MemoryError::File`] when it cannot be opened or mapped, or is empty.
    pub fn open(path: &Path) -> Result<Self, MemoryError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(MemoryError::file("open", path))?;
        Self::map(file, path)
    }

    /// Create the file anew with `size_bytes` zeros, none of them allocated, and map it.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, MemoryError> {
        let file = create_file(path, size_bytes)?;
        Self::map(file, path)
    }

    fn map(file: File, path: &Path) -> Result<Self, MemoryError> {
        let len = file.metadata().map_err(MemoryError::file("map", path))?.len();
        let too_long =
            || io::Error::new(io::ErrorKind::FileTooLarge, "longer than an address space");
        let size = usize::try_from(len).map_err(|_| MemoryError::file("map", path)(too_long()))?;
        let file = FileOffset::new(file, 0);
        let region = MmapRegion::from_file(file.clone(), size);
        let region = region.map_err(|error| not_mapped(error, path))?;
        Ok(Self { region: Arc::new(region), file, path: path.to_owned() })
    }

    /// Size of the mapping.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// The file that is mapped.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copy bytes out.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.slice(offset, into.len() as u64)?.copy_to(into);
        Ok(())
    }

    /// Copy bytes in.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.slice(offset, bytes.len() as u64)?.copy_from(bytes);
        Ok(())
    }

    /// Copy bytes in through the file: what a full file system has no room for is an error, and not the end of this process.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::NoSpace`], [`MemoryError::File`].
    pub(crate) fn write_through(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        // Behind its end the file would grow.
        self.slice(offset, bytes.len() as u64)?;
        self.file().write_all_at(bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => no_space(&self.path, bytes.len() as u64),
            _ => MemoryError::file("write", &self.path)(error),
        })
    }

    /// Whether bytes differ from those at the same place of another mapping, without copying either.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn differs(&self, offset: u64, len_bytes: u64, other: &Self) -> Result<bool, MemoryError> {
        let (here, there) = (self.slice(offset, len_bytes)?, other.slice(offset, len_bytes)?);
        Ok(tidegate_guestmem::differ(&here, &there))
    }

    /// Let the kernel put the next `len_bytes` of a file or socket straight here.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`]; [`MemoryError::Connection`] when the source fails or ends too early.
    pub fn fill_from(
        &self,
        offset: u64,
        len_bytes: u64,
        source: &mut impl ReadVolatile,
    ) -> Result<(), MemoryError> {
        let mut slice = self.slice(offset, len_bytes)?;
        source.read_exact_volatile(&mut slice).map_err(|error| {
            let error = match error {
                VolatileMemoryError::IOError(error) => error,
                other => io::Error::other(other.to_string()),
            };
            MemoryError::connection("reading memory")(error)
        })
    }

    /// A share of the mapping, for those who let a transport reach it.
    #[must_use]
    pub(crate) fn region(&self) -> Arc<MmapRegion> {
        self.region.clone()
    }

    /// Copy the same range of another mapping here. Both stay in place: twice as fast as having the kernel read a file into a
    /// mapping, and for long ranges libc goes around the caches.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], of either.
    pub(crate) fn copy_from(
        &self,
        source: &Self,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        let into = self.slice(offset, len_bytes)?;
        source.slice(offset, len_bytes)?.copy_to_volatile_slice(into);
        Ok(())
    }

    /// Look at every page of a range, so that later looks find it present. Not for holes: it would fill them.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub(crate) fn look_at(&self, offset: u64, len_bytes: u64) -> Result<(), MemoryError> {
        let slice = self.slice(offset, len_bytes)?;
        for page in (0..slice.len()).step_by(PAGE_BYTES) {
            // In bounds: `page` is below the slice's length.
            let _ = slice.read(&mut [0_u8], page);
        }
        Ok(())
    }

    /// Write zeros, which keeps the file's blocks and its pages.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub(crate) fn write_zeros(&self, offset: u64, len_bytes: u64) -> Result<(), MemoryError> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let slice = self.slice(offset, len_bytes)?;
        for start in (0..slice.len()).step_by(ZEROS.len()) {
            let len = ZEROS.len().min(slice.len() - start);
            // In bounds: the stretch is of the slice.
            let _ = slice.write(&ZEROS[..len], start);
        }
        Ok(())
    }

    /// The file itself, for those who let the kernel move its bytes, or map it once more.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Whether the file has fewer blocks than bytes. Without, it may be taken to be data all over, by one question instead of one
    /// for each page.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub(crate) fn has_holes(&self) -> Result<bool, MemoryError> {
        let meta = self.file().metadata().map_err(MemoryError::file("look at", &self.path))?;
        Ok(meta.blocks() * BLOCK_BYTES < meta.len())
    }

    /// Allocate the file's blocks in a range, which keeps its bytes.
    ///
    /// # Errors
    /// [`MemoryError::NoSpace`], [`MemoryError::File`].
    pub(crate) fn make_room(&self, offset: u64, len_bytes: u64) -> Result<(), MemoryError> {
        allocate(&self.path, self.file(), offset, len_bytes)
    }

    /// Make a range zero and give its blocks back.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub(crate) fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), MemoryError> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(self.file(), how, offset, len_bytes)
            .map_err(|error| MemoryError::file("clear a part of", &self.path)(error.into()))
    }

    /// Look at every page that the file has data for, so that later looks find it present. Holes stay holes.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub fn look_at_data(&self) -> Result<(), MemoryError> {
        let mut pieces = Vec::new();
        for (start, len) in data_extents(self)? {
            let end = (start + len).min(self.size_bytes());
            let starts = (start..end).step_by(LOOKED_AT_BYTES as usize);
            pieces.extend(starts.map(|start| (start, LOOKED_AT_BYTES.min(end - start))));
        }
        in_parallel(&pieces, |(start, len)| self.look_at(*start, *len))
    }

    /// Touch every page of a range, so that later writes find it present.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub(crate) fn prefault(&self, offset: u64, len_bytes: u64) -> Result<(), MemoryError> {
        let slice = self.slice(offset, len_bytes)?;
        for page in (0..slice.len()).step_by(PAGE_BYTES) {
            // In bounds: `page` is below the slice's length.
            let _ = slice.write(&[0_u8], page);
        }
        Ok(())
    }

    /// A range as vm-memory sees it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn slice(&self, offset: u64, len_bytes: u64) -> Result<VolatileSlice<'_>, MemoryError> {
        let bounds = || MemoryError::OutOfBounds {
            path: self.path.clone(),
            offset,
            len_bytes,
            size_bytes: self.size_bytes(),
        };
        let start = usize::try_from(offset).map_err(|_| bounds())?;
        let len = usize::try_from(len_bytes).map_err(|_| bounds())?;
        self.region.get_slice(start, len).map_err(|_| bounds())
    }
}

fn not_mapped(error: MmapRegionError, path: &Path) -> MemoryError {
    let error = match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other.to_string()),
    };
    MemoryError::file("map", path)(error)
}

/// Create or empty a file and give it `size_bytes` zeros without allocating them.
pub(crate) fn create_file(path: &Path, size_bytes: u64) -> Result<File, MemoryError> {
    let create = MemoryError::file("create", path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(create)?;
    file.set_len(size_bytes).map_err(MemoryError::file("size", path))?;
    Ok(file)
}

/// Give a range of a file its blocks, and say what is missing when there are not enough.
pub(crate) fn allocate(
    path: &Path,
    file: &File,
    offset: u64,
    len_bytes: u64,
) -> Result<(), MemoryError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len_bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOSPC) => Err(no_space(path, len_bytes)),
        Err(error) => Err(MemoryError::file("allocate", path)(error.into())),
    }
}

fn no_space(path: &Path, needed_bytes: u64) -> MemoryError {
    let dir = path.parent().unwrap_or(path);
    match free_bytes(dir) {
        Ok(free_bytes) => MemoryError::NoSpace { path: dir.to_owned(), needed_bytes, free_bytes },
        Err(error) => error,
    }
}

/// Bytes that can still be written in the file system of `directory` by an ordinary user.
///
/// # Errors
/// [`MemoryError::File`].
pub fn free_bytes(directory: &Path) -> Result<u64, MemoryError> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| MemoryError::file("ask for free space in", directory)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn copies_and_bounds() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("m");
        let mapping = Mapping::create(&path, 8192).expect("create");
        mapping.write(4090, b"0123456789").expect("write");
        let mut back = [0; 10];
        mapping.read(4090, &mut back).expect("read");
        assert_eq!(&back, b"0123456789");
        assert_eq!(&fs::read(&path).expect("file")[4090..4100], b"0123456789");
        for (offset, len) in [(8192, 1), (8191, 2), (u64::MAX, 1), (1, 8192)] {
            let mut buffer = vec![0; len];
            let error = mapping.read(offset, &mut buffer).expect_err("outside");
            assert!(matches!(error, MemoryError::OutOfBounds { .. }), "{error}");
            let error = mapping.write_through(offset, &buffer).expect_err("outside");
            assert!(matches!(error, MemoryError::OutOfBounds { .. }), "{error}");
        }
        assert_eq!(fs::metadata(&path).expect("file").len(), 8192);
        mapping.write_through(8190, b"ab").expect("written");
        assert_eq!(&fs::read(&path).expect("file")[8190..], b"ab");
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let dir = tempfile::tempdir().expect("dir");
        let mapping = Mapping::create(&dir.path().join("m"), 4096).expect("create");
        let mut short: &[u8] = b"abc";
        let error = mapping.fill_from(0, 4, &mut short).expect_err("short");
        assert!(matches!(error, MemoryError::Connection { .. }), "{error}");
    }

    #[test]
    fn an_empty_file_cannot_be_mapped() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(Mapping::create(&dir.path().join("m"), 0).is_err());
        assert!(Mapping::open(&dir.path().join("missing")).is_err());
    }
}
