//! Programs that are started, watched by their log, and end with their handle.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// A running program; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Reads what it prints, when somebody is told of it.
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Start `command`; what it prints goes to `name.log` in `dir`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        Self::spawn(name, command.stdin(Stdio::null()), dir)
    }

    fn spawn(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log, reader: None })
    }

    /// As [`Self::start`]; and it can be told something on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_told(
        name: &str,
        command: &mut Command,
        dir: &Path,
    ) -> anyhow::Result<(Self, ChildStdin)> {
        let mut process = Self::spawn(name, command.stdin(Stdio::piped()), dir)?;
        let told = process.child.stdin.take().context("no input")?;
        Ok((process, told))
    }

    /// As [`Self::start`]; and `each` is told every line of its standard output as it arrives.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_heard(
        name: &str,
        command: &mut Command,
        dir: &Path,
        mut each: impl FnMut(&str) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let mut file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone()?)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                each(&line);
                // A log that is full is no reason to stop listening.
                let _ = writeln!(file, "{line}");
            }
        });
        Ok(Self { name: name.to_owned(), child, log, reader: Some(reader) })
    }

    /// What it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Wait until it has printed `text`.
    ///
    /// # Errors
    /// When it ends or `limit` passes first; with what it printed.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !self.printed().contains(text) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before `{text}`:\n{}", self.name, self.printed());
            }
            if Instant::now() > end {
                bail!("{} did not print `{text}` in {limit:?}:\n{}", self.name, self.printed());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Wait until it ends by itself.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if let Some(reader) = self.reader.take() {
                    reader.join().map_err(|_| anyhow::anyhow!("listening to {}", self.name))?;
                }
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} did not end in {limit:?}:\n{}", self.name, self.printed());
            }
            thread::sleep(POLL);
        }
    }

    /// Whether it runs, or how it ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// End it without asking (SIGKILL).
    ///
    /// # Errors
    /// When the system does not.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ask it to end (SIGTERM) and wait.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run `command` to its end.
///
/// # Errors
/// When it fails; with what it printed.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}{printed}", output.status, complaint);
    }
    Ok(printed)
}

/// Run `command` to its end, however it ends.
///
/// # Errors
/// When it cannot be started.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    let started = command.stdin(Stdio::null()).output();
    started.with_context(|| format!("start {}", command.get_program().display()))
}

/// Look until `found` finds something.
///
/// # Errors
/// When `limit` passes first, naming `what`; or the error of `found`.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut found: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = found()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what}: not in {limit:?}");
        }
        thread::sleep(POLL);
    }
}

/// A program of this workspace, built beside the one that runs.
///
/// # Errors
/// When it is not there.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let path = build_dir()?.join(name);
    if !path.exists() {
        bail!("{} is not built: run `make build`", path.display());
    }
    Ok(path)
}

/// `target`, or what takes its place.
///
/// # Errors
/// When the running program is not in one.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    let dir = build_dir()?;
    Ok(dir.parent().context("the build directory has no parent")?.to_owned())
}

/// Where this program was built; tests are one level deeper.
fn build_dir() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("path of the running program")?;
    let dir = program.parent().context("the running program has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}
