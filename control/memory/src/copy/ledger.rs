//! What of a copy is committed, on the receiver's disk, so that a broken copy can go on.
//!
//! Guest memory and ledger are in the same kernel's page cache, so neither is forced to disk: both outlive this process,
//! and after the machine itself went down the ledger is void.
//!
//! Layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `TGLEDGER` |
//! | 4, 4 | version 1, zero |
//! | 36 | the kernel's boot id |
//! | 4 | zero |
//! | 32 | BLAKE3 of the objects as LAYOUT lists them; of a layout that grew, of all it has now |
//! | each entry | the later one for a section counts |
//! | 4, 4 | section's number, 1 committed or 2 begun anew |
//! | 32 | digest |
//! | 8 | XXH3-128 of the entry's bytes before, its lower half |
//!
//! An entry that is cut short or does not fit its hash, and all behind it, was not finished.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use twox_hash::XxHash3_128;

use crate::{
    MemoryError, Object,
    copy::{Layout, message::encode_objects},
    page_hashes::{DIGEST_BYTES, Digest},
    wire::{Reader, Writer},
};

const MAGIC: [u8; 8] = *b"TGLEDGER";
const VERSION: u32 = 1;
const BOOT_ID_BYTES: usize = 36;
const HEAD_BYTES: usize = 8 + 8 + BOOT_ID_BYTES + 4 + 32;
const ENTRY_BYTES: usize = 8 + DIGEST_BYTES + 8;

/// An open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    committed: Vec<Option<Digest>>,
}

impl Ledger {
    /// Go on with the ledger of this layout, or of one with only the first of its objects, if there is one; how many objects that
    /// has. Their sections have the same numbers in both.
    pub(crate) fn resume(
        path: &Path,
        layout: &Layout,
    ) -> Result<Option<(Self, usize)>, MemoryError> {
        // Anything that keeps it from being read makes it void: then the copy begins anew.
        let Ok(bytes) = fs::read(path) else { return Ok(None) };
        let all = layout.objects();
        for objects in (1..=all.len()).rev() {
            let head = head(&all[..objects])?;
            let Some(entries) = bytes.strip_prefix(&head[..]) else { continue };
            let mut committed = vec![None; layout.sections() as usize];
            let mut read = 0;
            for entry in entries.chunks_exact(ENTRY_BYTES) {
                let Some((section, digest)) = parse_entry(entry) else { break };
                let Some(place) = committed.get_mut(section as usize) else { break };
                *place = digest;
                read += ENTRY_BYTES;
            }
            if objects < all.len() {
                return Self::begin(path, layout, &entries[..read], committed)
                    .map(|grown| Some((grown, objects)));
            }
            let file = OpenOptions::new().append(true).open(path);
            let file = file.map_err(MemoryError::file("open", path))?;
            let len = (head.len() + read) as u64;
            file.set_len(len).map_err(MemoryError::file("shorten", path))?;
            return Ok(Some((Self { path: path.to_owned(), file, committed }, objects)));
        }
        Ok(None)
    }

    /// Begin a ledger anew.
    pub(crate) fn create(path: &Path, layout: &Layout) -> Result<Self, MemoryError> {
        Self::begin(path, layout, &[], vec![None; layout.sections() as usize])
    }

    fn begin(
        path: &Path,
        layout: &Layout,
        entries: &[u8],
        committed: Vec<Option<Digest>>,
    ) -> Result<Self, MemoryError> {
        let write = || {
            let aside = path.with_extension("tmp");
            let head = head(layout.objects()).map_err(std::io::Error::other)?;
            fs::write(&aside, [&head[..], entries].concat())?;
            fs::rename(&aside, path)?;
            OpenOptions::new().append(true).open(path)
        };
        let file = write().map_err(MemoryError::file("create", path))?;
        Ok(Self { path: path.to_owned(), file, committed })
    }

    /// The digest a section was committed with.
    pub(crate) fn digest(&self, section: u32) -> Option<Digest> {
        self.committed.get(section as usize).copied().flatten()
    }

    /// Write down that a section is committed with this digest, or begins anew.
    pub(crate) fn enter(
        &mut self,
        section: u32,
        digest: Option<Digest>,
    ) -> Result<(), MemoryError> {
        let mut out = Writer::default();
        out.u32(section).u32(if digest.is_some() { 1 } else { 2 });
        out.bytes(&digest.unwrap_or_default());
        let check = XxHash3_128::oneshot(&out.0) as u64;
        out.u64(check);
        self.file.write_all(&out.0).map_err(MemoryError::file("write", &self.path))?;
        if let Some(place) = self.committed.get_mut(section as usize) {
            *place = digest;
        }
        Ok(())
    }

    /// The digests of all sections, or the first that is missing.
    pub(crate) fn all(&self) -> Result<Vec<Digest>, u32> {
        let numbered = self.committed.iter().zip(0_u32..);
        numbered.map(|(digest, number)| digest.ok_or(number)).collect()
    }
}

