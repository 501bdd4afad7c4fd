//! Memory that benches work on: files on the lab's tmpfs, mapped, as guests' memory is.

use std::{path::Path, sync::Arc};

use tidegate_memory::{Mapping, mapping::PAGE_BYTES};

use crate::random::Random;

const PIECE_BYTES: usize = 1 << 20;

/// A file full of what does not compress, all of it there; the same seed gives the same.
///
/// # Errors
/// When there is no room.
pub fn noise(path: &Path, size_bytes: u64, seed: u64) -> anyhow::Result<Arc<Mapping>> {
    let memory = Mapping::create(path, size_bytes)?;
    let mut random = Random::new(seed);
    let mut piece = vec![0; PIECE_BYTES];
    for at in (0..size_bytes).step_by(PIECE_BYTES) {
        for word in piece.as_chunks_mut().0 {
            *word = random.bits().to_le_bytes();
        }
        let len = (size_bytes - at).min(PIECE_BYTES as u64) as usize;
        memory.write(at, &piece[..len])?;
    }
    Ok(Arc::new(memory))
}

/// Put `value` into each of a memory's pages.
///
/// # Errors
/// None but those of a memory that is not there.
pub fn touch(memory: &Mapping, value: u64) -> anyhow::Result<()> {
    for at in (0..memory.size_bytes()).step_by(PAGE_BYTES) {
        memory.write(at, &value.to_le_bytes())?;
    }
    Ok(())
}
