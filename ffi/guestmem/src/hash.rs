//! XXH3-128 of a page of guest memory, where it lies. The law of this crate holds: each byte is loaded once.
//!
//! A page of 4096 bytes is four blocks of 16 stripes of 64 bytes. Eight sums of 64 bits take the stripes in; they are scrambled
//! between blocks, and merged into two words at the end (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>, "XXH3
//! Algorithm Description (for long inputs)"). The seed is 0, the secret the default one.

use std::ptr::read_volatile;

use vm_memory::VolatileSlice;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

const STRIPE_BYTES: usize = 64;
const BLOCK_STRIPES: usize = 16;
const BLOCKS: usize = PAGE_BYTES / STRIPE_BYTES / BLOCK_STRIPES;
/// Where in the secret is what scrambles, what the last stripe takes, and what merges into either word.
const SCRAMBLES: usize = SECRET.len() - 64;
const LAST_STRIPE: usize = SECRET.len() - 71;
const MERGES: [usize; 2] = [11, SECRET.len() - 75];

const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME32_2: u64 = 0x85EB_CA77;
const PRIME32_3: u64 = 0xC2B2_AE3D;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME64_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME64_5: u64 = 0x27D4_EB2F_1656_67C5;
const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;

/// Eight sums.
type Sums = [u64; 8];

const BEGIN: Sums =
    [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];

#[rustfmt::skip]
static SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// XXH3-128 of a page as it is now; 0 when all its bytes are zero, and 1 where others have 0. None: this is not 4096 bytes at a multiple of 32.
#[must_use]
pub fn hash_page(page: &VolatileSlice<'_>) -> Option<u128> {
    let guard = page.ptr_guard();
    let pointer = guard.as_ptr();
    if page.len() != PAGE_BYTES || !pointer.addr().is_multiple_of(ALIGNMENT) {
        return None;
    }
    // SAFETY: the pointer is good for a page while its slice lives, which it does until this returns; it is aligned as asked for.
    let (sums, any) = unsafe { sum(pointer) };
    Some(if any { merge(&sums).max(1) } else { 0 })
}

/// What a page has to begin at: the widest load.
const ALIGNMENT: usize = 32;

/// The sums over a page, and whether any of its bits is set.
///
/// # Safety
/// The pointer is good for a page and aligned.
unsafe fn sum(page: *const u8) -> (Sums, bool) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's promise; the processor has AVX2.
        return unsafe { wide::sum(page) };
    }
    // SAFETY: the caller's promise.
    unsafe { narrow::sum(page) }
}

/// Where in the secret a stripe's part begins.
const fn secret_of(block: usize, stripe: usize) -> usize {
    if block == BLOCKS - 1 && stripe == BLOCK_STRIPES - 1 { LAST_STRIPE } else { stripe * 8 }
}

fn secret_word(at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&SECRET[at..at + 8]);
    u64::from_le_bytes(word)
}

fn merge(sums: &Sums) -> u128 {
    const LEN: u64 = PAGE_BYTES as u64;
    let word = |begin: u64, secret: usize| {
        let mut word = begin;
        for (index, pair) in sums.as_chunks::<2>().0.iter().enumerate() {
            let at = secret + index * 16;
            let [a, b] = [pair[0] ^ secret_word(at), pair[1] ^ secret_word(at + 8)];
            let product = u128::from(a) * u128::from(b);
            word = word.wrapping_add(product as u64 ^ (product >> 64) as u64);
        }
        word = (word ^ (word >> 37)).wrapping_mul(PRIME_MX1);
        word ^ (word >> 32)
    };
    let low = word(LEN.wrapping_mul(PRIME64_1), MERGES[0]);
    let high = word(!LEN.wrapping_mul(PRIME64_2), MERGES[1]);
    u128::from(high) << 64 | u128::from(low)
}

/// Loads of 256 bits.
#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::x86_64::{
        __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi64, _mm256_loadu_si256, _mm256_mul_epu32,
        _mm256_or_si256, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi32,
        _mm256_slli_epi64, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_testz_si256,
        _mm256_xor_si256,
    };

    use super::{
        BEGIN, BLOCK_STRIPES, BLOCKS, PRIME32_1, SCRAMBLES, SECRET, STRIPE_BYTES, Sums,
        read_volatile, secret_of,
    };

    /// The processor by itself asks for what comes next in the same page only.
    const AHEAD_BYTES: usize = 2048;
    const HALF_BYTES: usize = size_of::<__m256i>();

    /// # Safety
    /// As [`super::sum`]; the processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sum(page: *const u8) -> (Sums, bool) {
        let mut sums = BEGIN;
        // SAFETY: eight sums are two times 32 bytes.
        let mut halves = unsafe { [load(sums.as_ptr().cast(), 0), load(sums.as_ptr().cast(), 32)] };
        let mut seen = _mm256_setzero_si256();
        for block in 0..BLOCKS {
            for stripe in 0..BLOCK_STRIPES {
                let at = (block * BLOCK_STRIPES + stripe) * STRIPE_BYTES;
                // A prefetch reads nothing and cannot fault, whatever the address (Intel SDM, PREFETCHh).
                _mm_prefetch::<_MM_HINT_T0>(page.wrapping_add(at + AHEAD_BYTES).cast());
                for (half, sum) in halves.iter_mut().enumerate() {
                    let in_stripe = half * HALF_BYTES;
                    // SAFETY: `at + in_stripe + HALF_BYTES` is at most a page, and a multiple of the word's alignment.
                    let data = unsafe { read_volatile(page.add(at + in_stripe).cast::<__m256i>()) };
                    // SAFETY: the last stripe's part ends 7 bytes before the secret's end, all others' before it.
                    let secret =
                        unsafe { load(SECRET.as_ptr(), secret_of(block, stripe) + in_stripe) };
                    seen = _mm256_or_si256(seen, data);
                    let keyed = _mm256_xor_si256(data, secret);
                    let product = _mm256_mul_epu32(keyed, _mm256_srli_epi64::<32>(keyed));
                    // The other one of each two sums takes the bytes themselves.
                    let crossed = _mm256_shuffle_epi32::<0b01_00_11_10>(data);
                    *sum = _mm256_add_epi64(*sum, _mm256_add_epi64(crossed, product));
                }
            }
            if block < BLOCKS - 1 {
                for (half, sum) in halves.iter_mut().enumerate() {
                    // SAFETY: two halves are what the secret has from there on.
                    let secret = unsafe { load(SECRET.as_ptr(), SCRAMBLES + half * HALF_BYTES) };
                    let folded = _mm256_xor_si256(*sum, _mm256_srli_epi64::<47>(*sum));
                    let keyed = _mm256_xor_si256(folded, secret);
                    let prime = _mm256_set1_epi64x(PRIME32_1 as i64);
                    let low = _mm256_mul_epu32(keyed, prime);
                    let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(keyed), prime);
                    *sum = _mm256_add_epi64(low, _mm256_slli_epi64::<32>(high));
                }
            }
        }
        for (half, sum) in halves.into_iter().enumerate() {
            // SAFETY: eight sums are two times 32 bytes.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().add(half * 4).cast(), sum) };
        }
        (sums, _mm256_testz_si256(seen, seen) == 0)
    }

    /// 32 bytes of our own.
    ///
    /// # Safety
    /// They are there.
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const u8, at: usize) -> __m256i {
        // SAFETY: the caller's promise; this load has no alignment.
        unsafe { _mm256_loadu_si256(from.add(at).cast()) }
    }
}

