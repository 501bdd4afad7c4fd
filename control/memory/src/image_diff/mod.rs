//! What changed in a guest's memory since T0, as it is now: for making the destination's memory the source's.
//!
//! Unlike a [region diff](crate::diff) it knows nothing of T0's bytes and merges nothing. It is made and applied as a
//! stream, by several threads, a piece of 1 MiB at a time; neither side holds more of it.
//!
//! Layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `TGIMAGE` and a zero |
//! | 4 | version, 1 |
//! | 4 | number of objects, 1 to 257 |
//! | each object | |
//! | 1 | kind: 1 RAM, 3 region |
//! | 2, n | name's length and name; RAM has none |
//! | 8 | size in bytes, not zero |
//! | | pieces, in any order, each at most once; those without changes are left out |
//! | 56 | END |
//!
//! | bytes in a piece | what |
//! |---|---|
//! | 4 | object, from 0 |
//! | 4 | number of runs r, 1 to 65536 |
//! | 8 | where the piece starts in the object: a multiple of 1 MiB |
//! | 4 | bytes of all runs d, not more than the piece has |
//! | 4 | zero |
//! | d | the runs' bytes, one run after the other |
//! | 8 each | runs, ascending, not overlapping: offset in the piece (4), length (4), not zero |
//! | 16 | XXH3-128 of everything before in the piece |
//!
//! | bytes in END | what |
//! |---|---|
//! | 4 | 0xffffffff |
//! | 4 | zero |
//! | 8 | number of pieces |
//! | 8 | zero |
//! | 32 | BLAKE3 of everything before the first piece, then of each piece's XXH3-128, as they came |
//!
//! # Guarantees
//! A piece is applied when its own hash is right. Whoever applies a diff must not let the guest run before [`apply`]
//! returned: on an error part of the memory is the source's and part is not. Applying the same diff again, from its
//! beginning, makes it whole; applying it twice is as applying it once.

mod read;
mod write;

pub use read::{Applied, apply};
pub use write::{write, write_beside};

pub use crate::scan::Figures;
use crate::{
    Object, ObjectKind,
    scan::PIECE_BYTES,
    wire::{Reader, Short, Writer},
};

/// Gaps that cost less to send than a run costs to send and to apply: its head, and the time of about 30 bytes.
pub(crate) const GAP_WORDS: usize = 4;

const MAGIC: [u8; 8] = *b"TGIMAGE\0";
const VERSION: u32 = 1;
const MAX_OBJECTS: usize = 257;
const HEAD_BYTES: usize = 24;
const RUN_BYTES: usize = 8;
const HASH_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Two runs have a word of their own each and one between them.
const MAX_RUNS: usize = PIECE_BYTES as usize / 16;
/// Stands for END where a piece has its object.
const END: u32 = u32::MAX;

/// Bytes that a diff of `figures` takes at most, without what is sent once.
#[must_use]
pub fn packed_bytes(figures: &Figures) -> u64 {
    let pieces = figures.runs.min(figures.compared_bytes.div_ceil(PIECE_BYTES));
    figures.run_bytes + figures.runs * RUN_BYTES as u64 + pieces * (HEAD_BYTES + HASH_BYTES) as u64
}

/// The start of a piece, or END.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    object: u32,
    runs: u32,
    /// In END: the number of pieces.
    start: u64,
    data_bytes: u32,
}

impl Head {
    fn encode(&self, out: &mut Writer) {
        out.u32(self.object).u32(self.runs).u64(self.start).u32(self.data_bytes).u32(0);
    }

    /// Read a head; whether it makes sense is told by the caller, who knows the objects.
    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, String> {
        let mut reader = Reader::new(bytes);
        let mut fields = || -> Result<(Self, u32), Short> {
            let (object, runs, start) = (reader.u32()?, reader.u32()?, reader.u64()?);
            Ok((Self { object, runs, start, data_bytes: reader.u32()? }, reader.u32()?))
        };
        match fields() {
            Ok((head, 0)) => Ok(head),
            Ok((_, other)) => Err(format!("a piece has {other} where zero must be")),
            Err(short) => Err(short.to_string()),
        }
    }

    /// Bytes between the head and the next one.
    fn body_bytes(&self) -> usize {
        self.data_bytes as usize + self.runs as usize * RUN_BYTES + HASH_BYTES
    }
}

fn encode_objects<'a>(objects: impl ExactSizeIterator<Item = &'a Object>) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(&MAGIC).u32(VERSION).len(objects.len());
    for object in objects {
        let (code, name) = object.kind.code();
        out.u8(code).name(name).u64(object.size_bytes);
    }
    out.0
}

/// Whether an image diff can hold it: memory, not what is said about devices.
fn is_memory(kind: &ObjectKind) -> bool {
    matches!(kind, ObjectKind::Ram | ObjectKind::Region(_))
}

#[cfg(test)]
mod tests;
