//! QEMU's monitor, as far as the benches need it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tidegate_lab::process::{Process, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a monitor.
pub struct Qmp {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connect to the monitor at `path` of a QEMU that was just started.
    ///
    /// # Errors
    /// When it ends or does not answer.
    pub fn connect(path: &Path, qemu: &mut Process) -> anyhow::Result<Self> {
        let stream = wait_until("QEMU's monitor", PATIENCE, || {
            if let Some(status) = qemu.ended()? {
                bail!("QEMU ended ({status}):\n{}", qemu.printed());
            }
            Ok(UnixStream::connect(path).ok())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self { path: path.to_owned(), stream: BufReader::new(stream) };
        qmp.message()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Run a command; its answer.
    ///
    /// # Errors
    /// When QEMU refuses it, or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").context("ask QEMU's monitor")?;
        loop {
            let mut answer = self.message()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {request}: {}", error["desc"]);
            }
            // An event.
        }
    }

    fn message(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        let bytes = read.with_context(|| format!("read from {}", self.path.display()))?;
        anyhow::ensure!(bytes > 0, "QEMU closed its monitor {}", self.path.display());
        Ok(serde_json::from_str(&line)?)
    }
}
