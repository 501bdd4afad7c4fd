//! A fixed-size array of mbufs, the unit in which packets move.

use std::fmt;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::slice;

use tidegate_dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Up to `N` owned mbufs in place: no allocation, and exactly the pointer array that drivers fill and take.
/// Dropping it frees what is in it in bulk.
pub struct Burst<const N: usize = 32> {
    /// The first `len` are initialised; the rest is not.
    mbufs: [MaybeUninit<Mbuf>; N],
    len: u16,
}

impl<const N: usize> Burst<N> {
    /// How many mbufs fit.
    pub const CAPACITY: usize = {
        assert!(N > 0 && N <= u16::MAX as usize, "a burst holds 1 to 65535 mbufs");
        N
    };

    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        let _checked = Self::CAPACITY;
        Self { mbufs: [const { MaybeUninit::uninit() }; N], len: 0 }
    }

    /// Mbufs in it.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no more fit.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len() == N
    }

    /// Adds an mbuf at the end.
    ///
    /// # Errors
    /// The mbuf back, when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(usize::from(self.len)) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the last mbuf.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was below `len` and so initialised; it is above it now and will not be read again.
        Some(unsafe { self.mbufs[usize::from(self.len)].assume_init_read() })
    }

    /// Takes mbuf `index`; the last one moves into its place. `None` beyond the end.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> Option<Mbuf> {
        let last = self.len().checked_sub(1)?;
        if index > last {
            return None;
        }
        self.as_mut_slice().swap(index, last);
        self.pop()
    }

    /// Moves mbufs from the front of `other` until it is empty or this is full; the order is kept.
    #[inline]
    pub fn append<const M: usize>(&mut self, other: &mut Burst<M>) {
        let n = (N - self.len()).min(other.len());
        // SAFETY: the first `n` of `other` are initialised (`n <= other.len`) and there are `n` places from
        // `len` on (`n <= N - len`); `release_front` stops `other` from owning them.
        unsafe {
            let to = self.mbufs.as_mut_ptr().add(self.len());
            ptr::copy_nonoverlapping(other.mbufs.as_ptr(), to, n);
            other.release_front(n as u16);
        }
        self.len += n as u16; // n <= N, a u16 (CAPACITY)
    }

    /// Takes mbufs from the front of `drain` until it is empty or this is full; the order is kept. Returns how many.
    #[inline]
    pub fn take_from(&mut self, drain: &mut Drain<'_>) -> usize {
        let from = drain.take_front(N - self.len()).release();
        // SAFETY: `from` are initialised and owned by nobody else (`release`); there are as many places from `len` on
        // (`take_front`'s argument), and two bursts do not overlap.
        unsafe {
            let to = self.mbufs.as_mut_ptr().add(self.len());
            ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
        }
        self.len += from.len() as u16; // at most N, a u16 (CAPACITY)
        from.len()
    }

    /// The mbufs, in order.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are initialised (field's law), MaybeUninit<Mbuf> has Mbuf's layout.
        unsafe { slice::from_raw_parts(self.mbufs.as_ptr().cast(), self.len()) }
    }

    /// The mbufs, in order, to write.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`; `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.mbufs.as_mut_ptr().cast(), self.len()) }
    }

    /// Takes all mbufs out, in order. What is not taken when the iterator is dropped is freed.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        let len = usize::from(mem::take(&mut self.len));
        // The burst no longer owns them (`take` above), the iterator does.
        Drain { rest: self.mbufs[..len].iter_mut() }
    }

    /// Frees all mbufs.
    #[inline]
    pub fn clear(&mut self) {
        drop(self.drain());
    }

    /// Starts to load each packet's first cache line, where the headers are.
    #[inline]
    pub fn prefetch_data(&self) {
        // SAFETY: `len` pointers to live mbufs (field's law), Mbuf is a transparent pointer.
        unsafe { sys::tg_prefetch_data(self.mbufs.as_ptr().cast(), u32::from(self.len)) };
    }

    /// Lets `source` write pointers behind the mbufs that are there: it is given the place and how many fit,
    /// and returns how many it wrote, each to an mbuf that only it owned. Returns the same.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        source: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16,
    ) -> usize {
        let room = Self::CAPACITY as u16 - self.len;
        let spare = self.mbufs[usize::from(self.len)..].as_mut_ptr();
        let n = source(spare.cast(), room);
        debug_assert!(n <= room);
        self.len += n;
        usize::from(n)
    }

    /// The pointers, for a driver to take from the front; then call [`Burst::release_front`].
    #[inline]
    pub(crate) fn raw_parts(&mut self) -> (*mut *mut sys::rte_mbuf, u16) {
        (self.mbufs.as_mut_ptr().cast(), self.len)
    }

    /// Stops owning the first `n`, without freeing them; the rest moves to the front.
    ///
    /// # Safety
    /// `n` is at most `len`, and another owner has taken them.
    #[inline]
    pub(crate) unsafe fn release_front(&mut self, n: u16) {
        debug_assert!(n <= self.len);
        self.len -= n;
        if n > 0 && self.len > 0 {
            let start = self.mbufs.as_mut_ptr();
            // SAFETY: `n` + `len` places lie in the array (the old `len`, by the function's condition). They
            // may overlap, which `copy` allows; who owns the mbufs is decided by `len` alone.
            unsafe { ptr::copy(start.add(usize::from(n)), start, usize::from(self.len)) };
        }
    }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for Burst<N> {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The mbufs of a burst, one after the other; see [`Burst::drain`].
#[derive(Debug)]
pub struct Drain<'a> {
    /// All of them initialised, and owned by this value.
    rest: slice::IterMut<'a, MaybeUninit<Mbuf>>,
}

impl<'a> Drain<'a> {
    /// The next `n`, or as many as there are, as a drain of their own.
    #[inline]
    pub fn take_front(&mut self, n: usize) -> Self {
        let rest = mem::take(&mut self.rest).into_slice();
        let (front, rest) = rest.split_at_mut(n.min(rest.len()));
        self.rest = rest.iter_mut();
        Self { rest: front.iter_mut() }
    }

    /// Stops owning them, without freeing them.
    #[inline]
    fn release(mut self) -> &'a [MaybeUninit<Mbuf>] {
        mem::take(&mut self.rest).into_slice()
    }
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        let slot = self.rest.next()?;
        // SAFETY: initialised and owned (field's law); the iterator has passed it and never reads it again.
        Some(unsafe { slot.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        let rest = mem::take(&mut self.rest).into_slice();
        if !rest.is_empty() {
            // SAFETY: pointers to live mbufs owned by this value (field's law, Mbuf is a transparent pointer),
            // which ends here; their pools are mapped, because `Eal::cleanup` refuses while an mbuf is out.
            // The slice is of a burst and so at most u16::MAX long.
            unsafe { sys::rte_pktmbuf_free_bulk(rest.as_mut_ptr().cast(), rest.len() as u32) };
        }
    }
}
