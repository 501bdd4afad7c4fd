//! Comparing and hashing guest memory at the speed of memory.
//!
//! The law of this crate: guest memory changes while it is read, so it is never behind a Rust reference. It is read
//! through the pointer of a [`VolatileSlice`] by volatile loads only, each load once, and what was loaded is a value of
//! our own from then on. A slice's pointer is good for its length and its lifetime; that is the only thing relied upon,
//! and every offset below is checked against the length.
//!
//! Why not with vm-memory alone: it copies out, which costs a store and a second load for each byte, or loads a word at a
//! time behind a bounds check. Here a load is as wide as the machine's registers, which is what `memcmp` does. A hash of
//! bytes that were copied out first takes a third longer.

use std::{
    ffi::{c_int, c_void},
    ptr::read_volatile,
};

use vm_memory::VolatileSlice;

mod hash;

pub use hash::hash_page;

/// Bytes that are folded before a branch looks at them.
const STRIDE_BYTES: usize = 256;

/// Whether two pieces of guest memory differ. Pieces of different lengths do.
///
/// What a guest writes meanwhile may be seen or not.
#[must_use]
pub fn differ(a: &VolatileSlice<'_>, b: &VolatileSlice<'_>) -> bool {
    if a.len() != b.len() {
        return true;
    }
    let len = a.len();
    let (a_guard, b_guard) = (a.ptr_guard(), b.ptr_guard());
    let (a, b) = (a_guard.as_ptr(), b_guard.as_ptr());
    let wide = if wide::fits(a) && wide::fits(b) { len - len % STRIDE_BYTES } else { 0 };
    // SAFETY: both pointers are good for `len` bytes while their slices live, which they do until this returns;
    // `wide` is not more than `len`, a multiple of the stride, and zero unless both are aligned for the loads.
    if unsafe { wide::differ(a, b, wide) } {
        return true;
    }
    (wide..len).any(|at| {
        // SAFETY: `at` is below `len`; a byte has no alignment.
        unsafe { read_volatile(a.add(at)) != read_volatile(b.add(at)) }
    })
}

unsafe extern "C" {
    fn memcmp(a: *const c_void, b: *const c_void, len: usize) -> c_int;
}

/// As [`differ`], by the C library's `memcmp`: for measuring beside it, where nobody writes meanwhile.
#[must_use]
pub fn differ_by_memcmp(a: &VolatileSlice<'_>, b: &VolatileSlice<'_>) -> bool {
    let (a_guard, b_guard) = (a.ptr_guard(), b.ptr_guard());
    // SAFETY: both pointers are good for that many bytes while their slices live, which they do until this returns.
    let differ =
        || unsafe { memcmp(a_guard.as_ptr().cast(), b_guard.as_ptr().cast(), a.len()) != 0 };
    a.len() != b.len() || differ()
}

/// Loads as wide as registers are on every x86-64.
#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::x86_64::{
        __m128i, _MM_HINT_T0, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_prefetch,
        _mm_setzero_si128, _mm_xor_si128,
    };
    use std::ptr::read_volatile;

    use super::STRIDE_BYTES;

    const WORD_BYTES: usize = size_of::<__m128i>();
    const CACHE_LINE_BYTES: usize = 64;
    /// The processor by itself asks for what comes next in the same page only.
    const AHEAD_BYTES: usize = 1024;

    pub(super) fn fits(pointer: *const u8) -> bool {
        pointer.cast::<__m128i>().is_aligned()
    }

    /// # Safety
    /// Both pointers are good for `len` bytes and `fits`; `len` is a multiple of the stride. SSE2 is part of x86-64.
    #[target_feature(enable = "sse2")]
    pub(super) unsafe fn differ(a: *const u8, b: *const u8, len: usize) -> bool {
        for stride in (0..len).step_by(STRIDE_BYTES) {
            for line in (stride..stride + STRIDE_BYTES).step_by(CACHE_LINE_BYTES) {
                // A prefetch reads nothing and cannot fault, whatever the address (Intel SDM, PREFETCHh); the pointers are
                // computed with wrapping arithmetic and never dereferenced.
                for side in [a, b] {
                    _mm_prefetch::<_MM_HINT_T0>(side.wrapping_add(line + AHEAD_BYTES).cast());
                }
            }
            let zero = _mm_setzero_si128();
            let mut different = zero;
            for at in (stride..stride + STRIDE_BYTES).step_by(WORD_BYTES) {
                // SAFETY: `at + WORD_BYTES` is at most `len`, and `at` a multiple of the word's alignment.
                let (was, is) = unsafe {
                    (read_volatile(a.add(at).cast()), read_volatile(b.add(at).cast::<__m128i>()))
                };
                different = _mm_or_si128(different, _mm_xor_si128(was, is));
            }
            if _mm_movemask_epi8(_mm_cmpeq_epi8(different, zero)) != 0xffff {
                return true;
            }
        }
        false
    }
}

/// Loads of 64 bits everywhere else.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    use std::ptr::read_volatile;

    use super::STRIDE_BYTES;

    const WORD_BYTES: usize = size_of::<u64>();

    pub(super) fn fits(pointer: *const u8) -> bool {
        pointer.cast::<u64>().is_aligned()
    }

    /// # Safety
    /// Both pointers are good for `len` bytes and `fits`; `len` is a multiple of the stride.
    pub(super) unsafe fn differ(a: *const u8, b: *const u8, len: usize) -> bool {
        for stride in (0..len).step_by(STRIDE_BYTES) {
            let mut different = 0;
            for at in (stride..stride + STRIDE_BYTES).step_by(WORD_BYTES) {
                // SAFETY: `at + WORD_BYTES` is at most `len`, and `at` a multiple of the word's alignment.
                different |= unsafe {
                    read_volatile(a.add(at).cast::<u64>()) ^ read_volatile(b.add(at).cast::<u64>())
                };
            }
            if different != 0 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ_bytes(a: &[u8], b: &[u8]) -> bool {
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        differ(&VolatileSlice::from(&mut a[..]), &VolatileSlice::from(&mut b[..]))
    }

    /// Every byte counts, whatever the length and the alignment of either side.
    #[test]
    fn every_byte_is_looked_at() {
        let base: Vec<u8> = (0..2100_u32).map(|at| (at * 31 % 251) as u8).collect();
        for from in [0, 1, 8, 15, 16] {
            for len in [0, 1, 15, 16, 255, 256, 257, 512, 1000, 2048] {
                let mut same = base.clone();
                let mut other = base.clone();
                let a = VolatileSlice::from(&mut same[from..from + len]);
                let shifted = &mut other[from..];
                assert!(!differ(&a, &VolatileSlice::from(&mut shifted[..len])));
                for at in 0..len {
                    shifted[at] ^= 0x80;
                    let b = VolatileSlice::from(&mut shifted[..len]);
                    assert!(differ(&a, &b), "byte {at} of {len} from {from}");
                    shifted[at] ^= 0x80;
                }
            }
        }
    }

    #[test]
    fn other_lengths_differ() {
        assert!(differ_bytes(&[0; 3], &[0; 4]));
        assert!(!differ_bytes(&[], &[]));
        let (mut a, mut b) = ([1, 2], [1, 3]);
        let (a, b) = (VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..]));
        assert!(differ_by_memcmp(&a, &b) && !differ_by_memcmp(&a, &a));
    }
}
