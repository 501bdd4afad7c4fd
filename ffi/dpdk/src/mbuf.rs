//! One packet buffer, owned.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use tidegate_dpdk_sys as sys;
use tidegate_packet_buf::PacketBuf;

/// A packet in DPDK's memory, owned by this value alone. Dropping it returns it to its pool.
///
/// A packet can be a chain of segments, when the device receives more than fits into one buffer.
/// [`Mbuf::data`] is the first segment, where the headers are; [`Mbuf::is_contiguous`] tells whether it is
/// all, and [`Mbuf::linearize`] makes it so where possible. [`Port::start`](crate::Port::start) refuses an
/// MTU that does not fit into one buffer, so a chain comes only from devices that ignore the MTU.
///
/// Layout: headroom, data, tailroom. (<https://doc.dpdk.org/guides-22.11/prog_guide/mbuf_lib.html>)
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf belongs to no thread: whoever holds it may use it and free it, and the pool it returns to
// takes mbufs from any thread (POOL_OPS in mempool.rs).
unsafe impl Send for Mbuf {}
// SAFETY: `&Mbuf` gives only reads of memory that only `&mut Mbuf` methods write.
unsafe impl Sync for Mbuf {}

/// A pointer to a field of an mbuf: shim.h says where it is and of which type.
macro_rules! place {
    ($mbuf:expr, buf_addr) => {
        place!($mbuf, sys::TG_MBUF_BUF_ADDR, *mut u8)
    };
    ($mbuf:expr, data_off) => {
        place!($mbuf, sys::TG_MBUF_DATA_OFF, u16)
    };
    ($mbuf:expr, nb_segs) => {
        place!($mbuf, sys::TG_MBUF_NB_SEGS, u16)
    };
    ($mbuf:expr, pkt_len) => {
        place!($mbuf, sys::TG_MBUF_PKT_LEN, u32)
    };
    ($mbuf:expr, data_len) => {
        place!($mbuf, sys::TG_MBUF_DATA_LEN, u16)
    };
    ($mbuf:expr, buf_len) => {
        place!($mbuf, sys::TG_MBUF_BUF_LEN, u16)
    };
    ($mbuf:expr, $offset:expr, $type:ty) => {
        $mbuf.0.as_ptr().cast::<u8>().add($offset as usize).cast::<$type>()
    };
}

/// Reads a field of an owned mbuf.
macro_rules! field {
    ($mbuf:expr, $field:ident) => {
        // SAFETY: the pointer is to a live mbuf that `$mbuf` owns (module's law: a value is made only for a
        // pointer that a pool or driver handed out, and dies when it is handed back); the place is inside it
        // (`place!`).
        unsafe { place!($mbuf, $field).read() }
    };
}

/// Writes fields of an owned mbuf.
macro_rules! set {
    ($mbuf:expr, $($field:ident = $value:expr),+) => {{
        $(let $field = $value;)+
        // SAFETY: as for reading, and `&mut` gives the sole access.
        unsafe { $(place!($mbuf, $field).write($field);)+ }
    }};
}

impl Mbuf {
    /// Bytes in the first segment.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // a received packet never is
    pub fn len(&self) -> usize {
        usize::from(field!(self, data_len))
    }

    /// Bytes in all segments.
    #[inline]
    pub fn packet_len(&self) -> usize {
        field!(self, pkt_len) as usize
    }

