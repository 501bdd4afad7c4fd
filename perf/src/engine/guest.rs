//! The guest that is moved, by us and by QEMU: a real kernel, and a program that changes memory.

use std::path::PathBuf;

use tidegate_lab::process::target_dir;

/// How a guest's memory is used.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Memory.
    pub memory_mib: u32,
    /// Changed again and again, every byte of it.
    pub rewritten_mib: u32,
    /// Rest after each time.
    pub rest_ms: u32,
    /// Filled once with what does not compress. What is left is the kernel's, and zeros.
    pub filled_mib: u32,
}

impl Workload {
    /// What the targets are about: a quarter of a gibibyte changed without rest.
    pub const BUSY: Self = Self { memory_mib: 1024, rewritten_mib: 256, rest_ms: 0, filled_mib: 0 };

    /// The kernel's command line.
    #[must_use]
    pub fn cmdline(&self) -> String {
        let Self { rewritten_mib, rest_ms, filled_mib, .. } = self;
        format!("console=ttyS0 quiet panic=-1 tg.rewrite={rewritten_mib},{rest_ms},{filled_mib}")
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// Kernel and initramfs.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

impl Image {
    /// What `make guest` made.
    ///
    /// # Errors
    /// When it did not.
    pub fn find() -> anyhow::Result<Self> {
        let dir = target_dir()?.join("guest");
        let (kernel, initrd) = (dir.join("vmlinuz"), dir.join("initramfs.cpio.gz"));
        anyhow::ensure!(
            kernel.exists() && initrd.exists(),
            "no guest image in {}: run `make guest`",
            dir.display()
        );
        Ok(Self { kernel, initrd })
    }
}
