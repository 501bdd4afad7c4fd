//! `memcmp`: the floor of every comparison.

use std::thread;

use tidegate_guestmem::differ_by_memcmp;
use tidegate_memory::Mapping;

/// Compare equal memory with so many threads, each its own part.
///
/// # Errors
/// When the two differ, which would end it early.
pub fn compare(left: &Mapping, right: &Mapping, threads: usize) -> anyhow::Result<()> {
    let size = left.size_bytes();
    let part = size.div_ceil(threads as u64);
    let compare = |from: u64| {
        let len = part.min(size - from);
        let (left, right) = (left.slice(from, len)?, right.slice(from, len)?);
        anyhow::ensure!(!differ_by_memcmp(&left, &right), "what should be equal differs");
        Ok(())
    };
    thread::scope(|scope| {
        let parts = (0..size).step_by(part as usize);
        let threads: Vec<_> = parts.map(|from| scope.spawn(move || compare(from))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("comparing panicked"))?
        })
    })
}