/// Loads of 64 bits, everywhere.
mod narrow {
    use super::{
        BEGIN, BLOCK_STRIPES, BLOCKS, PRIME32_1, SCRAMBLES, STRIPE_BYTES, Sums, read_volatile,
        secret_of, secret_word,
    };

    /// # Safety
    /// As [`super::sum`].
    pub(super) unsafe fn sum(page: *const u8) -> (Sums, bool) {
        let mut sums = BEGIN;
        let mut seen = 0;
        for block in 0..BLOCKS {
            for stripe in 0..BLOCK_STRIPES {
                let at = (block * BLOCK_STRIPES + stripe) * STRIPE_BYTES;
                for index in 0..sums.len() {
                    // SAFETY: `at + index * 8 + 8` is at most a page, and a multiple of the word's alignment.
                    let data = unsafe { read_volatile(page.add(at + index * 8).cast::<u64>()) };
                    let data = u64::from_le(data);
                    seen |= data;
                    let keyed = data ^ secret_word(secret_of(block, stripe) + index * 8);
                    let product = (keyed & u64::from(u32::MAX)) * (keyed >> 32);
                    sums[index] = sums[index].wrapping_add(product);
                    // The other one of each two sums takes the bytes themselves.
                    sums[index ^ 1] = sums[index ^ 1].wrapping_add(data);
                }
            }
            if block < BLOCKS - 1 {
                for (index, sum) in sums.iter_mut().enumerate() {
                    let keyed = *sum ^ (*sum >> 47) ^ secret_word(SCRAMBLES + index * 8);
                    *sum = keyed.wrapping_mul(PRIME32_1);
                }
            }
        }
        (sums, seen != 0)
    }
}

#[cfg(test)]
mod tests {
    use twox_hash::XxHash3_128;

    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_BYTES]);

    fn noise(seed: u64) -> Box<Page> {
        let mut page = Box::new(Page([0; PAGE_BYTES]));
        let mut state = seed;
        for byte in &mut page.0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        page
    }

    fn hash(page: &mut Page) -> Option<u128> {
        hash_page(&VolatileSlice::from(&mut page.0[..]))
    }

    #[test]
    fn it_is_xxh3_by_every_way() {
        for seed in 1..200 {
            let mut page = noise(seed);
            let theirs = XxHash3_128::oneshot(&page.0);
            assert_eq!(hash(&mut page), Some(theirs), "seed {seed}");
            // SAFETY: a page is there, and aligned.
            let (sums, any) = unsafe { narrow::sum(page.0.as_ptr()) };
            assert!(any && merge(&sums) == theirs, "seed {seed}, narrow");
        }
    }

    /// A page of zeros is told from all others by any of its bits.
    #[test]
    fn every_bit_is_looked_at() {
        let mut page = Box::new(Page([0; PAGE_BYTES]));
        assert_eq!(hash(&mut page), Some(0));
        // SAFETY: a page is there, and aligned.
        assert!(unsafe { !narrow::sum(page.0.as_ptr()).1 });
        for at in 0..PAGE_BYTES {
            page.0[at] = 1 << (at % 8);
            assert_eq!(hash(&mut page), Some(XxHash3_128::oneshot(&page.0)), "byte {at}");
            // SAFETY: as above.
            assert!(unsafe { narrow::sum(page.0.as_ptr()).1 }, "byte {at}, narrow");
            page.0[at] = 0;
        }
    }

    #[test]
    fn only_whole_pages_at_their_place() {
        let mut two = [[0_u8; PAGE_BYTES]; 2];
        let bytes = two.as_flattened_mut();
        let from = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(hash_page(&VolatileSlice::from(&mut bytes[from..from + PAGE_BYTES])).is_some());
        assert!(hash_page(&VolatileSlice::from(&mut bytes[from..from + 4095])).is_none());
        let shifted = &mut bytes[from + 8..from + 8 + PAGE_BYTES];
        assert!(hash_page(&VolatileSlice::from(shifted)).is_none());
    }
}
