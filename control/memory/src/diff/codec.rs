//! A region diff as bytes.

use tidegate_region::{HEADER_BYTES, Header};

use super::{Diff, MAX_RUN_BYTES, RegionDiff, Runs};
use crate::{
    MemoryError,
    object::checked_name,
    wire::{Reader, Short, Writer},
};

const MAGIC: [u8; 8] = *b"TGDIFF\0\0";
const VERSION: u32 = 2;
const MAX_REGIONS: usize = 256;

impl Diff {
    /// The bytes that travel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&MAGIC).u32(VERSION).len(self.regions.len());
        for region in &self.regions {
            out.name(&region.name).u64(region.size_bytes);
            match &region.header {
                Some(header) => {
                    let mut bytes = [0; HEADER_BYTES];
                    header.encode(&mut bytes);
                    out.len(HEADER_BYTES).bytes(&bytes);
                }
                None => drop(out.len(0)),
            }
            out.u64(region.runs.len() as u64);
            for run in region.runs.iter() {
                out.u64(run.offset).len(run.base.len()).bytes(run.base).bytes(run.theirs);
            }
        }
        out.0
    }

    /// Read what [`Self::encode`] wrote, trusting nothing.
    ///
    /// # Errors
    /// [`MemoryError::Damaged`] with the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, MemoryError> {
        decode(bytes).map_err(|reason| MemoryError::Damaged { what: "the diff", reason })
    }
}

fn short(short: Short) -> String {
    short.to_string()
}

fn decode(bytes: &[u8]) -> Result<Diff, String> {
    let mut reader = Reader::new(bytes);
    if reader.array().map_err(short)? != MAGIC {
        return Err("it does not start with the magic".to_owned());
    }
    let version = reader.u32().map_err(short)?;
    if version != VERSION {
        return Err(format!("version {version} is not supported, only {VERSION} is"));
    }
    let count = reader.len().map_err(short)?;
    if count > MAX_REGIONS {
        return Err(format!("{count} regions are more than {MAX_REGIONS}"));
    }
    let mut regions: Vec<RegionDiff> = Vec::with_capacity(count);
    for _ in 0..count {
        let region = decode_region(&mut reader)?;
        if regions.iter().any(|other| other.name == region.name) {
            return Err(format!("region `{}` is there twice", region.name));
        }
        regions.push(region);
    }
    match reader.left() {
        0 => Ok(Diff { regions }),
        left => Err(format!("{left} bytes follow the last region")),
    }
}

fn decode_region(reader: &mut Reader<'_>) -> Result<RegionDiff, String> {
    let name = reader.name().map_err(short)?;
    let name = checked_name(name).map_err(|error| error.to_string())?.to_owned();
    let size_bytes = reader.u64().map_err(short)?;
    if size_bytes == 0 {
        return Err(format!("region `{name}` has no bytes"));
    }
    let header = match reader.len().map_err(short)? {
        0 => None,
        HEADER_BYTES => {
            let header = Header::parse(reader.bytes(HEADER_BYTES).map_err(short)?)
                .map_err(|error| format!("region `{name}`: {error}"))?;
            Some(Box::new(header))
        }
        other => return Err(format!("region `{name}` has a header of {other} bytes")),
    };
    if header.as_ref().is_some_and(|header| header.size_bytes() != size_bytes) {
        return Err(format!("region `{name}` has a header for another size"));
    }
    let count = reader.u64().map_err(short)?;
    // No allocation by a number that a peer chose: each run takes bytes that must be there.
    let mut runs = Runs::default();
    let mut free_from = 0;
    for _ in 0..count {
        let offset = reader.u64().map_err(short)?;
        let len = reader.len().map_err(short)?;
        let end = offset.checked_add(len as u64).filter(|end| *end <= size_bytes);
        let Some(end) = end else {
            return Err(format!("{len} bytes at {offset} lie outside region `{name}`"));
        };
        if len == 0 || len > MAX_RUN_BYTES || offset < free_from {
            return Err(format!(
                "run of {len} bytes at {offset} of region `{name}` is not allowed"
            ));
        }
        free_from = end;
        let base = reader.bytes(len).map_err(short)?;
        runs.push(offset, base, reader.bytes(len).map_err(short)?);
    }
    Ok(RegionDiff { name, size_bytes, header, runs })
}
