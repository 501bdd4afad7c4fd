//! Change memory in a guest without end: `tidegate-guest-rewriter <MiB> <rest> <filled MiB>`.
//!
//! What the memory benches' guests do. Every byte of a buffer of so many MiB is changed, in order, to something that
//! cannot be told beforehand and does not compress; then the program rests for so many milliseconds, and begins again. Other
//! MiB are filled once, so that the guest's memory is not mostly zeros. Meanwhile it says something on its console every few milliseconds,
//! so that it can be heard when it is kept from running.
#![forbid(unsafe_code)]

use std::{
    env,
    hint::black_box,
    io::{self, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use tidegate_guest_service::{BEAT, REWRITING};

const WORDS_PER_MIB: usize = (1 << 20) / size_of::<u64>();

fn main() -> ExitCode {
    let numbers: Vec<u64> = env::args().skip(1).map_while(|word| word.parse().ok()).collect();
    let [rewritten_mib, rest_ms, filled_mib] = numbers[..] else {
        println!("tidegate-guest: tidegate-guest-rewriter <MiB> <rest, ms> <filled MiB>");
        return ExitCode::FAILURE;
    };
    let still = filled(filled_mib as usize, 1);
    let mut words = filled(rewritten_mib as usize, 2);
    println!("{REWRITING}: {rewritten_mib} MiB, resting {rest_ms} ms; {filled_mib} MiB filled");
    thread::spawn(beat);
    loop {
        for word in &mut words {
            *word = next(*word);
        }
        // Nobody reads them here.
        black_box((&mut words, &still));
        thread::sleep(Duration::from_millis(rest_ms));
    }
}

fn beat() {
    loop {
        thread::sleep(BEAT);
        // A console that is gone hears nothing.
        let _ = io::stdout().write_all(b".").and_then(|()| io::stdout().flush());
    }
}

fn filled(mib: usize, seed: u64) -> Vec<u64> {
    let mut word = seed;
    let mut draw = || {
        word = next(word);
        // The low bits of `next` repeat soon.
        word ^ (word >> 33)
    };
    (0..mib * WORDS_PER_MIB).map(|_| draw()).collect()
}

/// A full-period generator modulo 2^64 (Knuth's MMIX): no word is the same again before all others were. One multiplication,
/// because a guest under TCG is slow enough.
fn next(word: u64) -> u64 {
    word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}
