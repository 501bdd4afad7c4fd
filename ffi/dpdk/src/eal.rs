//! The environment abstraction layer: start, what it holds, and its orderly end.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_dpdk_sys as sys;

use crate::error::{Errno, Error, c_string, check};
use crate::lcore::Lcores;
use crate::mempool::avail_count;

/// Set by the first [`Eal::init`] and never cleared: DPDK supports one initialisation per process.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// An initialised EAL. Clones are handles to the same one.
///
/// The last handle's `Drop` does what [`Eal::cleanup`] does, and does nothing where that would refuse:
/// memory then stays mapped until the process ends.
#[derive(Clone)]
pub struct Eal {
    pub(crate) inner: Arc<Inner>,
}

/// What the process has of EAL; held by every handle.
pub(crate) struct Inner {
    control: Mutex<Control>,
    pub(crate) lcores: Lcores,
    cleaned: bool,
}

/// What is changed under the lock: by pool creation, port claims and hotplug.
#[derive(Default)]
pub(crate) struct Control {
    /// Every pool ever made; they live until cleanup.
    pub(crate) pools: Vec<PoolRecord>,
    /// Ports with a handle: their number and the device they belong to.
    pub(crate) claimed: Vec<(u16, String)>,
}

/// A pool, as cleanup needs it.
pub(crate) struct PoolRecord {
    pub(crate) name: String,
    pub(crate) raw: NonNull<sys::rte_mempool>,
    pub(crate) mbufs: u32,
}

// SAFETY: a mempool may be used from any thread: it is created with the multi-producer, multi-consumer
// ring (`PoolConfig`'s create call in mempool.rs names the ops), and the pointer stays valid until
// `Inner::try_cleanup`, which needs `&mut Inner`.
unsafe impl Send for PoolRecord {}

impl Eal {
    /// Initialises EAL. The first argument is the program's name, as in `argv`. The calling thread becomes
    /// the main lcore and is pinned to its CPU, and so are threads it starts later; worker lcores start and
    /// wait for [`Eal::launch`].
    ///
    /// Without hugepages: `--no-huge --no-shconf -m MEGABYTES`. With them: `--in-memory`, which leaves no files
    /// behind; DPDK 22.11 refuses it together with `--no-huge`.
    ///
    /// The arguments' memory is kept for the life of the process, because DPDK may keep pointers into it.
    /// (`rte_eal_init`, <https://doc.dpdk.org/guides-22.11/linux_gsg/linux_eal_parameters.html>)
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] the second time, [`Error::Call`] with DPDK's reason,
    /// [`Error::NulByte`], [`Error::SecondaryProcess`].
    pub fn init<I, S>(args: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let args = args
            .into_iter()
            .map(|arg| c_string("EAL argument", arg.as_ref()))
            .collect::<Result<Vec<CString>, Error>>()?;
        if INITIALISED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        let shown = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let count = i32::try_from(args.len()).unwrap_or(i32::MAX);
        let mut argv: Vec<*mut c_char> = args.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        // SAFETY: argv holds `count` NUL-terminated writable strings (`CString::into_raw`, never freed)
        // and a closing NULL, and is itself leaked; no other EAL call can have happened (INITIALISED).
        let answer = unsafe { sys::rte_eal_init(count, argv.leak().as_mut_ptr()) };
        if answer < 0 {
            let errno = Errno::last();
            return Err(Error::Call { call: "rte_eal_init", on: format!("`{shown}`"), errno });
        }
        // SAFETY: EAL is initialised (the call above returned no error).
        if unsafe { sys::rte_eal_process_type() } != sys::RTE_PROC_PRIMARY {
            return Err(Error::SecondaryProcess);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                control: Mutex::default(),
                lcores: Lcores::enumerate(),
                cleaned: false,
            }),
        })
    }

    /// Ends EAL: closes all ports, checks that every mbuf is back in its pool, and unmaps packet memory.
    /// Call it on the thread that called [`Eal::init`], when all other handles are gone. (`rte_eal_cleanup`)
    ///
    /// # Errors
    /// [`Error::EalInUse`], [`Error::NotMainLcore`]: nothing was done. [`Error::MbufsInUse`]: the ports are
    /// closed. In all three nothing was unmapped, and EAL stays until the process ends. [`Error::Call`] when DPDK's own cleanup fails.
    pub fn cleanup(self) -> Result<(), Error> {
        let handles = Arc::strong_count(&self.inner) - 1;
        let mut inner = Arc::into_inner(self.inner).ok_or(Error::EalInUse { handles })?;
        inner.try_cleanup()
    }

    /// Ticks of the time stamp counter per second. (`rte_get_tsc_hz`)
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: EAL is initialised (`self` exists) and has measured it.
        unsafe { sys::rte_get_tsc_hz() }
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.inner.control_lock()
    }
}

