//! A second monitor of a guest's QEMU, which tells when it stood still.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context as _;
use serde_json::Value;

/// When a guest stopped and went on, in microseconds since 1970, as its QEMU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Stopped.
    pub stop_us: u64,
    /// Went on.
    pub resume_us: u64,
}

/// Listens until QEMU ends.
pub struct Monitor {
    events: Arc<Mutex<Vec<(Happening, u64)>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Stop,
    Resume,
}

impl Monitor {
    /// Listen on the monitor at `socket`.
    ///
    /// # Errors
    /// When nobody is there.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let monitor = || format!("monitor {}", socket.display());
        let mut stream = UnixStream::connect(socket).with_context(monitor)?;
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").with_context(monitor)?;
        let lines = BufReader::new(stream).lines();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).extend(event(&line));
            }
        });
        Ok(Self { events })
    }

    /// How often it stopped.
    #[must_use]
    pub fn stops(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|(happening, _)| *happening == Happening::Stop).count()
    }

    /// The pauses that are over, in order.
    #[must_use]
    pub fn pauses(&self) -> Vec<Pause> {
        pauses(&self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pauses(events: &[(Happening, u64)]) -> Vec<Pause> {
    let pairs = events.windows(2).filter_map(|pair| match pair {
        [(Happening::Stop, stop_us), (Happening::Resume, resume_us)] => {
            Some(Pause { stop_us: *stop_us, resume_us: *resume_us })
        }
        _ => None,
    });
    pairs.collect()
}

/// Greeting, answers and other events are nothing here.
fn event(line: &str) -> Option<(Happening, u64)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let happening = match message["event"].as_str()? {
        "STOP" => Happening::Stop,
        "RESUME" => Happening::Resume,
        _ => return None,
    };
    let part = |name: &str| message["timestamp"][name].as_u64();
    Some((happening, part("seconds")? * 1_000_000 + part("microseconds")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_between_stop_and_resume() {
        let lines = [
            r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#,
            r#"{"return": {}}"#,
            r#"{"timestamp": {"seconds": 5, "microseconds": 999000}, "event": "STOP"}"#,
            r#"{"timestamp": {"seconds": 5, "microseconds": 999500}, "event": "MIGRATION", "data": {}}"#,
            r#"{"timestamp": {"seconds": 6, "microseconds": 43000}, "event": "RESUME"}"#,
            r#"{"timestamp": {"seconds": 9, "microseconds": 0}, "event": "STOP"}"#,
        ];
        let events: Vec<_> = lines.iter().filter_map(|line| event(line)).collect();
        assert_eq!(pauses(&events), [Pause { stop_us: 5_999_000, resume_us: 6_043_000 }]);
    }
}
