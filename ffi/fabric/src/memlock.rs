//! How much memory this process may lock: what verbs registers is pinned and counts.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

/// The capability to lock any amount (`CAP_IPC_LOCK`), as a bit of `CapEff`.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// What may still be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lockable {
    /// So many bytes more than are locked now.
    Bytes(u64),
    /// As much as there is.
    Unlimited,
}

impl Lockable {
    /// Whether `bytes` more may be locked.
    #[must_use]
    pub fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Bytes(most) => bytes <= most,
            Self::Unlimited => true,
        }
    }
}

/// What this process may still lock: its limit (`RLIMIT_MEMLOCK`) less what it has locked, or everything with the
/// capability `CAP_IPC_LOCK`.
///
/// # Errors
/// When `/proc/self/status` cannot be read.
pub fn lockable() -> io::Result<Lockable> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(of(&status, getrlimit(Resource::Memlock).current))
}

fn of(status: &str, limit_bytes: Option<u64>) -> Lockable {
    let Some(limit_bytes) = limit_bytes else { return Lockable::Unlimited };
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().trim_end_matches(" kB"))
    };
    let capabilities = value("CapEff").and_then(|value| u64::from_str_radix(value, 16).ok());
    if capabilities.is_some_and(|held| held & CAP_IPC_LOCK != 0) {
        return Lockable::Unlimited;
    }
    // The kernel holds locked pages (VmLck) and pinned ones (VmPin, what RDMA has) against the limit each.
    let kib = |name| value(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let used_bytes = kib("VmPin").max(kib("VmLck")).saturating_mul(1024);
    Lockable::Bytes(limit_bytes.saturating_sub(used_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_use_and_capability_count() {
        let ordinary = "VmLck:\t      64 kB\nVmPin:\t    1024 kB\nCapEff:\t0000000000000000\n";
        assert_eq!(of(ordinary, Some(8 << 20)), Lockable::Bytes(7 << 20));
        assert_eq!(of(ordinary, Some(4096)), Lockable::Bytes(0));
        assert_eq!(of(ordinary, None), Lockable::Unlimited);
        let capable = "VmLck:\t0 kB\nCapEff:\t0000000000004000\n";
        assert_eq!(of(capable, Some(4096)), Lockable::Unlimited);
    }

    #[test]
    fn allows_up_to_the_limit() {
        assert!(Lockable::Bytes(5).allows(5) && !Lockable::Bytes(5).allows(6));
        assert!(Lockable::Unlimited.allows(u64::MAX));
    }

    #[test]
    fn this_process_has_a_limit_or_none() {
        lockable().expect("status");
    }
}
