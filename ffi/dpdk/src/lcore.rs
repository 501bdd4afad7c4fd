//! EAL's worker threads, each pinned to its CPU.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_dpdk_sys as sys;

use crate::eal::{Eal, Inner};
use crate::error::{Error, check};

/// A worker lcore; made only by [`Eal::worker_lcores`], so it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lcore(u32);

impl Lcore {
    /// EAL's number of the lcore.
    pub fn id(self) -> u32 {
        self.0
    }

    /// The NUMA node its CPU belongs to. (`rte_lcore_to_socket_id`)
    pub fn socket(self) -> u32 {
        // SAFETY: the lcore exists (constructor), so the number indexes EAL's table.
        unsafe { sys::rte_lcore_to_socket_id(self.0) }
    }
}

impl fmt::Display for Lcore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lcore {}", self.0)
    }
}

impl<T> fmt::Debug for LcoreTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finished = self.is_finished();
        f.debug_struct("LcoreTask")
            .field("lcore", &self.lcore)
            .field("finished", &finished)
            .finish()
    }
}

/// The worker lcores and which of them run a task.
pub(crate) struct Lcores {
    workers: Vec<(Lcore, AtomicBool)>,
    /// Held while a task is handed to an lcore: EAL's launch is made for one caller at a time.
    launching: Mutex<()>,
}

impl Lcores {
    /// Call after EAL is initialised.
    pub(crate) fn enumerate() -> Self {
        let (skip_main, no_wrap) = (1, 0);
        let next = |from: u32| {
            // SAFETY: any starting number is allowed, u32::MAX means "the first"; EAL is initialised
            // (caller).
            let found = unsafe { sys::rte_get_next_lcore(from, skip_main, no_wrap) };
            (found < sys::RTE_MAX_LCORE).then_some(found)
        };
        Self {
            workers: std::iter::successors(next(u32::MAX), |&id| next(id))
                .map(|id| (Lcore(id), AtomicBool::new(false)))
                .collect(),
            launching: Mutex::new(()),
        }
    }

    fn busy(&self, lcore: Lcore) -> &AtomicBool {
        let found = self.workers.iter().find(|(worker, _)| *worker == lcore);
        &found.expect("an Lcore is made from this list").1
    }
}

/// What travels to the lcore: the closure, wrapped so that it sends its own [`Outcome`].
type Job = Box<dyn FnOnce() + Send>;

/// What comes back. The handle to EAL is dropped after the result (field order), on whichever thread that
/// is: as long as a result exists that can hold mbufs, EAL stays up.
struct Outcome<T> {
    result: Result<T, Box<dyn Any + Send>>,
    _inner: Arc<Inner>,
}

/// A closure running on a worker lcore. Dropping it lets the closure run on; EAL stays up meanwhile.
#[must_use = "the result, and with it the resources the closure gives back, comes from join()"]
pub struct LcoreTask<T> {
    lcore: Lcore,
    outcome: Receiver<Outcome<T>>,
    /// Written once by the lcore, after the result is sent.
    finished: Arc<AtomicBool>,
}

impl<T> LcoreTask<T> {
    /// Waits, asleep, until the closure returns; its result.
    ///
    /// # Errors
    /// [`Error::LcorePanicked`]. What the closure owned has been dropped then.
    pub fn join(self) -> Result<T, Error> {
        let lcore = self.lcore.0;
        match self.outcome.recv().map(|outcome| outcome.result) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => {
                Err(Error::LcorePanicked { lcore, message: panic_message(panic.as_ref()) })
            }
            // The job sends always, unless its lcore is gone.
            Err(_) => Err(Error::LcorePanicked { lcore, message: "no result".to_owned() }),
        }
    }

    /// Whether [`LcoreTask::join`] would return at once.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The lcore it runs on.
    pub fn lcore(&self) -> Lcore {
        self.lcore
    }
}

impl Eal {
    /// The lcores [`Eal::launch`] can use, lowest number first: all but the main one. May be empty.
    pub fn worker_lcores(&self) -> Vec<Lcore> {
        self.inner.lcores.workers.iter().map(|(lcore, _)| *lcore).collect()
    }

    /// Runs a closure on a worker lcore. It may be called from any thread. (`rte_eal_remote_launch`)
    ///
    /// # Errors
    /// [`Error::LcoreBusy`] while an earlier closure runs there, [`Error::Call`] with DPDK's reason. The
    /// closure is dropped then.
    pub fn launch<F, T>(&self, lcore: Lcore, closure: F) -> Result<LcoreTask<T>, Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (sender, outcome) = mpsc::channel();
        let finished = Arc::new(AtomicBool::new(false));
        let tell_finished = Arc::clone(&finished);
        let inner = Arc::clone(&self.inner);
        let job: Job = Box::new(move || {
            // Unwind safe: the closure is consumed, nobody sees its state after a panic.
            let result = catch_unwind(AssertUnwindSafe(closure));
            // Before the result is out: whoever has joined may launch here again.
            inner.lcores.busy(lcore).store(false, Ordering::Release);
            // With the receiver gone, the result is dropped here, and EAL's handle after it.
            let _unwanted = sender.send(Outcome { result, _inner: inner });
            tell_finished.store(true, Ordering::Release);
        });
        let lcores = &self.inner.lcores;
        if lcores.busy(lcore).swap(true, Ordering::Acquire) {
            return Err(Error::LcoreBusy { lcore: lcore.0 });
        }
        let argument = Box::into_raw(Box::new(job));
        let answer = {
            let _one_at_a_time = lcores.launching.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the lcore exists and is a worker (`Lcore`'s constructor). The wait is short: `busy` was
            // clear, so at most the end of `run_job` is left. `argument` is a `Job` made by
            // `Box::into_raw` above; `run_job` takes it back once, or the error arm below does.
            unsafe {
                sys::rte_eal_wait_lcore(lcore.0);
                sys::rte_eal_remote_launch(Some(run_job), argument.cast(), lcore.0)
            }
        };
        if let Err(error) = check("rte_eal_remote_launch", &lcore.to_string(), answer) {
            lcores.busy(lcore).store(false, Ordering::Release);
            // SAFETY: made by `Box::into_raw` above, and the lcore refused it, so nobody else has it.
            drop(unsafe { Box::from_raw(argument) });
            return Err(error);
        }
        Ok(LcoreTask { lcore, outcome, finished })
    }
}

/// Runs on the worker lcore.
unsafe extern "C" fn run_job(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passed a `Job` from `Box::into_raw`, and EAL calls this once for it.
    let job = unsafe { Box::from_raw(argument.cast::<Job>()) };
    // Only the drop of an unwanted result can still panic. That must not unwind into C, and neither must
    // the drop of what it panicked with; the panic hook has reported it.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(*job)) {
        std::mem::forget(payload);
    }
    0
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned())
}
