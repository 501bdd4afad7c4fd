//! Arrays in hugepages, and prefetching from them.
//!
//! A session table is read at random: with 4 KiB pages nearly every access would also miss the TLB. An array here lies in
//! 2 MiB pages, reserved ones if there are enough and transparent ones otherwise, and all of it is touched when it is made,
//! so that no access faults later.

use std::{
    io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use zerocopy::FromZeros;

const CACHE_LINE_BYTES: usize = 64;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What an array lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved hugepages (hugetlbfs).
    Reserved,
    /// Ordinary memory that the kernel was asked to make of transparent hugepages.
    Transparent,
}

/// A fixed number of values, all zero at first.
pub struct HugeArray<T> {
    /// Start of the mapping, which is aligned for `T`: pages are.
    start: NonNull<T>,
    len: usize,
    mapped_bytes: usize,
    backing: Backing,
    owns: PhantomData<T>,
}

// SAFETY: the array owns its values as a Vec does; nothing else points to the mapping.
unsafe impl<T: Send> Send for HugeArray<T> {}
// SAFETY: `&HugeArray` gives only `&[T]` and prefetches, which read nothing.
unsafe impl<T: Sync> Sync for HugeArray<T> {}

impl<T: FromZeros> HugeArray<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system has no memory for it.
    ///
    /// # Panics
    /// When `T` has no size or needs drop or more than page alignment: none of our tables do.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        const {
            assert!(size_of::<T>() > 0 && !std::mem::needs_drop::<T>() && align_of::<T>() <= 4096);
        }
        let bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE_BYTES));
        let bytes =
            bytes.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?.max(HUGE_PAGE_BYTES);
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        let (start, backing) = match map(bytes, flags | MapFlags::HUGETLB | MapFlags::HUGE_2MB) {
            Ok(start) => (start, Backing::Reserved),
            Err(_) => (map_transparent(bytes)?, Backing::Transparent),
        };
        Ok(Self { start: start.cast(), len, mapped_bytes: bytes, backing, owns: PhantomData })
    }
}

impl<T> HugeArray<T> {
    /// What it lies in.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Start to load the cache lines of value `index`. Beyond the end it does nothing useful and no harm.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        let value = self.start.as_ptr().wrapping_add(index).cast::<u8>();
        for line in (0..size_of::<T>()).step_by(CACHE_LINE_BYTES) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address (Intel SDM, PREFETCHh); the pointer
            // is computed with wrapping arithmetic and never dereferenced.
            unsafe {
                use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(value.wrapping_add(line).cast());
            }
        }
    }
}

fn map(bytes: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous mapping at an address the kernel chooses touches no memory that exists.
    let start = unsafe {
        mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)?
    };
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Map, ask for transparent hugepages, then touch every page.
fn map_transparent(bytes: usize) -> io::Result<NonNull<u8>> {
    let start = map(bytes, MapFlags::PRIVATE)?;
    // SAFETY: the range was mapped by the line above and belongs to nobody else yet.
    unsafe {
        // A kernel without transparent hugepages serves ordinary pages: slower, not wrong.
        let _ = madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage);
        for offset in (0..bytes).step_by(4096) {
            start.add(offset).write_volatile(0);
        }
    }
    Ok(start)
}

impl<T> Deref for HugeArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` mapped at least `len` values, all of them valid as zeros (`FromZeros`), and they are
        // changed only through `DerefMut`, which needs `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeArray<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `zeroed` with this length and no reference into it outlives `self`. The values
        // need no drop (asserted in `zeroed`).
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.mapped_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_zeros_and_keeps_what_is_written() {
        let mut array = HugeArray::<u64>::zeroed(300_000).expect("memory");
        assert_eq!(array.len(), 300_000);
        assert!(array.iter().all(|&value| value == 0));
        for (index, value) in array.iter_mut().enumerate() {
            *value = index as u64;
        }
        array.prefetch(299_999);
        array.prefetch(usize::MAX);
        assert!(array.iter().enumerate().all(|(index, &value)| value == index as u64));
        assert_eq!(array.mapped_bytes(), 4 << 20);
    }

    #[test]
    fn an_empty_array_is_one() {
        let array = HugeArray::<u32>::zeroed(0).expect("memory");
        assert!(array.is_empty());
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(HugeArray::<u64>::zeroed(usize::MAX / 4).is_err());
        assert!(HugeArray::<u64>::zeroed(1 << 50).is_err());
    }
}
