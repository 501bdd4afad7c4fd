//! Where two private copies differ, packed into runs.

use std::{array, ops::Range};

/// Runs start and end at multiples of this, or at the end of the copies.
pub(crate) const WORD_BYTES: usize = 8;
/// Looked at at once, without a branch: most of a changed page is as it was, or all of it is new.
const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / WORD_BYTES;

type Line = [u8; LINE_BYTES];

/// Call `run` for each run in which `base` and `theirs`, of equal length, differ. Runs that are no more than `gap_words`
/// apart are one. The number of bytes that differ.
pub(crate) fn pack(
    base: &[u8],
    theirs: &[u8],
    gap_words: usize,
    mut run: impl FnMut(Range<usize>),
) -> u64 {
    let mut changed_bytes = 0;
    let len = base.len();
    let close = |(first, end): (usize, usize)| run(first * WORD_BYTES..(end * WORD_BYTES).min(len));
    let mut runs = Runs { gap_words, open: None, close };
    let mut look = |line: usize, was: &Line, is: &Line| {
        let words = differing_words(was, is);
        if words != 0 {
            changed_bytes += u64::from(differing_bytes(was, is));
            runs.take(line * LINE_WORDS, words);
        }
    };
    let ((was, was_left), (is, is_left)) = (base.as_chunks(), theirs.as_chunks());
    for (line, (was, is)) in was.iter().zip(is).enumerate() {
        look(line, was, is);
    }
    // Zeros behind both ends differ in nothing.
    let padded = |left: &[u8]| array::from_fn(|at| left.get(at).copied().unwrap_or_default());
    look(was.len(), &padded(was_left), &padded(is_left));
    runs.open.into_iter().for_each(runs.close);
    changed_bytes
}

/// A bit for each word, the first lowest: it differs.
fn differing_words(was: &Line, is: &Line) -> u8 {
    let ((was, _), (is, _)) = (was.as_chunks::<WORD_BYTES>(), is.as_chunks::<WORD_BYTES>());
    let words = was.iter().zip(is).enumerate();
    words.fold(0, |bits, (word, (was, is))| bits | u8::from(was != is) << word)
}

fn differing_bytes(was: &Line, is: &Line) -> u8 {
    was.iter().zip(is).fold(0, |bytes, (was, is)| bytes + u8::from(was != is))
}

/// Words that differ, put together.
struct Runs<F> {
    gap_words: usize,
    /// The run being built, in words.
    open: Option<(usize, usize)>,
    close: F,
}

impl<F: FnMut((usize, usize))> Runs<F> {
    /// Those of a line that begins with `word`.
    fn take(&mut self, word: usize, mut words: u8) {
        let mut at = word;
        while words != 0 {
            let same = words.trailing_zeros();
            words >>= same;
            let differing = words.trailing_ones();
            words = words.checked_shr(differing).unwrap_or_default();
            let first = at + same as usize;
            at = first + differing as usize;
            self.join(first, at);
        }
    }

    fn join(&mut self, first: usize, end: usize) {
        match &mut self.open {
            Some((_, open_end)) if first <= *open_end + self.gap_words => *open_end = end,
            open => {
                open.take().into_iter().for_each(&mut self.close);
                *open = Some((first, end));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as it is defined.
    fn plainly(base: &[u8], theirs: &[u8], gap_words: usize) -> (u64, Vec<Range<usize>>) {
        let differing = base.iter().zip(theirs).filter(|(was, is)| was != is).count();
        let words = base.chunks(WORD_BYTES).zip(theirs.chunks(WORD_BYTES)).enumerate();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (word, _) in words.filter(|(_, (was, is))| was != is) {
            let (start, end) = (word * WORD_BYTES, ((word + 1) * WORD_BYTES).min(base.len()));
            match runs.last_mut() {
                Some(last) if start <= last.end + gap_words * WORD_BYTES => last.end = end,
                _ => runs.push(start..end),
            }
        }
        (differing as u64, runs)
    }

    proptest! {
        #[test]
        fn runs_are_as_they_are_defined(
            len in 0_usize..400,
            writes in prop::collection::vec((0_usize..400, 1_usize..90), 0..12),
            gap_words in 0_usize..6,
        ) {
            let base: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut theirs = base.clone();
            for (at, bytes) in writes {
                let (at, end) = (at.min(len), (at + bytes).min(len));
                theirs[at..end].iter_mut().for_each(|byte| *byte ^= 0x40);
            }
            let mut runs = Vec::new();
            let changed_bytes = pack(&base, &theirs, gap_words, |run| runs.push(run));
            prop_assert_eq!((changed_bytes, runs), plainly(&base, &theirs, gap_words));
        }
    }
}
