//! Making an image diff.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use twox_hash::XxHash3_128;

use super::{
    DIGEST_BYTES, END, GAP_WORDS, HASH_BYTES, HEAD_BYTES, Head, encode_objects, is_memory,
};
use crate::{
    MemoryError,
    ahead::Ahead,
    parallel::in_parallel_with,
    scan::{Compared, Figures, Group, Piece, Scanner},
    wire::Writer,
};

/// Compare objects with their twins and write what changed. One answer for each object. The guest must be paused.
///
/// Writes are of whole pieces, so `out` needs no buffer of its own.
///
/// # Errors
/// [`MemoryError::Mismatch`] when a size is wrong; [`MemoryError::Connection`] when `out` fails.
pub fn write<W: Write + Send>(
    out: W,
    compared: &[Compared<'_>],
) -> Result<Vec<Figures>, MemoryError> {
    write_beside(out, compared, &[])
}

/// As [`write`], of objects of which something went ahead or goes now: for each object, or for none, what is known of that. Of a diff
/// that goes ahead the guest may run: what is found, what the twin takes over and what is written are the same bytes.
///
/// # Errors
/// As [`write`]; [`MemoryError::NoSpace`] when a twin has no room for what it takes over.
pub fn write_beside<W: Write + Send>(
    out: W,
    compared: &[Compared<'_>],
    ahead: &[Ahead],
) -> Result<Vec<Figures>, MemoryError> {
    for each in compared {
        each.check()?;
        if !is_memory(&each.object.kind) {
            let reason = "it is not memory".to_owned();
            return Err(MemoryError::Mismatch { object: each.object.kind.clone(), reason });
        }
    }
    let mut stream = Stream { out, digest: blake3::Hasher::new(), pieces: 0 };
    let objects = encode_objects(compared.iter().map(|each| &each.object));
    stream.digest.update(&objects);
    stream.send(&objects)?;
    let stream = Mutex::new(stream);
    let mut found = Vec::with_capacity(compared.len());
    for (index, each) in compared.iter().enumerate() {
        found.push(write_object(&stream, index as u32, each, ahead.get(index))?);
    }
    stream.into_inner().unwrap_or_else(PoisonError::into_inner).end()?;
    Ok(found)
}

fn write_object<W: Write + Send>(
    stream: &Mutex<Stream<W>>,
    object: u32,
    compared: &Compared<'_>,
    ahead: Option<&Ahead>,
) -> Result<Figures, MemoryError> {
    let total = Mutex::new(Figures::default());
    let make = || (Scanner::default(), Packer::default());
    in_parallel_with(&compared.pieces()?, make, |(scanner, packer), piece| {
        packer.begin(piece);
        let mut taken_over = Ok(());
        let mut found = |group: &Group<'_>| {
            let in_piece = (group.start - piece.start) as u32;
            packer.figures.changed_bytes += group.runs(GAP_WORDS, |run| {
                packer.run(in_piece + run.start as u32, &group.theirs[run]);
            });
            if let (Some(ahead), Ok(())) = (ahead, &taken_over) {
                taken_over = ahead.will_send(compared.twin, group.start, group.theirs);
            }
        };
        match ahead {
            Some(ahead) if ahead.doubts(piece) => {
                scanner.whole_piece(compared, piece, &mut found)?;
            }
            _ => scanner.piece(compared, piece, &mut found)?,
        }
        taken_over?;
        let mut figures = scanner.looked_at(piece);
        figures += packer.figures;
        *total.lock().unwrap_or_else(PoisonError::into_inner) += figures;
        match packer.end(object) {
            Some(bytes) => stream.lock().unwrap_or_else(PoisonError::into_inner).piece(bytes),
            None => Ok(()),
        }
    })?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One thread's piece in the making.
#[derive(Default)]
struct Packer {
    start: u64,
    /// Room for the head, then the runs' bytes.
    out: Writer,
    /// What follows them.
    heads: Writer,
    figures: Figures,
}

impl Packer {
    fn begin(&mut self, piece: &Piece) {
        self.start = piece.start;
        self.figures = Figures::default();
        self.heads.0.clear();
        self.out.0.clear();
        self.out.bytes(&[0; HEAD_BYTES]);
    }

    fn run(&mut self, offset: u32, bytes: &[u8]) {
        self.figures.runs += 1;
        self.figures.run_bytes += bytes.len() as u64;
        self.out.bytes(bytes);
        self.heads.u32(offset).len(bytes.len());
    }

    /// The piece as it travels; none when nothing changed.
    fn end(&mut self, object: u32) -> Option<&[u8]> {
        if self.figures.runs == 0 {
            return None;
        }
        let mut head = Writer::default();
        // A piece bounds both.
        let (runs, data_bytes) = (self.figures.runs as u32, self.figures.run_bytes as u32);
        Head { object, runs, start: self.start, data_bytes }.encode(&mut head);
        self.out.0[..HEAD_BYTES].copy_from_slice(&head.0);
        self.out.bytes(&self.heads.0);
        let hash = XxHash3_128::oneshot(&self.out.0);
        self.out.bytes(&hash.to_le_bytes());
        Some(&self.out.0)
    }
}

/// Where pieces of all threads go, one after the other.
struct Stream<W> {
    out: W,
    digest: blake3::Hasher,
    pieces: u64,
}

impl<W: Write> Stream<W> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), MemoryError> {
        self.out.write_all(bytes).map_err(MemoryError::connection("sending the image diff"))
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), MemoryError> {
        self.digest.update(&bytes[bytes.len() - HASH_BYTES..]);
        self.pieces += 1;
        self.send(bytes)
    }

    fn end(mut self) -> Result<(), MemoryError> {
        let mut end = Writer::default();
        Head { object: END, runs: 0, start: self.pieces, data_bytes: 0 }.encode(&mut end);
        let digest: [u8; DIGEST_BYTES] = self.digest.finalize().into();
        end.bytes(&digest);
        self.send(&end.0)?;
        self.out.flush().map_err(MemoryError::connection("sending the image diff"))
    }
}
