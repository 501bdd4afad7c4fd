//! The ways bytes can go, and why one is not there.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::{Errno, info::Info, library::Library};

/// Where the kernel lists RDMA devices.
const RDMA_DEVICES: &str = "/sys/class/infiniband";
/// Where `shm` has its queues.
const SHARED_MEMORY: &str = "/dev/shm";

/// A way for bytes to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// RDMA hardware: InfiniBand, RoCE, iWARP.
    Verbs,
    /// TCP sockets.
    Tcp,
    /// Memory of one machine.
    Shm,
}

/// Why a provider is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// The library cannot be loaded.
    #[error("libfabric is not installed (Debian: libfabric1): {said}")]
    NoLibrary {
        /// How the loader puts it.
        said: String,
    },
    /// The library is of another version than the headers this was built with.
    #[error(
        "libfabric {found} is installed, and this program was built for {wanted}; build it again"
    )]
    OtherVersion {
        /// The library's.
        found: String,
        /// The headers'.
        wanted: String,
    },
    /// The machine has no RDMA device.
    #[error("no RDMA device ({RDMA_DEVICES} has none)")]
    NoRdmaDevice,
    /// None of the machine's RDMA devices is behind this address.
    #[error(
        "no RDMA device serves {local}; the devices are {} (Debian: ibverbs-providers has their drivers)",
        devices.join(", ")
    )]
    NotOnDevice {
        /// The address.
        local: String,
        /// The devices there are.
        devices: Vec<String>,
    },
    /// The queues have no place.
    #[error("{SHARED_MEMORY} cannot be written")]
    NoSharedMemory,
    /// The provider does not offer what we need.
    #[error("libfabric offers nothing for {local}: {errno}")]
    NothingFits {
        /// The address, or what stands for it.
        local: String,
        /// What it answered.
        errno: Errno,
    },
}

impl Provider {
    /// All, in the order in which they are better across machines.
    pub const ALL: [Self; 3] = [Self::Verbs, Self::Tcp, Self::Shm];

    /// libfabric's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verbs => "verbs;ofi_rxm",
            Self::Tcp => "tcp;ofi_rxm",
            Self::Shm => "shm",
        }
    }

    /// Whether it pins memory that it registers: this counts as locked, and holes of files become pages.
    #[must_use]
    pub const fn pins(self) -> bool {
        matches!(self, Self::Verbs)
    }

    /// What registering `bytes` of memory locks.
    #[must_use]
    pub const fn locks(self, bytes: u64) -> u64 {
        if self.pins() { bytes } else { 0 }
    }

    /// Whether its endpoints have IP addresses. Those of `shm` are names on one machine.
    #[must_use]
    pub const fn has_ip(self) -> bool {
        !matches!(self, Self::Shm)
    }

    /// Whether it can be used on this machine, at this address of it.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(self, local: Option<IpAddr>) -> Result<(), Missing> {
        self.info(local).map(|_| ())
    }

    pub(crate) fn info(self, local: Option<IpAddr>) -> Result<Info, Missing> {
        let library = Library::load()?;
        let devices = rdma_devices(Path::new(RDMA_DEVICES));
        if self == Self::Verbs && devices.is_empty() {
            return Err(Missing::NoRdmaDevice);
        }
        if self == Self::Shm && access(SHARED_MEMORY, Access::WRITE_OK).is_err() {
            return Err(Missing::NoSharedMemory);
        }
        Info::ask(library, self, local).map_err(|errno| {
            let local = local.map_or_else(|| "any address".to_owned(), |ip| ip.to_string());
            match self {
                Self::Verbs => Missing::NotOnDevice { local, devices },
                Self::Tcp | Self::Shm => Missing::NothingFits { local, errno },
            }
        })
    }
}

fn rdma_devices(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_what_the_folder_holds() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["mlx5_1", "mlx5_0"] {
            fs::create_dir(dir.path().join(name)).expect("device");
        }
        assert_eq!(rdma_devices(dir.path()), ["mlx5_0", "mlx5_1"]);
        assert!(rdma_devices(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn only_verbs_locks() {
        assert_eq!(Provider::ALL.map(|provider| provider.locks(4096)), [4096, 0, 0]);
    }
}
