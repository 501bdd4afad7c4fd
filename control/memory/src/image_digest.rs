//! One number for all memory of a guest: who has the same has the same memory, byte for byte.
//!
//! BLAKE3 over each object in order: its kind (1 byte), its name's length (2) and name, its size (8), and the digests of
//! its windows of 8 MiB, each of which is that over its pages' hashes ([`crate::page_hashes`]).

use std::sync::{Mutex, PoisonError};

use crate::{
    Mapping, MemoryError, ObjectKind, PageHashes,
    page_hashes::Digest,
    parallel::in_parallel,
    scan::{PIECE_BYTES, pieces_of},
    wire::Writer,
};

/// What one thread hashes at a time.
const WINDOW_BYTES: u64 = 8 << 20;

/// The digest of `memory`, in hexadecimal. While the guest runs it is of no one moment.
///
/// # Errors
/// None that mappings of their own sizes have.
pub fn digest(memory: &[(ObjectKind, &Mapping)]) -> Result<String, MemoryError> {
    let mut windows = Vec::new();
    for (index, (_, mapping)) in memory.iter().enumerate() {
        let pieces = pieces_of(mapping)?;
        let of_window = pieces.chunks((WINDOW_BYTES / PIECE_BYTES) as usize);
        windows.extend(of_window.map(|pieces| (index, pieces.to_vec())));
    }
    let found = Mutex::new(vec![Digest::default(); windows.len()]);
    let numbered: Vec<_> = windows.iter().enumerate().collect();
    in_parallel(&numbered, |(number, (index, pieces))| {
        let mapping = memory[*index].1;
        let start = pieces.first().map_or(0, |piece| piece.start);
        let mut hashes = PageHashes::zeros(pieces.iter().map(|piece| piece.len_bytes).sum());
        // Not the holes: to look at them would allocate them, and they are zeros.
        for piece in pieces.iter().filter(|piece| !piece.hole) {
            let from = piece.start - start;
            hashes.update(mapping, start, from..from + piece.len_bytes)?;
        }
        found.lock().unwrap_or_else(PoisonError::into_inner)[*number] = hashes.digest();
        Ok(())
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut whole = blake3::Hasher::new();
    for (index, (kind, mapping)) in memory.iter().enumerate() {
        let (code, name) = kind.code();
        let mut head = Writer::default();
        head.u8(code).name(name).u64(mapping.size_bytes());
        whole.update(&head.0);
        for (_, digest) in windows.iter().zip(&found).filter(|((of, _), _)| *of == index) {
            whole.update(digest);
        }
    }
    Ok(whole.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_and_so_does_where_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let size = WINDOW_BYTES * 2 + 12_288;
        let ram = Mapping::create(&dir.path().join("ram"), size).expect("create");
        let region = Mapping::create(&dir.path().join("r"), 8192).expect("create");
        let of = |name: &str| {
            let kind = ObjectKind::Region(name.to_owned());
            digest(&[(ObjectKind::Ram, &ram), (kind, &region)]).expect("digest")
        };
        let mut seen = vec![of("a"), of("b")];
        for at in [0, WINDOW_BYTES - 1, WINDOW_BYTES, 2 * WINDOW_BYTES + 4096, size - 1] {
            ram.write(at, b"x").expect("write");
            seen.push(of("a"));
        }
        region.write(8191, b"x").expect("write");
        seen.push(of("a"));
        assert_eq!(of("a"), of("a"));
        let whole = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), whole, "all differ");
    }
}
