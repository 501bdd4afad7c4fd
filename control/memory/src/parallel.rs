//! Work cut into pieces and done on as many threads as help.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::MemoryError;

/// Memory's speed is reached by then.
const MAX_THREADS: usize = 4;

/// Run `job` for each piece of work; the first error stops all.
pub(crate) fn in_parallel<W: Sync>(
    work: &[W],
    job: impl Fn(&W) -> Result<(), MemoryError> + Sync,
) -> Result<(), MemoryError> {
    in_parallel_with(work, || (), |(), piece| job(piece))
}

/// As [`in_parallel`], with something that each thread makes for itself, such as buffers.
pub(crate) fn in_parallel_with<W: Sync, S>(
    work: &[W],
    make: impl Fn() -> S + Sync,
    job: impl Fn(&mut S, &W) -> Result<(), MemoryError> + Sync,
) -> Result<(), MemoryError> {
    let next = AtomicUsize::new(0);
    on_threads(work.len(), || {
        let mut own = make();
        // Relaxed: the index hands out work, the scope's join orders the results.
        while let Some(piece) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = job(&mut own, piece) {
                next.store(work.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    })
}

/// As many threads as help with so many pieces.
pub(crate) fn threads(pieces: usize) -> usize {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    threads.min(MAX_THREADS).min(pieces.max(1))
}

/// Run `job` on as many threads as help with `pieces` pieces of work; the first error is the answer.
pub(crate) fn on_threads(
    pieces: usize,
    job: impl Fn() -> Result<(), MemoryError> + Sync,
) -> Result<(), MemoryError> {
    let threads = threads(pieces);
    let failed = Mutex::new(None);
    let run = || {
        if let Err(error) = job() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