impl fmt::Debug for Eal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eal").field("workers", &self.worker_lcores()).finish()
    }
}

impl Inner {
    pub(crate) fn control_lock(&self) -> MutexGuard<'_, Control> {
        // Every change under the lock is one push or removal, so a panic leaves it whole.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `&mut self`: no other handle exists, so no thread can allocate, receive, launch or attach.
    fn try_cleanup(&mut self) -> Result<(), Error> {
        if self.cleaned {
            return Ok(());
        }
        // SAFETY: EAL is initialised (`self` exists) and not yet cleaned (checked above).
        let on_main = unsafe { sys::tg_lcore_id() == sys::rte_get_main_lcore() };
        if !on_main {
            return Err(Error::NotMainLcore);
        }
        // SAFETY: on the main lcore (checked above). It waits for the last instructions of tasks at most:
        // a task holds an `Arc<Inner>` until its closure and result are gone.
        unsafe { sys::rte_eal_mp_wait_lcore() };
        close_all_ports();
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        for pool in &control.pools {
            // Exact here, though only a hint while packets move. The per-lcore caches are at rest: workers
            // wait (above), and the main lcore's belongs to this thread. Any other thread frees an mbuf
            // straight into the ring, and the ring counts it only after its last access to the pool.
            let in_use = pool.mbufs.saturating_sub(avail_count(pool.raw));
            if in_use > 0 {
                return Err(Error::MbufsInUse { pool: pool.name.clone(), in_use });
            }
        }
        // Pairs with the ring's release store by which another thread returned the last mbuf.
        std::sync::atomic::fence(Ordering::Acquire);
        self.cleaned = true;
        // SAFETY: nothing can use DPDK's memory any more: no handle (`&mut self`), no port (closed above),
        // no mbuf (counted above), no task (waited for above).
        check("rte_eal_cleanup", "EAL", unsafe { sys::rte_eal_cleanup() }).map(drop)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Refusal is the safe outcome: the memory stays mapped until the process ends.
        let _refused = self.try_cleanup();
    }
}

/// Closes every port, so that drivers give their mbufs back.
fn close_all_ports() {
    for port in port_ids() {
        // It is stopped: its queues are gone. One that failed to stop refuses to close; its mbufs are then
        // missing in the pools, which the caller counts.
        // SAFETY: the port is valid (just enumerated) and no queue handle exists, because a queue handle
        // holds an `Arc<Inner>` and the caller has the only one.
        unsafe { sys::rte_eth_dev_close(port) };
    }
}

/// The ports that no other driver of this process owns, lowest first.
pub(crate) fn port_ids() -> impl Iterator<Item = u16> {
    let next = |from: u16| {
        const NO_OWNER: u64 = 0;
        // SAFETY: any starting number is allowed; the answer is RTE_MAX_ETHPORTS or more at the end.
        let found = unsafe { sys::rte_eth_find_next_owned_by(from, NO_OWNER) };
        u16::try_from(found).ok().filter(|&id| u32::from(id) < sys::RTE_MAX_ETHPORTS)
    };
    std::iter::successors(next(0), move |&id| next(id + 1))
}

/// The version of the DPDK loaded, for example `DPDK 22.11.11`. (`rte_version`)
pub fn dpdk_version() -> String {
    // SAFETY: DPDK keeps the NUL-terminated text in static storage; it is copied here.
    unsafe { CStr::from_ptr(sys::tg_version()) }.to_string_lossy().into_owned()
}
