//! A glance before a look.

/// Says of most addresses that nothing is known of them, without a look into the maps: a bit for each hash of an
/// address that is managed, a locator or a port's own.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// A power of two of words, no more than there is use for: all of it should stay in the first cache.
    words: Box<[u64]>,
    /// Bits of an address's hash that are left out.
    shift: u32,
}

impl Filter {
    /// Bits for each address: one stranger in so many is looked up in vain.
    const BITS: usize = 64;
    const FEWEST_WORDS: usize = 16;
    const MOST_WORDS: usize = 1 << 14;

    #[inline]
    pub(super) fn may_hold(&self, address: u32) -> bool {
        let (word, bit) = self.place(address);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Word and bit of an address: the upper bits of its product with an odd constant.
    #[inline]
    fn place(&self, address: u32) -> (usize, u64) {
        let hash = address.wrapping_mul(0x9e37_79b1) >> self.shift;
        (hash as usize / 64, 1 << (hash % 64))
    }

    fn with_words(words: usize) -> Self {
        let bits = (words * 64).trailing_zeros();
        Self { words: vec![0; words].into(), shift: 32 - bits }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::with_words(Self::FEWEST_WORDS)
    }
}

impl FromIterator<u32> for Filter {
    fn from_iter<I: IntoIterator<Item = u32>>(addresses: I) -> Self {
        let addresses: Vec<_> = addresses.into_iter().collect();
        let words = (addresses.len() * Self::BITS / 64).next_power_of_two();
        let mut filter = Self::with_words(words.clamp(Self::FEWEST_WORDS, Self::MOST_WORDS));
        for address in addresses {
            let (word, bit) = filter.place(address);
            filter.words[word] |= bit;
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_and_few_strangers() {
        for members in [0u32, 1, 100, 20_000] {
            let filter: Filter = (0..members).map(|n| 0x0a00_0000 + n * 7).collect();
            assert!((0..members).all(|n| filter.may_hold(0x0a00_0000 + n * 7)));
            let strangers = (0..100_000).filter(|n| filter.may_hold(0x5000_0000 + n * 13)).count();
            assert!(strangers < 5_000, "{strangers} of 100000 with {members}");
        }
    }
}
