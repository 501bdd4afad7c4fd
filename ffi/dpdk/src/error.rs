//! The crate's errors.

use std::ffi::CStr;
use std::fmt;

use tidegate_dpdk_sys as sys;

/// An error number of DPDK (POSIX numbers and a few of its own), positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// A name is in use.
    pub const EEXIST: Self = Self(17);
    /// There is no such thing.
    pub const ENOENT: Self = Self(2);
    /// No room is left.
    pub const ENOSPC: Self = Self(28);
    /// An argument is out of range.
    pub const EINVAL: Self = Self(22);
    /// The device cannot do it.
    pub const ENOTSUP: Self = Self(95);

    /// The calling thread's `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer; no condition.
        Self(unsafe { sys::tg_errno() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a NUL-terminated string in storage of the calling thread, valid
        // until its next call on this thread; it is copied out (`write!`) before anything else runs.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A DPDK function failed. It has usually said more in its log, on standard error.
    #[error("{call} failed for {on}: {errno}")]
    Call {
        /// The DPDK function.
        call: &'static str,
        /// The port, device, pool or lcore it was called for.
        on: String,
        /// What it answered.
        errno: Errno,
    },
    /// EAL can be initialised once per process, also when that once failed.
    #[error("EAL was initialised before in this process; DPDK can do it only once")]
    AlreadyInitialised,
    /// EAL was asked to attach to another process's packet memory.
    #[error("EAL was started as a secondary process; packet memory cannot be shared")]
    SecondaryProcess,
    /// A text for DPDK holds a NUL byte.
    #[error("{what} {value:?} holds a NUL byte")]
    NulByte {
        /// What the text is.
        what: &'static str,
        /// The text.
        value: String,
    },
    /// Cleanup while handles or running lcore tasks exist.
    #[error("EAL is still in use: {handles} handles (ports, pools, queues, lcore tasks) are alive")]
    EalInUse {
        /// How many.
        handles: usize,
    },
    /// Cleanup on another thread than the one that called `Eal::init`.
    #[error("EAL can be cleaned up only on the thread that initialised it")]
    NotMainLcore,
    /// Cleanup while mbufs are not back in their pool: kept in a value, or forgotten.
    #[error("{in_use} mbufs of pool {pool:?} are still in use")]
    MbufsInUse {
        /// The pool.
        pool: String,
        /// How many of its mbufs are missing.
        in_use: u32,
    },
    /// No port has this name.
    #[error("there is no port {name:?}; ports are: {}", known.join(", "))]
    NoSuchPort {
        /// The name looked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The port has an owner already.
    #[error("port {port} is already in use by this process")]
    PortClaimed {
        /// The port.
        port: String,
    },
    /// The port is started: queue handles exist.
    #[error("port {port} is started: its queues are still in use")]
    PortStarted {
        /// The port.
        port: String,
    },
    /// More queues than the device has, or none.
    #[error("port {port}: {asked} queue pairs asked, the device has 1 to {most}")]
    QueueCount {
        /// The port.
        port: String,
        /// Queue pairs asked for.
        asked: u16,
        /// Queue pairs the device can have.
        most: u16,
    },
    /// The device cannot carry packets of this size.
    #[error("port {port}: MTU {mtu} asked, the device can do {least} to {most}")]
    Mtu {
        /// The port.
        port: String,
        /// Bytes asked for.
        mtu: u16,
        /// Smallest the device can do, bytes.
        least: u16,
        /// Largest the device can do, bytes.
        most: u16,
    },
    /// A packet of this MTU would not fit into one mbuf.
    #[error("port {port}: MTU {mtu} needs {needed} bytes per mbuf, the pool's have {room}")]
    MbufTooSmall {
        /// The port.
        port: String,
        /// Bytes asked for.
        mtu: u16,
        /// Bytes of data an mbuf needs.
        needed: u32,
        /// Bytes of data an mbuf has.
        room: u32,
    },
    /// A prefix is longer than its family's addresses.
    #[error("prefix length {length} asked, an {family} prefix has 0 to {most}")]
    PrefixLength {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What was asked for.
        length: u8,
        /// The longest there is.
        most: u8,
    },
    /// A route leads to a next hop that a table cannot hold.
    #[error("next hop {hop} asked, a table holds 0 to {}", crate::MAX_HOP)]
    NextHop {
        /// What was asked for.
        hop: u16,
    },
    /// The lcore runs a task already.
    #[error("lcore {lcore} already runs a task")]
    LcoreBusy {
        /// The lcore.
        lcore: u32,
    },
    /// The closure on an lcore panicked.
    #[error("the task on lcore {lcore} panicked: {message}")]
    LcorePanicked {
        /// The lcore.
        lcore: u32,
        /// The panic's message.
        message: String,
    },
}

/// Turns DPDK's "zero or positive, else negative errno" into a result.
pub(crate) fn check(call: &'static str, on: &str, answer: i32) -> Result<i32, Error> {
    if answer >= 0 {
        return Ok(answer);
    }
    let errno = Errno(answer.saturating_neg());
    Err(Error::Call { call, on: on.to_owned(), errno })
}

/// A text as DPDK takes it.
pub(crate) fn c_string(what: &'static str, value: &str) -> Result<std::ffi::CString, Error> {
    std::ffi::CString::new(value).map_err(|_| Error::NulByte { what, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_call_object_and_reason() {
        let text =
            check("rte_eth_dev_start", "net_tap0", -19).expect_err("is negative").to_string();
        assert_eq!(text, "rte_eth_dev_start failed for net_tap0: No such device (errno 19)");
        assert_eq!(check("rte_eth_dev_start", "net_tap0", 3).expect("is positive"), 3);
    }

    #[test]
    fn nul_bytes_are_refused() {
        let error = c_string("pool name", "a\0b").expect_err("holds NUL");
        assert_eq!(error.to_string(), "pool name \"a\\0b\" holds a NUL byte");
    }
}
