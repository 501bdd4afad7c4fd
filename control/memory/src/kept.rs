//! What is kept of T0 of one object: all bytes, or in a file a hash for each of its pages. What goes ahead of an image moves it on
//! ([`crate::ahead`]): then it is what the destination has.
//!
//! Layout of the file, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `TGHASHES` |
//! | 4 | version, 1 |
//! | 4 | bytes of a page, 4096 |
//! | 8 | bytes of the object |
//! | 8 | number of hashes: one for each page, and one for a short last page |
//! | 16 each | the pages' hashes in order ([`crate::page_hashes`]) |
//! | 32 | BLAKE3 of everything before |
//!
//! The file appears whole, and the object's bytes go after that: one of the two is always there.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    Mapping, MemoryError, ObjectKind, PageHashes,
    mapping::PAGE_BYTES,
    scan::Twin,
    twin::path_of,
    wire::{Reader, Short, Writer},
};

const MAGIC: [u8; 8] = *b"TGHASHES";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 32;
const HASH_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Read and hashed at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What is kept of T0 of one object.
#[derive(Debug)]
pub enum Kept {
    /// All of it.
    Bytes(Mapping),
    /// A hash for each page.
    Hashes(PageHashes),
}

impl Kept {
    /// What the twin's directory has of an object.
    ///
    /// # Errors
    /// [`MemoryError::File`] when it has neither; [`MemoryError::Damaged`] when the hashes are not as they were written.
    pub fn open(dir: &Path, kind: &ObjectKind) -> Result<Self, MemoryError> {
        match Mapping::open(&path_of(dir, kind)) {
            Ok(mapping) => Ok(Self::Bytes(mapping)),
            Err(error) if !is_missing(&error) => Err(error),
            // In this order: the bytes go only after the hashes have come.
            Err(missing) => match load(&hashes_path(dir, kind)) {
                Err(error) if is_missing(&error) => Err(missing),
                loaded => loaded.map(Self::Hashes),
            },
        }
    }

    /// As comparisons take it.
    #[must_use]
    pub fn twin(&self) -> Twin<'_> {
        match self {
            Self::Bytes(mapping) => Twin::Bytes(mapping),
            Self::Hashes(hashes) => Twin::Hashes(hashes),
        }
    }
}

/// Bytes that the hashes of an object of `size_bytes` take.
#[must_use]
pub fn hashes_bytes(size_bytes: u64) -> u64 {
    let pages = size_bytes.div_ceil(PAGE_BYTES as u64);
    pages.saturating_mul(HASH_BYTES as u64).saturating_add((HEAD_BYTES + DIGEST_BYTES) as u64)
}

/// Keep `hashes`, which are of the object's bytes at T0, in place of these.
///
/// # Errors
/// [`MemoryError::File`]; the bytes are still there then.
pub fn keep_hashes(dir: &Path, kind: &ObjectKind, hashes: &PageHashes) -> Result<(), MemoryError> {
    save(&hashes_path(dir, kind), hashes)?;
    remove_bytes(dir, kind)
}

/// Change some of the hashes that are kept: a page's index and its hash.
pub(crate) fn rehash(
    dir: &Path,
    kind: &ObjectKind,
    mut hashes: PageHashes,
    changed: &[(usize, u128)],
) -> Result<(), MemoryError> {
    for (page, hash) in changed {
        if let Some(place) = hashes.hashes_mut().get_mut(*page) {
            *place = *hash;
        }
    }
    save(&hashes_path(dir, kind), &hashes)
}

