//! One lab at a time: a work directory and the clients' network namespace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, bail};

use crate::process;

/// Set by `tests/lab/scripts/lab` to a directory of its own.
pub const VARIABLE: &str = "TIDEGATE_LAB";
/// Name of the clients' network namespace.
pub const CLIENTS: &str = "clients";

/// Tests of one program run in threads; devices and addresses are the same in each.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A work directory and the clients' namespace. Both go when it is dropped.
pub struct Lab {
    dir: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    /// Make a lab, after the one before it is gone.
    ///
    /// # Errors
    /// Outside `tests/lab/scripts/lab`; when the namespace cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(root) = env::var_os(VARIABLE).map(PathBuf::from) else {
            bail!(
                "this needs the lab's namespaces and hugepages: run it through `make test` or \
                 `make demo`, or as `tests/lab/scripts/lab COMMAND`"
            );
        };
        // Short, because sockets' paths are limited to 107 bytes.
        let dir = root.join("work");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        // A lab that was dropped in a panic may have left it.
        let _ = Command::new("ip").args(["netns", "delete", CLIENTS]).output();
        process::run(Command::new("ip").args(["netns", "add", CLIENTS]))?;
        let lab = Self { dir, _alone: alone };
        process::run(lab.among_clients("ip").args(["link", "set", "lo", "up"]))?;
        Ok(lab)
    }

    /// Where everything of this lab is kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs in the clients' namespace.
    #[must_use]
    pub fn among_clients(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", CLIENTS]).arg(program);
        command
    }

    /// Keep the logs: copy every `*.log` to `to`.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn keep_logs(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to)?;
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|end| end == "log") {
                    let name = path.strip_prefix(&self.dir)?.to_string_lossy().replace('/', "-");
                    fs::copy(&path, to.join(name))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", CLIENTS]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
