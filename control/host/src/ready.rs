//! Whether a booted guest is ready: its console says so.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    HostError,
    guest::{Guest, tail},
};

const POLL: Duration = Duration::from_millis(50);
/// Read of a console at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// What a guest's console is to show, and until when.
pub(crate) struct Ready {
    text: String,
    timeout: Duration,
}

impl Ready {
    /// None when nothing is to be waited for.
    pub(crate) fn asked(text: String, timeout_s: u32) -> Option<Self> {
        let timeout = Duration::from_secs(u64::from(timeout_s));
        (!text.is_empty()).then_some(Self { text, timeout })
    }
}

impl Guest {
    /// Wait until the guest has printed what says that it is ready, now or any time since its start.
    pub(crate) async fn ready(&self, ready: &Ready) -> Result<(), HostError> {
        let until = Instant::now() + ready.timeout;
        let path = self.places.console();
        let mut console = Console::new(path.clone(), &ready.text);
        loop {
            // Before the look: what it printed last is still found.
            let alive = self.is_alive();
            if console.shows().map_err(HostError::file("read", &path))? {
                return Ok(());
            }
            if !alive {
                return Err(HostError::Qemu {
                    guest: self.name().to_owned(),
                    what: format!("ended before `{}` was on its console", ready.text),
                    tail: tail(&path),
                    log: path,
                });
            }
            if Instant::now() >= until {
                return Err(HostError::NotReady {
                    guest: self.name().to_owned(),
                    text: ready.text.clone(),
                    after_s: ready.timeout.as_secs(),
                    tail: tail(&path),
                    console: path,
                });
            }
            sleep(POLL).await;
        }
    }
}

/// A console's file, read on from where the last look ended.
struct Console<'a> {
    path: PathBuf,
    text: &'a [u8],
    offset: u64,
    /// What was read last, as much of it as the text can begin in.
    kept: Vec<u8>,
}

impl<'a> Console<'a> {
    fn new(path: PathBuf, text: &'a str) -> Self {
        Self { path, text: text.as_bytes(), offset: 0, kept: Vec::new() }
    }

    /// Whether the text is there by now; no file is an empty one.
    fn shows(&mut self) -> io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        loop {
            let read = (&mut file).take(PIECE_BYTES).read_to_end(&mut self.kept)?;
            self.offset += read as u64;
            if self.kept.windows(self.text.len()).any(|window| window == self.text) {
                return Ok(true);
            }
            if read == 0 {
                return Ok(false);
            }
            let over = self.kept.len().saturating_sub(self.text.len() - 1);
            self.kept.drain(..over);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn the_text_is_found_however_it_is_printed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("console.log");
        let mut console = Console::new(path.clone(), "it serves");
        assert!(!console.shows().expect("no file"));
        let mut file = File::create(&path).expect("create");
        for (printed, there) in [
            (&b"booting \xff\r\n"[..], false),
            (b"", false),
            (b"it ser", false),
            (b"it serve", false),
            (b"s on port 7000\r\n", true),
        ] {
            file.write_all(printed).expect("print");
            assert_eq!(console.shows().expect("read"), there, "{}", printed.escape_ascii());
        }

        // Across two pieces of what is read at once.
        let mut long = vec![b'.'; PIECE_BYTES as usize - 4];
        long.extend(b"it serves");
        fs::write(&path, &long).expect("print");
        assert!(Console::new(path.clone(), "it serves").shows().expect("read"));
        assert!(!Console::new(path, "it stops").shows().expect("read"));
    }
}
