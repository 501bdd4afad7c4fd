//! A loop over the guest's own memory that notices when a byte of it is not what was written there.
//!
//! Every page has a checksum, kept apart from it. A round checks each page, changes a word of it and notes the new
//! checksum, so that whoever copies the memory has something to miss.

use std::{num::Wrapping, thread, time::Duration};

const WORDS: usize = 512;
/// Between rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// What the loop prints when a page is wrong.
pub const BROKEN: &str = "tidegate-guest: checksum BROKEN";
/// What it prints after each round, followed by the number of rounds.
pub const GOOD: &str = "tidegate-guest: checksum good, round";

/// Pages and their checksums.
pub struct Checked {
    pages: Vec<[u64; WORDS]>,
    sums: Vec<u64>,
    rounds: u64,
}

/// Of a page that is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub page: usize,
    /// In which round.
    pub round: u64,
}

fn sum(page: &[u64; WORDS]) -> u64 {
    let mut sum = Wrapping(0x9e37_79b9_7f4a_7c15_u64);
    for word in page {
        sum = (sum ^ Wrapping(*word)) * Wrapping(0x100_0000_01b3);
        sum ^= sum >> 29;
    }
    sum.0
}

impl Checked {
    /// So many mebibytes, all of them written.
    #[must_use]
    pub fn new(mib: usize) -> Self {
        let page = |number: u64| {
            let mut page = [0; WORDS];
            for (at, word) in (0..).zip(&mut page) {
                *word = (number << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            page
        };
        let pages: Vec<_> = (0..mib as u64 * 256).map(page).collect();
        let sums = pages.iter().map(sum).collect();
        Self { pages, sums, rounds: 0 }
    }

    /// Check every page and change it; how many rounds there were.
    ///
    /// # Errors
    /// [`Broken`] with the first page that is not what was written.
    pub fn round(&mut self) -> Result<u64, Broken> {
        self.rounds += 1;
        for (number, (page, noted)) in self.pages.iter_mut().zip(&mut self.sums).enumerate() {
            if sum(page) != *noted {
                return Err(Broken { page: number, round: self.rounds });
            }
            let at = (self.rounds as usize).wrapping_mul(31) % WORDS;
            page[at] = page[at].wrapping_add(self.rounds);
            *noted = sum(page);
        }
        Ok(self.rounds)
    }

    /// Go on for ever, and say after each round how it went.
    pub fn run(mut self) {
        loop {
            match self.round() {
                Ok(rounds) => println!("{GOOD} {rounds}"),
                Err(Broken { page, round }) => {
                    println!("{BROKEN}, page {page} in round {round}");
                    return;
                }
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_is_noticed() {
        let mut checked = Checked::new(1);
        assert_eq!((checked.round(), checked.round()), (Ok(1), Ok(2)));
        checked.pages[200][511] ^= 1 << 63;
        assert_eq!(checked.round(), Err(Broken { page: 200, round: 3 }));
    }
}
