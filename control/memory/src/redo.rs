//! A merge's result on disk, so that it is applied all or nothing whatever happens in between.
//!
//! `merge.redo` holds the absolute bytes to write and the report; it appears whole (written aside, renamed). While it is
//! there the merge must be carried through, and writing the same bytes again is harmless. Renamed to `merge.done` it says
//! that they are all written.
//!
//! It is there for a process that dies in between, however often. It waits for no disk: when the machine dies, the
//! destination and its memory die with it, and until then the destination would stand still for each wait.
//!
//! Layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `TGREDO` and two zeros |
//! | 4 | version, 2 |
//! | 8 | bytes of the destination that the merge changes |
//! | 8 | number of conflicts found |
//! | 4 | number of conflicts listed; each: region's name (2, n), offset (8), merge type (1), width w (1), base, ours, theirs (w each) |
//! | 4 | number of ranges with conflicts; each: region's name (2, n), offset (8), length (8), merge type (1), count (8) |
//! | 4 | number of regions; each: name (2, n), number of writes (8); each write: offset (8), length n (4), bytes (n) |
//! | 32 | BLAKE3 of everything before |

use std::{fs, io, path::Path};

use tidegate_region::MergeType;

use crate::{
    MemoryError,
    error::{Cause, Conflict},
    merge::{RangeConflicts, Report},
    object::checked_name,
    wire::{Reader, Short, Writer},
};

const MAGIC: [u8; 8] = *b"TGREDO\0\0";
const VERSION: u32 = 2;
const DIGEST_BYTES: usize = 32;
const REDO: &str = "merge.redo";
const DONE: &str = "merge.done";

/// Bytes to put at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A merge that was computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redo {
    pub(crate) report: Report,
    pub(crate) regions: Vec<(String, Vec<Write>)>,
}

/// How far the merge in a directory is.
pub(crate) enum Stage {
    NotBegun,
    Computed(Redo),
    Done(Report),
}

pub(crate) fn stage(dir: &Path) -> Result<Stage, MemoryError> {
    if let Some(redo) = load(&dir.join(DONE))? {
        return Ok(Stage::Done(redo.report));
    }
    Ok(load(&dir.join(REDO))?.map_or(Stage::NotBegun, Stage::Computed))
}

fn load(path: &Path) -> Result<Option<Redo>, MemoryError> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes)
            .map(Some)
            .map_err(|reason| MemoryError::Damaged { what: "the merge's redo file", reason }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(MemoryError::file("read", path)(error)),
    }
}

/// Keep the merge. From here on it is carried through.
pub(crate) fn store(dir: &Path, redo: &Redo) -> Result<(), MemoryError> {
    let aside = dir.join("merge.tmp");
    let written = fs::write(&aside, encode(redo)).and_then(|()| fs::rename(&aside, dir.join(REDO)));
    written.map_err(MemoryError::file("write", &aside))
}

/// Do what [`store`] does as far as it changes nothing.
pub(crate) fn rehearse(dir: &Path, redo: &Redo) -> Result<(), MemoryError> {
    let aside = dir.join("merge.dry-run");
    let written = fs::write(&aside, encode(redo));
    // The first error is the one to report.
    let removed = fs::remove_file(&aside);
    written.and(removed).map_err(MemoryError::file("write", &aside))
}

/// Every byte is written.
pub(crate) fn finish(dir: &Path) -> Result<(), MemoryError> {
    let redo = dir.join(REDO);
    fs::rename(&redo, dir.join(DONE)).map_err(MemoryError::file("rename", &redo))
}

