//! QEMU's monitor protocol, spoken tolerantly: what is not understood is skipped.
//!
//! A connection is made for each piece of work and closed after it: QEMU serves one client at a time, and an
//! operator's own tools must get their turn.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::HostError;

/// Longest wait for an answer. Commands that take long in QEMU are polled for instead.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to one QEMU.
pub(crate) struct Qmp {
    path: PathBuf,
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    /// What came while an answer was awaited. Bounded by the connection's short life.
    events: VecDeque<Event>,
    /// Called as soon as it is read that the guest stands, whatever else is awaited.
    at_stop: Option<Box<dyn Fn() + Send + Sync>>,
}

/// Something that QEMU says by itself.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// When it happened, by QEMU's clock, which is this host's; later when it does not say so.
    pub(crate) at: Instant,
}

impl Event {
    fn is_stop(&self) -> bool {
        self.name == "STOP"
    }
}

impl Qmp {
    /// Connect and leave negotiation mode.
    pub(crate) async fn connect(path: &Path) -> Result<Self, HostError> {
        let broken = |error: io::Error| monitor(path, format!("cannot connect: {error}"));
        let stream = UnixStream::connect(path).await.map_err(broken)?;
        let (reader, writer) = stream.into_split();
        let lines = BufReader::new(reader).lines();
        let mut qmp =
            Self { path: path.to_owned(), lines, writer, events: VecDeque::new(), at_stop: None };
        let greeting = qmp.message("the greeting").await?;
        if greeting.get("QMP").is_none() {
            return Err(qmp.error("it did not greet as a monitor does"));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Run a command; its answer.
    pub(crate) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, HostError> {
        let mut request = json!({ "execute": command });
        if arguments.as_object().is_some_and(|arguments| !arguments.is_empty()) {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        if let Err(error) = self.writer.write_all(line.as_bytes()).await {
            return Err(self.error(format!("`{command}` could not be sent: {error}")));
        }
        loop {
            let mut answer = self.message(command).await?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let text = |key: &str| error[key].as_str().unwrap_or("unknown").to_owned();
                return Err(HostError::Refused {
                    command: command.to_owned(),
                    class: text("class"),
                    description: text("desc"),
                });
            }
            // Else something of a later QEMU.
            let event = self.heard(answer);
            self.events.extend(event);
        }
    }

    /// From now on, do this when the guest stands: also in the middle of an answer, which QEMU may not give before.
    pub(crate) fn at_stop(&mut self, done: impl Fn() + Send + Sync + 'static) {
        if self.events.iter().any(Event::is_stop) {
            done();
        }
        self.at_stop = Some(Box::new(done));
    }

    fn heard(&self, message: Value) -> Option<Event> {
        let event = event(message)?;
        if let Some(done) = self.at_stop.as_ref().filter(|_| event.is_stop()) {
            done();
        }
        Some(event)
    }

    /// The next event; None when none comes within `patience`.
    pub(crate) async fn event(&mut self, patience: Duration) -> Result<Option<Event>, HostError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, self.lines.next_line()).await {
                Err(_) => return Ok(None),
                Ok(line) => {
                    let message = self.parsed(line, "an event")?;
                    if let Some(event) = self.heard(message) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    async fn message(&mut self, awaited: &str) -> Result<Value, HostError> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.map_err(|_| {
            let seconds = PATIENCE.as_secs();
            self.error(format!("nothing came for {seconds} s after {awaited}"))
        })?;
        self.parsed(line, awaited)
    }

    fn parsed(&self, line: io::Result<Option<String>>, awaited: &str) -> Result<Value, HostError> {
        let line = match line {
            Err(error) => return Err(self.error(format!("lost after {awaited}: {error}"))),
            Ok(None) => return Err(self.error(format!("QEMU closed it after {awaited}"))),
            Ok(Some(line)) => line,
        };
        serde_json::from_str(&line)
            .map_err(|error| self.error(format!("not JSON after {awaited}: {error}")))
    }

    fn error(&self, reason: impl Into<String>) -> HostError {
        monitor(&self.path, reason)
    }
}

/// A message as an event, if it is one.
fn event(mut message: Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let stamp = &message["timestamp"];
    let told = stamp["seconds"].as_u64().zip(stamp["microseconds"].as_u64());
    let happened = told.map_or(SystemTime::now(), |(seconds, microseconds)| {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(microseconds)
    });
    // A clock that was set in between says nothing.
    let ago = happened.elapsed().ok().filter(|ago| *ago < PATIENCE).unwrap_or_default();
    let at = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
    Some(Event { name, data: message["data"].take(), at })
}

fn monitor(path: &Path, reason: impl Into<String>) -> HostError {
    HostError::Monitor { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::UnixListener,
    };

    use super::*;

    /// A monitor that greets and then says `answers`, one for each line it gets.
    fn fake(listener: UnixListener, answers: &'static [&'static str]) {
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"{\"QMP\":{\"version\":{},\"new\":1}}\n").await.expect("greet");
            for answer in answers {
                lines.next_line().await.expect("line");
                writer.write_all(answer.as_bytes()).await.expect("answer");
            }
        });
    }

    #[tokio::test]
    async fn events_and_unknown_fields_are_skipped_and_errors_are_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("qmp");
        fake(
            UnixListener::bind(&path).expect("bind"),
            &[
                "{\"return\":{}}\n",
                "{\"event\":\"STOP\",\"x\":[]}\n{\"surprise\":1}\n{\"return\":{\"status\":\"paused\"},\"id\":4}\n",
                "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such thing\",\"more\":1}}\n",
            ],
        );
        let mut qmp = Qmp::connect(&path).await.expect("connect");
        let answer = qmp.execute("query-status", json!({})).await.expect("answer");
        assert_eq!(answer["status"], "paused");
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        qmp.at_stop(move || tell.store(true, Ordering::Relaxed));
        assert!(told.load(Ordering::Relaxed), "it came before");
        let stop = qmp.event(Duration::ZERO).await.expect("fine").expect("kept for later");
        assert_eq!(stop.name, "STOP");
        assert!(qmp.event(Duration::ZERO).await.expect("fine").is_none());
        let error = qmp.execute("bad", json!({})).await.expect_err("refused").to_string();
        assert_eq!(error, "QEMU refused `bad`: no such thing (GenericError)");
        let error = qmp.execute("query-status", json!({})).await.expect_err("gone").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