fn head(objects: &[Object]) -> Result<Vec<u8>, MemoryError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot_id = fs::read(path).map_err(MemoryError::file("read", path))?;
    let mut padded = [0; BOOT_ID_BYTES];
    let len = boot_id.len().min(BOOT_ID_BYTES);
    padded[..len].copy_from_slice(&boot_id[..len]);
    let objects = blake3::hash(&encode_objects(objects));
    let mut out = Writer::default();
    out.bytes(&MAGIC).u32(VERSION).u32(0).bytes(&padded).u32(0).bytes(objects.as_bytes());
    debug_assert_eq!(out.0.len(), HEAD_BYTES);
    Ok(out.0)
}

fn parse_entry(entry: &[u8]) -> Option<(u32, Option<Digest>)> {
    let mut reader = Reader::new(entry);
    let (section, state) = (reader.u32().ok()?, reader.u32().ok()?);
    let digest = reader.array().ok()?;
    let check = XxHash3_128::oneshot(&entry[..ENTRY_BYTES - 8]) as u64;
    if reader.u64().ok()? != check {
        return None;
    }
    match state {
        1 => Some((section, Some(digest))),
        2 => Some((section, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectKind, copy::SECTION_BYTES};

    fn layout(sections: u64) -> Layout {
        let size_bytes = sections * SECTION_BYTES;
        Layout::new(vec![Object { kind: ObjectKind::Ram, size_bytes }]).expect("layout")
    }

    #[test]
    fn a_ledger_cut_anywhere_keeps_what_was_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ledger");
        let mut ledger = Ledger::create(&path, &layout(3)).expect("create");
        ledger.enter(1, Some([1; 32])).expect("enter");
        ledger.enter(2, Some([2; 32])).expect("enter");
        ledger.enter(1, None).expect("enter");
        let bytes = fs::read(&path).expect("read");
        assert_eq!(bytes.len(), HEAD_BYTES + 3 * ENTRY_BYTES);
        for len in 0..=bytes.len() {
            fs::write(&path, &bytes[..len]).expect("write");
            let resumed = Ledger::resume(&path, &layout(3)).expect("read");
            let Some((mut resumed, _)) = resumed else {
                assert!(len < HEAD_BYTES);
                continue;
            };
            let whole = (len - HEAD_BYTES) / ENTRY_BYTES;
            assert_eq!(resumed.digest(1).is_some(), whole == 1 || whole == 2, "{len}");
            assert_eq!(resumed.digest(2).is_some(), whole >= 2, "{len}");
            // What is entered next follows the last whole entry.
            resumed.enter(0, Some([9; 32])).expect("enter");
            let (again, _) = Ledger::resume(&path, &layout(3)).expect("read").expect("there");
            assert_eq!(again.digest(0), Some([9; 32]));
            assert_eq!(again.digest(2), resumed.digest(2));
        }
        assert_eq!(ledger.all(), Err(0));
    }

    #[test]
    fn a_ledger_of_something_else_is_void() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ledger");
        assert!(Ledger::resume(&path, &layout(3)).expect("none").is_none());
        Ledger::create(&path, &layout(3)).expect("create").enter(0, Some([1; 32])).expect("enter");
        assert!(Ledger::resume(&path, &layout(2)).expect("other").is_none());
        let mut bytes = fs::read(&path).expect("read");
        let mut of_another_boot = bytes.clone();
        of_another_boot[20] ^= 1;
        fs::write(&path, of_another_boot).expect("write");
        assert!(Ledger::resume(&path, &layout(3)).expect("other").is_none());
        bytes[HEAD_BYTES + 10] ^= 1;
        fs::write(&path, bytes).expect("write");
        let (resumed, _) = Ledger::resume(&path, &layout(3)).expect("read").expect("there");
        assert_eq!(resumed.digest(0), None, "an entry that is damaged does not count");
    }

    #[test]
    fn a_layout_that_grows_keeps_what_is_committed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ledger");
        let ram = layout(2);
        let mut ledger = Ledger::create(&path, &ram).expect("create");
        ledger.enter(1, Some([1; 32])).expect("enter");
        let more = Object { kind: ObjectKind::DeviceState, size_bytes: 100 };
        let grown = Layout::new([ram.objects(), std::slice::from_ref(&more)].concat());
        let grown = grown.expect("layout");
        let (mut resumed, objects) = Ledger::resume(&path, &grown).expect("read").expect("there");
        assert_eq!((objects, resumed.digest(0), resumed.digest(1)), (1, None, Some([1; 32])));
        resumed.enter(2, Some([2; 32])).expect("enter");
        let (again, objects) = Ledger::resume(&path, &grown).expect("read").expect("there");
        assert_eq!((objects, again.digest(1), again.digest(2)), (2, Some([1; 32]), Some([2; 32])));
        // Not the other way, and not before them.
        assert!(Ledger::resume(&path, &ram).expect("other").is_none());
        Ledger::create(&path, &ram).expect("create");
        let before = Layout::new([&[more], ram.objects()].concat()).expect("layout");
        assert!(Ledger::resume(&path, &before).expect("other").is_none());
    }
}