    /// Whether the packet is one segment: [`Mbuf::data`] is all of it.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        field!(self, nb_segs) == 1
    }

    /// The first segment's bytes.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `data_len` bytes from `data_start` lie in the mbuf's buffer (drivers, and the checks in the
        // methods below), the memory was initialised when it was mapped, and `&self` excludes writers.
        unsafe { slice::from_raw_parts(self.data_start(), self.len()) }
    }

    /// The first segment's bytes, to write.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `&mut self` is the only access, because the value is the mbuf's only owner.
        unsafe { slice::from_raw_parts_mut(self.data_start(), self.len()) }
    }

    /// Bytes free before the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(field!(self, data_off))
    }

    /// Bytes free behind the data of the first segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        usize::from(field!(self, buf_len)).saturating_sub(self.headroom() + self.len())
    }

    /// Adds `n` bytes before the data and returns them; their content is unspecified. `None`, and nothing
    /// changed, with less than `n` bytes of headroom. (`rte_pktmbuf_prepend`)
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let n16 = u16::try_from(n).ok()?;
        let offset = field!(self, data_off).checked_sub(n16)?;
        let length = field!(self, data_len).checked_add(n16)?;
        set!(
            self,
            data_off = offset,
            data_len = length,
            pkt_len = field!(self, pkt_len) + u32::from(n16)
        );
        Some(&mut self.data_mut()[..n])
    }

    /// Adds `n` bytes behind the data and returns them; their content is unspecified. `None`, and nothing
    /// changed, with less than `n` bytes of tailroom or when the packet is not contiguous.
    /// (`rte_pktmbuf_append`)
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if !self.is_contiguous() || n > self.tailroom() {
            return None;
        }
        let old = self.len();
        self.set_contiguous_len(old + n);
        Some(&mut self.data_mut()[old..])
    }

    /// Removes `n` bytes at the front. `false`, and nothing changed, when the first segment has fewer.
    /// (`rte_pktmbuf_adj`)
    #[inline]
    #[must_use = "nothing is removed when it answers false"]
    pub fn trim_front(&mut self, n: usize) -> bool {
        if n > self.len() {
            return false;
        }
        let n16 = n as u16; // at most data_len, a u16
        set!(
            self,
            data_off = field!(self, data_off) + n16,
            data_len = field!(self, data_len) - n16,
            pkt_len = field!(self, pkt_len) - u32::from(n16)
        );
        true
    }

    /// Removes `n` bytes at the end. `false`, and nothing changed, when there are fewer or the packet is not
    /// contiguous. (`rte_pktmbuf_trim`)
    #[inline]
    #[must_use = "nothing is removed when it answers false"]
    pub fn trim_back(&mut self, n: usize) -> bool {
        if !self.is_contiguous() || n > self.len() {
            return false;
        }
        self.set_contiguous_len(self.len() - n);
        true
    }

    /// Makes the packet these bytes, with the usual headroom before them. `false`, and nothing changed, when
    /// they do not fit or the packet is not contiguous.
    #[must_use = "nothing is written when it answers false"]
    pub fn set_data(&mut self, bytes: &[u8]) -> bool {
        let headroom = sys::RTE_PKTMBUF_HEADROOM.min(u32::from(field!(self, buf_len))) as u16;
        let room = usize::from(field!(self, buf_len) - headroom);
        if !self.is_contiguous() || bytes.len() > room {
            return false;
        }
        set!(self, data_off = headroom);
        self.set_contiguous_len(bytes.len());
        self.data_mut().copy_from_slice(bytes);
        true
    }

    /// Moves all segments' bytes into the first and frees the others. `false`, and nothing changed, when
    /// they do not fit. (`rte_pktmbuf_linearize`)
    #[must_use = "the packet is still a chain when it answers false"]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: a live chain owned by this value (module's law), not accessed otherwise (`&mut`).
        self.is_contiguous() || unsafe { sys::tg_pktmbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// Sets both lengths; `length` is at most what lies between the headroom and the buffer's end (callers).
    #[inline]
    fn set_contiguous_len(&mut self, length: usize) {
        debug_assert!(length <= usize::from(field!(self, buf_len)) - self.headroom());
        set!(self, data_len = length as u16, pkt_len = length as u32);
    }

    #[inline]
    fn data_start(&self) -> *mut u8 {
        let buffer = field!(self, buf_addr);
        // SAFETY: `data_off` lies within the buffer (drivers, and the checks in the methods above).
        unsafe { buffer.add(self.headroom()) }
    }
}

impl AsRef<[u8]> for Mbuf {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.data()
    }
}

impl AsMut<[u8]> for Mbuf {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }
}

impl PacketBuf for Mbuf {
    fn prepend(&mut self, count: usize) -> bool {
        Self::prepend(self, count).is_some()
    }

    fn trim_front(&mut self, count: usize) -> bool {
        Self::trim_front(self, count)
    }

    fn truncate(&mut self, length: usize) -> bool {
        self.len().checked_sub(length).is_some_and(|surplus| self.trim_back(surplus))
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this value owns the chain (module's law) and ends here; the pool is mapped, because
        // `Eal::cleanup` refuses while an mbuf is out.
        unsafe { sys::tg_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("packet_len", &self.packet_len())
            .field("contiguous", &self.is_contiguous())
            .finish()
    }
}
