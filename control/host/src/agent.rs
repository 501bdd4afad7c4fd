//! The guest agent in a guest: JSON lines over a virtio-serial port, whose other end is a socket of QEMU's.
//!
//! Whatever comes from there is the guest's to choose. So every answer has a time and a size, what does not fit is an
//! error with a name, and nothing is waited for or kept beyond that.
//!
//! Specification: QEMU's `qga/qapi-schema.json`.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// The port's name, by which the agent finds it in the guest.
pub(crate) const PORT: &str = "org.qemu.guest_agent.0";
/// Read of a file at a time. In an answer it takes a third more.
const PIECE_BYTES: usize = 64 << 10;
/// Longest answer.
const MAX_ANSWER_BYTES: u64 = 128 << 10;
/// What may come before the answer to us: answers to somebody who asked before.
const MAX_STALE_BYTES: u64 = 1 << 20;
/// Stands before the question and the answer by which both sides find each other.
const DELIMITER: u8 = 0xff;

/// What a guest agent did otherwise than it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("its channel cannot be connected to: {0}")]
    Connect(std::io::Error),
    #[error("its channel broke at `{command}`: {source}")]
    Channel { command: &'static str, source: std::io::Error },
    #[error(
        "it did not answer `{command}` within {} ms; does it run in the guest, and is nobody else connected to it?",
        after.as_millis()
    )]
    Silent { command: &'static str, after: Duration },
    #[error("it closed its channel at `{command}`; did the guest end?")]
    Closed { command: &'static str },
    #[error("its answer to `{command}` has no end within {limit} bytes")]
    Long { command: &'static str, limit: u64 },
    #[error("its answer to `{command}` makes no sense: {reason}")]
    Answer { command: &'static str, reason: String },
    #[error(
        "it refused `{command}`: {description}; allow guest-file-open, guest-file-read and guest-file-close in its \
         configuration in the guest"
    )]
    Refused { command: &'static str, description: String },
    #[error("{path} in the guest is longer than {limit} bytes")]
    LongFile { path: String, limit: usize },
}

impl AgentError {
    /// Whether there is no use in asking for more: the file in the guest stays open then.
    fn ends_conversation(&self) -> bool {
        matches!(
            self,
            Self::Channel { .. } | Self::Silent { .. } | Self::Closed { .. } | Self::Long { .. }
        )
    }
}

/// A connection to one agent.
pub(crate) struct Agent {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Longest wait for one answer.
    patience: Duration,
}

impl Agent {
    /// Connect, and pass over what the agent still has to say to others.
    pub(crate) async fn connect(path: &Path, patience: Duration) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(path).await.map_err(AgentError::Connect)?;
        let (reader, writer) = stream.into_split();
        let mut agent = Self { reader: BufReader::new(reader), writer, patience };
        agent.synchronize().await?;
        Ok(agent)
    }

    async fn synchronize(&mut self) -> Result<(), AgentError> {
        let command = "guest-sync-delimited";
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Positive, and another one than whoever asked before.
        let id = i64::from(since_1970.subsec_nanos()) + 1;
        // The delimiter ends whatever half of a line somebody left in the agent.
        self.send(command, json!({ "id": id }), &[DELIMITER]).await?;
        let after = self.patience;
        let answered = async {
            loop {
                self.read_until(command, DELIMITER, MAX_STALE_BYTES).await?;
                // An older answer of the same kind has another number.
                if self.answer(command).await?.as_i64() == Some(id) {
                    return Ok(());
                }
            }
        };
        timeout(after, answered).await.map_err(|_| AgentError::Silent { command, after })?
    }

    /// A file of the guest, whole.
    pub(crate) async fn read_file(
        &mut self,
        path: &str,
        limit: usize,
    ) -> Result<Vec<u8>, AgentError> {
        let arguments = json!({ "path": path, "mode": "r" });
        let handle = self.execute("guest-file-open", arguments).await?;
        let contents = self.read_open(&handle, path, limit).await;
        if contents.as_ref().is_err_and(AgentError::ends_conversation) {
            return contents;
        }
        let closed = self.execute("guest-file-close", json!({ "handle": handle })).await;
        let contents = contents?;
        closed.map(|_| contents)
    }

    async fn read_open(
        &mut self,
        handle: &Value,
        path: &str,
        limit: usize,
    ) -> Result<Vec<u8>, AgentError> {
        let command = "guest-file-read";
        let mut contents = Vec::new();
        loop {
            let arguments = json!({ "handle": handle, "count": PIECE_BYTES });
            let answer = self.execute(command, arguments).await?;
            let piece = piece(&answer)
                .map_err(|reason| AgentError::Answer { command, reason: reason.to_owned() })?;
            if contents.len() + piece.bytes.len() > limit {
                return Err(AgentError::LongFile { path: path.to_owned(), limit });
            }
            contents.extend(piece.bytes);
            if piece.last {
                return Ok(contents);
            }
        }
    }

    async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, AgentError> {
        self.send(command, arguments, &[]).await?;
        let after = self.patience;
        let answered = timeout(after, self.answer(command)).await;
        answered.map_err(|_| AgentError::Silent { command, after })?
    }

    async fn send(
        &mut self,
        command: &'static str,
        arguments: Value,
        before: &[u8],
    ) -> Result<(), AgentError> {
        let mut line = before.to_vec();
        line.extend(json!({ "execute": command, "arguments": arguments }).to_string().into_bytes());
        line.push(b'\n');
        let after = self.patience;
        let sent = timeout(after, self.writer.write_all(&line)).await;
        sent.map_err(|_| AgentError::Silent { command, after })?
            .map_err(|source| AgentError::Channel { command, source })
    }

    async fn answer(&mut self, command: &'static str) -> Result<Value, AgentError> {
        let line = self.read_until(command, b'\n', MAX_ANSWER_BYTES).await?;
        let wrong = |reason: String| AgentError::Answer { command, reason };
        let mut answer: Value =
            serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        match answer.get("error") {
            Some(error) => {
                let description = error["desc"].as_str().unwrap_or("it does not say why");
                Err(AgentError::Refused { command, description: description.to_owned() })
            }
            None => Err(wrong("it has neither `return` nor `error`".to_owned())),
        }
    }

    /// Everything before `end`.
    async fn read_until(
        &mut self,
        command: &'static str,
        end: u8,
        limit: u64,
    ) -> Result<Vec<u8>, AgentError> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(limit).read_until(end, &mut bytes).await;
        read.map_err(|source| AgentError::Channel { command, source })?;
        match bytes.pop() {
            Some(last) if last == end => Ok(bytes),
            Some(_) if bytes.len() as u64 + 1 == limit => Err(AgentError::Long { command, limit }),
            _ => Err(AgentError::Closed { command }),
        }
    }
}

/// What one read of a file answered.
struct Piece {
    bytes: Vec<u8>,
    last: bool,
}

fn piece(answer: &Value) -> Result<Piece, &'static str> {
    let text = answer["buf-b64"].as_str().ok_or("there is no `buf-b64`")?;
    let bytes = BASE64.decode(text).map_err(|_| "`buf-b64` is not base64")?;
    if answer["count"].as_u64() != Some(bytes.len() as u64) {
        return Err("`count` is not the number of bytes in `buf-b64`");
    }
    if bytes.len() > PIECE_BYTES {
        return Err("there is more than was asked for");
    }
    let last = answer["eof"].as_bool().ok_or("there is no `eof`")?;
    // Or it could go on like this for ever.
    if bytes.is_empty() && !last {
        return Err("there is nothing, and yet it is not the end");
    }
    Ok(Piece { bytes, last })
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
