//! One number for all memory of a guest: who has the same has the same memory, byte for byte.
//!
//! BLAKE3 over each object in order: its kind (1 byte), its name's length (2) and name, its size (8), and the digests of
//! its windows of 8 MiB, each of which is that over its pages' hashes ([`crate::page_hashes`]).

use std::sync::{Mutex, PoisonError};

use crate::{
    Mapping, MemoryError, ObjectKind, PageHashes, page_hashes::Digest, parallel::in_parallel,
    twin::data_extents, wire::Writer,
};

/// What one thread hashes at a time.
const WINDOW_BYTES: u64 = 8 << 20;

/// The digest of `memory`, in hexadecimal. While the guest runs it is of no one moment.
///
/// # Errors
/// None that mappings of their own sizes have.
pub fn digest(memory: &[(ObjectKind, &Mapping)]) -> Result<String, MemoryError> {
    let (mut windows, mut extents) = (Vec::new(), Vec::new());
    for (index, (_, mapping)) in memory.iter().enumerate() {
        let starts = (0..mapping.size_bytes()).step_by(WINDOW_BYTES as usize);
        windows.extend(starts.map(|start| (index, start)));
        extents.push(data_extents(mapping)?);
    }
    let found = Mutex::new(vec![Digest::default(); windows.len()]);
    let numbered: Vec<_> = windows.iter().enumerate().collect();
    in_parallel(&numbered, |(number, (index, start))| {
        let mapping = memory[*index].1;
        let len = WINDOW_BYTES.min(mapping.size_bytes() - start);
        let mut hashes = PageHashes::zeros(len);
        // Not the holes: to look at them would allocate them, and they are zeros.
        for (data, bytes) in &extents[*index] {
            let (from, to) = ((*data).max(*start), (data + bytes).min(start + len));
            if from < to {
                hashes.update(mapping, *start, from - start..to - start)?;
            }
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
