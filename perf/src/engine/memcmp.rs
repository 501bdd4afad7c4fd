//! `memcmp`: the floor of every comparison.

use std::{hint::black_box, thread, time::Instant};

/// Bytes per second, of one side, at which equally long buffers are compared by so many threads, each its own part. Equal
/// slices of bytes are compared by the C library's `memcmp`.
///
/// # Panics
/// When the buffers differ, which would end it early.
#[must_use]
pub fn rate(left: &[u8], right: &[u8], threads: usize) -> f64 {
    let part = left.len().div_ceil(threads);
    let started = Instant::now();
    thread::scope(|scope| {
        for (left, right) in left.chunks(part).zip(right.chunks(part)) {
            scope.spawn(move || assert!(black_box(left) == black_box(right), "they are equal"));
        }
    });
    left.len() as f64 / started.elapsed().as_secs_f64()
}
