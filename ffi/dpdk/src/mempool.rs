//! Mempools of packet buffers.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::{Eal, Inner, PoolRecord};
use crate::error::{Errno, Error, c_string};
use crate::mbuf::Mbuf;

/// The mempool driver: a ring that any thread may put into and get from. Named, and not left to DPDK's
/// default, because [`PktMbufPool`] being `Sync` and the count in `Eal::cleanup` both rest on it.
const POOL_OPS: &std::ffi::CStr = c"ring_mp_mc";

/// How a pool is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of mbufs. A power of two minus one wastes no memory.
    pub mbufs: u32,
    /// Mbufs each lcore keeps for itself, at most 512 and two thirds of `mbufs`. 0 for none.
    pub cache: u32,
    /// Bytes of packet data an mbuf can hold, without the 128 bytes of headroom before it.
    pub data_bytes: u16,
    /// NUMA node of the memory; `None` for any.
    pub socket: Option<u32>,
}

impl Default for PoolConfig {
    /// 8191 mbufs of 2048 bytes, 250 of them cached per lcore, on any NUMA node.
    fn default() -> Self {
        Self { mbufs: 8191, cache: 250, data_bytes: 2048, socket: None }
    }
}

/// A handle to a pool of mbufs. Clones are handles to the same pool, from any thread. The pool itself lives
/// until [`Eal::cleanup`], and so does its name.
///
/// On an EAL lcore, allocating and freeing go through that lcore's cache; elsewhere, through a shared ring.
#[derive(Clone)]
pub struct PktMbufPool {
    raw: NonNull<sys::rte_mempool>,
    name: Arc<str>,
    mbufs: u32,
    data_bytes: u16,
    /// Keeps EAL, and with it the pool, alive.
    _inner: Arc<Inner>,
}

// SAFETY: the pool may be used from any thread at once: it is made with the multi-producer,
// multi-consumer ring (POOL_OPS), and the per-lcore caches are picked by the calling thread's lcore number.
unsafe impl Send for PktMbufPool {}
// SAFETY: as for Send; every method goes through the same calls.
unsafe impl Sync for PktMbufPool {}

impl Eal {
    /// Creates a pool. The name is unique in the process, at most 25 bytes, also among pools whose handles
    /// are gone. (`rte_pktmbuf_pool_create_by_ops`, <https://doc.dpdk.org/guides-22.11/prog_guide/mempool_lib.html>)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, `ENOMEM` when EAL's memory is short, `EINVAL` for a
    /// cache too large, `ENAMETOOLONG`. [`Error::NulByte`].
    pub fn create_pool(&self, name: &str, config: &PoolConfig) -> Result<PktMbufPool, Error> {
        const ANY_SOCKET: i32 = -1;
        let c_name = c_string("pool name", name)?;
        let fail = |errno| Error::Call {
            call: "rte_pktmbuf_pool_create_by_ops",
            on: format!("pool {name:?} ({config:?})"),
            errno,
        };
        let headroom = u16::try_from(sys::RTE_PKTMBUF_HEADROOM).map_err(|_| fail(Errno::EINVAL))?;
        let room = config.data_bytes.checked_add(headroom).ok_or_else(|| fail(Errno::EINVAL))?;
        let socket =
            config.socket.map_or(Ok(ANY_SOCKET), i32::try_from).map_err(|_| fail(Errno::EINVAL))?;
        let private_bytes = 0;
        let mut control = self.control();
        // SAFETY: EAL is initialised (`self`); both names are NUL-terminated and outlive the call, which
        // copies them.
        let raw = unsafe {
            sys::rte_pktmbuf_pool_create_by_ops(
                c_name.as_ptr(),
                config.mbufs,
                config.cache,
                private_bytes,
                room,
                socket,
                POOL_OPS.as_ptr(),
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| fail(Errno::last()))?;
        control.pools.push(PoolRecord { name: name.to_owned(), raw, mbufs: config.mbufs });
        Ok(PktMbufPool {
            raw,
            name: name.into(),
            mbufs: config.mbufs,
            data_bytes: config.data_bytes,
            _inner: Arc::clone(&self.inner),
        })
    }
}

impl PktMbufPool {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of mbufs it was made with.
    pub fn size(&self) -> u32 {
        self.mbufs
    }

    /// Bytes of packet data one mbuf can hold behind its headroom.
    pub fn data_bytes(&self) -> u16 {
        self.data_bytes
    }

    /// Mbufs that can be allocated, those in all lcores' caches included. Exact when nothing moves, an
    /// estimate otherwise; slow, not for the packet path. (`rte_mempool_avail_count`)
    pub fn available(&self) -> u32 {
        avail_count(self.raw)
    }

    /// Mbufs owned by values and drivers; as exact as [`PktMbufPool::available`].
    pub fn in_use(&self) -> u32 {
        self.mbufs.saturating_sub(self.available())
    }

    /// One empty mbuf, or `None` when the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut burst = Burst::<1>::new();
        self.alloc_burst(&mut burst, 1);
        burst.pop()
    }

    /// Adds `n` empty mbufs to the burst, or as many as it has room for; none at all when the pool has not
    /// that many outside other lcores' caches. Returns how many were added. (`rte_pktmbuf_alloc_bulk`)
    #[inline]
    pub fn alloc_burst<const N: usize>(&self, burst: &mut Burst<N>, n: usize) -> usize {
        burst.fill(|spare, room| {
            let n = u32::from(room).min(u32::try_from(n).unwrap_or(u32::MAX));
            // SAFETY: the pool is alive (`_inner`), `spare` has room for `room >= n` pointers (`fill`).
            let answer = unsafe { sys::tg_pktmbuf_alloc_bulk(self.raw.as_ptr(), spare, n) };
            // All or nothing: on 0 exactly n pointers were written, each to an mbuf nobody else has.
            if answer == 0 { n as u16 } else { 0 }
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}

impl fmt::Debug for PktMbufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PktMbufPool")
            .field("name", &self.name)
            .field("size", &self.mbufs)
            .field("available", &self.available())
            .finish()
    }
}

/// Mbufs in the ring and in every lcore's cache.
pub(crate) fn avail_count(pool: NonNull<sys::rte_mempool>) -> u32 {
    // SAFETY: pools are never freed before `rte_eal_cleanup`, and callers hold an `Inner` that has not
    // called it: a `PktMbufPool` through `_inner`, `try_cleanup` as its `self`.
    unsafe { sys::rte_mempool_avail_count(pool.as_ptr()) }
}
