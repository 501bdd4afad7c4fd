//! A glance before a look.

use crate::packet::Address;

/// Says of most addresses that nothing is known of them, without a look into the maps: a bit for each hash of an
/// address that is managed or a locator.
#[derive(Clone, Debug)]
pub(super) struct Filter(Box<[u64; Self::WORDS]>);

impl Filter {
    const WORDS: usize = 1024;

    #[inline]
    pub(super) fn may_hold<A: Address>(&self, address: A) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }

    /// Word and bit of an address: the upper 16 bits of its product with an odd constant.
    #[inline]
    fn place<A: Address>(address: A) -> (usize, u64) {
        let hash = address.folded().wrapping_mul(0x9e37_79b1) >> 16;
        (hash as usize / 64 % Self::WORDS, 1 << (hash % 64))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }
}

impl<A: Address> FromIterator<A> for Filter {
    fn from_iter<I: IntoIterator<Item = A>>(addresses: I) -> Self {
        let mut filter = Self::default();
        for address in addresses {
            let (word, bit) = Self::place(address);
            filter.0[word] |= bit;
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_and_few_strangers() {
        for (members, most) in [(0u32, 0), (1, 10), (100, 500), (10_000, 20_000)] {
            let filter: Filter = (0..members).map(|n| 0x0a00_0000 + n * 7).collect();
            assert!((0..members).all(|n| filter.may_hold(0x0a00_0000 + n * 7)));
            let strangers =
                (0..100_000).filter(|n| filter.may_hold(0x5000_0000u32 + n * 13)).count();
            assert!(strangers <= most, "{strangers} of 100000 with {members}");
        }
    }
}
