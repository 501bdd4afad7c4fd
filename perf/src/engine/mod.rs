//! The memory engine and its peers: guests that rewrite their memory, QEMU's own pre-copy, iperf3, `memcmp`.

#[path = "../../../control/memory/examples/authority/mod.rs"]
pub(crate) mod authority;
pub mod copies;
pub mod footprint;
pub mod guest;
pub mod hostd;
pub mod iperf3;
pub mod memcmp;
pub mod memory;
pub mod precopy;
pub mod qmp;
pub mod rma;
pub mod silence;
pub mod streams;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tidegate_lab::lab;

/// A directory in the lab's tmpfs: guests' memory lies there, sockets' paths are short. It goes when this is dropped.
pub struct Place(PathBuf);

impl Place {
    /// A new one.
    ///
    /// # Errors
    /// Outside the lab.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let root = env::var_os(lab::VARIABLE).context("this needs the lab: make bench")?;
        let dir = PathBuf::from(root).join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The lab's end removes it in any case.
        let _ = fs::remove_dir_all(&self.0);
    }
}
