//! Where two private copies differ, packed into runs.

use std::ops::Range;

/// Runs start and end at multiples of this, or at the end of the copies.
pub(crate) const WORD_BYTES: usize = 8;
/// Compared before words are looked at: most of a changed page is as it was.
const LINE_BYTES: usize = 64;

/// Call `run` for each run in which `base` and `theirs`, of equal length, differ. Runs that are no more than `gap_words`
/// apart are one. The number of bytes that differ.
pub(crate) fn pack(
    base: &[u8],
    theirs: &[u8],
    gap_words: usize,
    mut run: impl FnMut(Range<usize>),
) -> u64 {
    let mut changed_bytes = 0;
    // The run being built, in words.
    let mut open: Option<(usize, usize)> = None;
    let mut close =
        |(first, end): (usize, usize)| run(first * WORD_BYTES..(end * WORD_BYTES).min(base.len()));
    let lines = base.chunks(LINE_BYTES).zip(theirs.chunks(LINE_BYTES));
    for (line, (base, theirs)) in lines.enumerate() {
        if base == theirs {
            continue;
        }
        let words = base.chunks(WORD_BYTES).zip(theirs.chunks(WORD_BYTES));
        for (word, (was, is)) in words.enumerate() {
            if was == is {
                continue;
            }
            changed_bytes += was.iter().zip(is).filter(|(was, is)| was != is).count() as u64;
            let word = line * (LINE_BYTES / WORD_BYTES) + word;
            open = match open {
                Some((first, end)) if word <= end + gap_words => Some((first, word + 1)),
                previous => {
                    previous.into_iter().for_each(&mut close);
                    Some((word, word + 1))
                }
            };
        }
    }
    open.into_iter().for_each(close);
    changed_bytes
}
