//! How much memory a host's engine takes besides its guests'.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::Context as _;

const LOOK: Duration = Duration::from_millis(10);

/// A host: its daemon, and the directory with all of its files.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Process of the daemon.
    pub pid: u32,
    /// Its directories.
    pub dir: PathBuf,
}

impl Watched {
    /// Bytes that are the engine's: the daemon's own memory, and every file on the tmpfs but its guests' RAM.
    ///
    /// # Errors
    /// When the daemon has ended.
    pub fn bytes(&self) -> anyhow::Result<u64> {
        Ok(self.private()? + files(&self.dir, true).context("look at a host's files")?)
    }

    /// `RssAnon`: guests' memory is mapped too, and is not in it
    /// (<https://docs.kernel.org/filesystems/proc.html>).
    fn private(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("the kernel does not say how large the daemon is")?.parse()?;
        Ok(kib << 10)
    }
}

/// Bytes that files have on the tmpfs. A guest's RAM lies in `memory/<guest>/ram`.
fn files(dir: &Path, is_top: bool) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What is removed meanwhile is no memory any more.
        let Ok(meta) = entry.metadata() else { continue };
        let is_guests = is_top && entry.file_name() == "memory";
        bytes += match (meta.is_dir(), is_guests) {
            (true, true) => beside_guests(&entry.path())?,
            (true, false) => files(&entry.path(), false).unwrap_or(0),
            (false, _) => meta.blocks() * 512,
        };
    }
    Ok(bytes)
}

fn beside_guests(memory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for guest in fs::read_dir(memory)? {
        let guest = guest?.path();
        let ram = fs::metadata(guest.join("ram")).map_or(0, |meta| meta.blocks() * 512);
        bytes += files(&guest, false).unwrap_or(0).saturating_sub(ram);
    }
    Ok(bytes)
}

/// Do `work`, and look meanwhile how much memory each host's engine takes at most.
///
/// # Errors
/// Those of `work`.
pub fn peak<T>(
    watched: &[Watched],
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Vec<u64>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = vec![0; watched.len()];
            while !is_over.load(Relaxed) {
                for (most, host) in most.iter_mut().zip(watched) {
                    // A daemon that has ended shows in the work.
                    *most = host.bytes().unwrap_or(0).max(*most);
                }
                thread::sleep(LOOK);
            }
            most
        });
        let done = work();
        is_over.store(true, Relaxed);
        let most = watching.join().map_err(|_| anyhow::anyhow!("watching memory panicked"))?;
        anyhow::ensure!(most.iter().all(|bytes| *bytes > 0), "a host's memory could not be seen");
        Ok((done?, most))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_count_but_guests_ram() {
        let dir = tempfile::tempdir().expect("dir");
        let write = |path: &str, bytes: usize| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, vec![1; bytes]).expect("written");
        };
        write("memory/web/ram", 1 << 20);
        let without = files(dir.path(), true).expect("readable");
        assert!(without < 64 << 10, "{without}");
        write("memory/web/t0/ram", 2 << 20);
        write("twin/m/ram", 4 << 20);
        let with = files(dir.path(), true).expect("readable") - without;
        assert!((6 << 20..=(6 << 20) + (64 << 10)).contains(&with), "{with}");
    }
}