/// Remove bytes whose hashes are there: what [`keep_hashes`] does last, if it was interrupted before. Whether only hashes
/// are left.
///
/// # Errors
/// [`MemoryError::File`]; [`MemoryError::Damaged`] when the hashes are not as they were written, and the bytes stay.
pub fn finish_keeping_hashes(dir: &Path, kind: &ObjectKind) -> Result<bool, MemoryError> {
    match load(&hashes_path(dir, kind)) {
        Ok(_) => remove_bytes(dir, kind).map(|()| true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove_bytes(dir: &Path, kind: &ObjectKind) -> Result<(), MemoryError> {
    let path = path_of(dir, kind);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MemoryError::file("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

fn hashes_path(dir: &Path, kind: &ObjectKind) -> PathBuf {
    path_of(dir, kind).with_extension("hashes")
}

fn is_missing(error: &MemoryError) -> bool {
    matches!(error, MemoryError::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn save(path: &Path, hashes: &PageHashes) -> Result<(), MemoryError> {
    let aside = path.with_extension("part");
    let write = || -> io::Result<()> {
        let file = File::create(&aside)?;
        let mut out = BufWriter::with_capacity(PIECE_BYTES, file);
        let mut digest = blake3::Hasher::new();
        let mut head = Writer::default();
        head.bytes(&MAGIC).u32(VERSION).u32(PAGE_BYTES as u32);
        head.u64(hashes.size_bytes()).u64(hashes.hashes().len() as u64);
        digest.update(&head.0);
        out.write_all(&head.0)?;
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        for piece in hashes.hashes().chunks(PIECE_BYTES / HASH_BYTES) {
            bytes.clear();
            piece.iter().for_each(|hash| bytes.extend_from_slice(&hash.to_le_bytes()));
            digest.update(&bytes);
            out.write_all(&bytes)?;
        }
        out.write_all(digest.finalize().as_bytes())?;
        // Before the bytes go, wherever the directory is.
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| {
        // Nobody reads it; the first error is the one to report.
        let _ = fs::remove_file(&aside);
        MemoryError::file("write", path)(error)
    })
}

fn load(path: &Path) -> Result<PageHashes, MemoryError> {
    let file = File::open(path).map_err(MemoryError::file("open", path))?;
    let len = file.metadata().map_err(MemoryError::file("find", path))?.len();
    let damaged = |how: String| MemoryError::Damaged {
        what: "a twin",
        reason: format!("{} {how}; abort the migration and start it again", path.display()),
    };
    let read = MemoryError::file("read", path);
    if len < (HEAD_BYTES + DIGEST_BYTES) as u64 {
        return Err(damaged(format!("has {len} bytes, too few for its head")));
    }
    let mut file = BufReader::with_capacity(PIECE_BYTES, file);
    let mut head = [0; HEAD_BYTES];
    let mut body = || -> io::Result<Result<PageHashes, String>> {
        file.read_exact(&mut head)?;
        let (size_bytes, pages) = match parse_head(&head, len) {
            Ok(found) => found,
            Err(how) => return Ok(Err(how)),
        };
        let mut digest = blake3::Hasher::new();
        digest.update(&head);
        let mut hashes = Vec::with_capacity(pages);
        let mut buffer = vec![0; PIECE_BYTES];
        while hashes.len() < pages {
            let more = (pages - hashes.len()).min(PIECE_BYTES / HASH_BYTES);
            let bytes = &mut buffer[..more * HASH_BYTES];
            file.read_exact(bytes)?;
            digest.update(bytes);
            let (each, _) = bytes.as_chunks::<HASH_BYTES>();
            hashes.extend(each.iter().map(|hash| u128::from_le_bytes(*hash)));
        }
        let mut expected = [0; DIGEST_BYTES];
        file.read_exact(&mut expected)?;
        if digest.finalize() != expected {
            return Ok(Err("does not have the digest it was written with".to_owned()));
        }
        Ok(PageHashes::from_hashes(hashes, size_bytes).map_err(|error| error.to_string()))
    };
    body().map_err(read)?.map_err(damaged)
}

/// Size of the object and number of its pages.
fn parse_head(head: &[u8; HEAD_BYTES], len: u64) -> Result<(u64, usize), String> {
    let mut reader = Reader::new(head);
    let mut fields = || -> Result<([u8; 8], u32, u32, u64, u64), Short> {
        Ok((reader.array()?, reader.u32()?, reader.u32()?, reader.u64()?, reader.u64()?))
    };
    let (magic, version, page_bytes, size_bytes, pages) =
        fields().map_err(|short| short.to_string())?;
    if magic != MAGIC {
        return Err("is no file of page hashes".to_owned());
    }
    if version != VERSION {
        return Err(format!("has version {version}, {VERSION} is understood here"));
    }
    if page_bytes as usize != PAGE_BYTES || pages != size_bytes.div_ceil(PAGE_BYTES as u64) {
        return Err(format!("has {pages} hashes of {page_bytes} bytes each for {size_bytes}"));
    }
    if len != hashes_bytes(size_bytes) {
        return Err(format!("has {len} bytes, {} are needed", hashes_bytes(size_bytes)));
    }
    // As many as the file has bytes for.
    Ok((size_bytes, pages as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twin(dir: &Path) -> PageHashes {
        let ram = Mapping::create(&path_of(dir, &ObjectKind::Ram), (9 << 20) + 5000).expect("ram");
        ram.write(4096 * 7 + 3, b"as of T0").expect("write");
        ram.write((9 << 20) + 4999, b"x").expect("write");
        PageHashes::of(&ram).expect("hashes")
    }

    #[test]
    fn hashes_take_the_place_of_bytes() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path();
        let nothing = Kept::open(dir, &ObjectKind::Ram).expect_err("nothing").to_string();
        assert!(nothing.contains("ram: "), "{nothing}");
        let hashes = twin(dir);
        assert!(matches!(Kept::open(dir, &ObjectKind::Ram), Ok(Kept::Bytes(_))));
        assert!(!finish_keeping_hashes(dir, &ObjectKind::Ram).expect("none"));
        keep_hashes(dir, &ObjectKind::Ram, &hashes).expect("kept");
        let files: Vec<_> = fs::read_dir(dir).expect("list").flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let len = files[0].metadata().expect("file").len();
        assert_eq!(len, hashes_bytes(hashes.size_bytes()));
        assert!(len * 200 < hashes.size_bytes());
        let Ok(Kept::Hashes(kept)) = Kept::open(dir, &ObjectKind::Ram) else {
            panic!("hashes are left");
        };
        assert!(kept == hashes);
        // As if it had ended between the two.
        twin(dir);
        assert!(matches!(Kept::open(dir, &ObjectKind::Ram), Ok(Kept::Bytes(_))));
        assert!(finish_keeping_hashes(dir, &ObjectKind::Ram).expect("finished"));
        assert!(matches!(Kept::open(dir, &ObjectKind::Ram), Ok(Kept::Hashes(_))));
    }

    #[test]
    fn damage_anywhere_is_found_and_the_bytes_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path();
        let hashes = twin(dir);
        keep_hashes(dir, &ObjectKind::Ram, &hashes).expect("kept");
        let path = hashes_path(dir, &ObjectKind::Ram);
        let good = fs::read(&path).expect("file");
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("write");
            let error = Kept::open(dir, &ObjectKind::Ram).expect_err("damaged");
            assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
            error.to_string()
        };
        for at in (0..good.len()).filter(|at| *at < 100 || at % 97 == 0 || *at + 40 > good.len()) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            refused(&bytes);
        }
        for len in [0, 1, 31, 63, 64, good.len() - 1] {
            refused(&good[..len]);
        }
        refused(&[&good[..], b"x"].concat());
        // A size that would need more memory than there is.
        let mut hostile = good.clone();
        hostile[16..24].copy_from_slice(&(u64::MAX - 4096).to_le_bytes());
        hostile[24..32].copy_from_slice(&(u64::MAX / 4096).to_le_bytes());
        refused(&hostile);
        let mut newer = good;
        newer[8] = 2;
        let error = refused(&newer);
        assert!(error.contains("has version 2, 1 is understood here; abort"), "{error}");
        // Not in place of bytes, whoever asks.
        twin(dir);
        finish_keeping_hashes(dir, &ObjectKind::Ram).expect_err("damaged");
        assert!(matches!(Kept::open(dir, &ObjectKind::Ram), Ok(Kept::Bytes(_))));
    }
}