pub(crate) fn encode(redo: &Redo) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(&MAGIC).u32(VERSION);
    out.u64(redo.report.merged_bytes).u64(redo.report.conflict_count);
    out.len(redo.report.conflicts.len());
    for conflict in &redo.report.conflicts {
        // Merge type codes and widths are single digits.
        let (code, width) = (conflict.resolution.code() as u8, conflict.base.len() as u8);
        out.name(&conflict.region).u64(conflict.offset).u8(code).u8(width);
        out.bytes(&conflict.base).bytes(&conflict.ours).bytes(&conflict.theirs);
    }
    out.len(redo.report.ranges.len());
    for range in &redo.report.ranges {
        out.name(&range.region).u64(range.offset).u64(range.len_bytes);
        out.u8(range.merge_type.code() as u8).u64(range.count);
    }
    out.len(redo.regions.len());
    for (name, writes) in &redo.regions {
        out.name(name).u64(writes.len() as u64);
        for write in writes {
            out.u64(write.offset).len(write.bytes.len()).bytes(&write.bytes);
        }
    }
    let digest = blake3::hash(&out.0);
    out.bytes(digest.as_bytes());
    out.0
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Redo, String> {
    let body = bytes.len().checked_sub(DIGEST_BYTES).ok_or_else(|| Short.to_string())?;
    let (body, digest) = bytes.split_at(body);
    if blake3::hash(body).as_bytes() != digest {
        return Err("its digest does not match".to_owned());
    }
    let mut reader = Reader::new(body);
    let short = |_: Short| Short.to_string();
    if reader.array().map_err(short)? != MAGIC || reader.u32().map_err(short)? != VERSION {
        return Err("it is of another version".to_owned());
    }
    let mut redo = Redo::default();
    redo.report.merged_bytes = reader.u64().map_err(short)?;
    redo.report.conflict_count = reader.u64().map_err(short)?;
    for _ in 0..reader.len().map_err(short)? {
        redo.report.conflicts.push(decode_conflict(&mut reader)?);
    }
    for _ in 0..reader.len().map_err(short)? {
        redo.report.ranges.push(decode_range(&mut reader)?);
    }
    for _ in 0..reader.len().map_err(short)? {
        let name = reader.name().map_err(short)?;
        let name = checked_name(name).map_err(|error| error.to_string())?.to_owned();
        let mut writes = Vec::new();
        for _ in 0..reader.u64().map_err(short)? {
            let offset = reader.u64().map_err(short)?;
            let len = reader.len().map_err(short)?;
            writes.push(Write { offset, bytes: reader.bytes(len).map_err(short)?.to_vec() });
        }
        redo.regions.push((name, writes));
    }
    if reader.left() > 0 {
        return Err(format!("{} bytes follow the last region", reader.left()));
    }
    Ok(redo)
}

fn decode_conflict(reader: &mut Reader<'_>) -> Result<Conflict, String> {
    let short = |_: Short| Short.to_string();
    let region = reader.name().map_err(short)?.to_owned();
    let offset = reader.u64().map_err(short)?;
    let resolution = decode_merge_type(reader)?;
    let width = usize::from(reader.u8().map_err(short)?);
    let mut value = || reader.bytes(width).map(<[u8]>::to_vec).map_err(short);
    Ok(Conflict {
        region,
        offset,
        base: value()?,
        ours: value()?,
        theirs: value()?,
        resolution,
        // The others refuse a merge, and then there is no file.
        cause: Cause::BothChanged,
    })
}

fn decode_range(reader: &mut Reader<'_>) -> Result<RangeConflicts, String> {
    let short = |_: Short| Short.to_string();
    let region = reader.name().map_err(short)?.to_owned();
    let (offset, len_bytes) = (reader.u64().map_err(short)?, reader.u64().map_err(short)?);
    let merge_type = decode_merge_type(reader)?;
    Ok(RangeConflicts {
        region,
        offset,
        len_bytes,
        merge_type,
        count: reader.u64().map_err(short)?,
    })
}

fn decode_merge_type(reader: &mut Reader<'_>) -> Result<MergeType, String> {
    let code = reader.u8().map_err(|short| short.to_string())?;
    MergeType::from_code(u32::from(code)).ok_or_else(|| format!("merge type {code} is unknown"))
}
