//! The receiving side of the [copy protocol](crate::transfer).

use std::{
    io::Read as _,
    net::{Shutdown, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    Mapping, MemoryError, Object,
    send::prepare,
    transfer::{
        CHUNK_HEAD_BYTES, Head, Kind, expect, parse_chunk_head, parse_hello, parse_layout,
        read_body, read_head, reason_bytes, write_message,
    },
};

/// Bytes hashed at once, so that they come out of the cache they were just received into.
const HASH_BYTES: usize = 64 * 1024;
/// How long a refused sender may still talk before the connection is cut.
const PARTING: Duration = Duration::from_secs(2);

/// Who decides what may arrive and where it goes. A refusal's reason is told to the sender.
pub trait Landing {
    /// May anything of this migration arrive?
    ///
    /// # Errors
    /// The reason why not.
    fn admit(&self, migration: &str) -> Result<(), String>;

    /// The files the objects go to, in their order; they are made anew.
    ///
    /// # Errors
    /// The reason why they are refused.
    fn place(&self, migration: &str, objects: &[Object]) -> Result<Vec<PathBuf>, String>;

    /// Everything arrived and its digest is right. It counts when this returns.
    ///
    /// # Errors
    /// The reason why it is not taken after all.
    fn arrived(&self, received: &Received) -> Result<(), String>;
}

/// A transfer that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The migration.
    pub migration: String,
    /// What arrived.
    pub objects: Vec<Object>,
    /// BLAKE3 of layout and chunks, in hexadecimal.
    pub digest: String,
}

/// Receive one transfer.
///
/// # Errors
/// What the peer did wrong, or the connection; the peer was told.
pub fn receive(stream: &TcpStream, landing: &dyn Landing) -> Result<Received, MemoryError> {
    prepare(stream).map_err(MemoryError::connection("starting"))?;
    converse(stream, landing).inspect_err(|error| refuse(stream, error))
}

fn converse(mut stream: &TcpStream, landing: &dyn Landing) -> Result<Received, MemoryError> {
    let hello = expect(&mut stream, Kind::Hello, "waiting for HELLO")?;
    let migration = parse_hello(&hello)?;
    landing.admit(&migration).map_err(MemoryError::Refused)?;
    write_message(&mut stream, Kind::Accept, &[])?;

    let layout = expect(&mut stream, Kind::Layout, "waiting for LAYOUT")?;
    let objects = parse_layout(&layout)?;
    let paths = landing.place(&migration, &objects).map_err(MemoryError::Refused)?;
    let mut files = Vec::with_capacity(objects.len());
    for (object, path) in objects.iter().zip(&paths) {
        files.push(Mapping::create(path, object.size_bytes)?);
    }
    write_message(&mut stream, Kind::Accept, &[])?;

    let mut receiver = Receiver {
        stream,
        digest: blake3::Hasher::new(),
        files: &files,
        free_from: (0, 0),
        buffer: vec![0; HASH_BYTES],
    };
    receiver.digest.update(&layout);
    let expected = receiver.chunks()?;
    let digest = receiver.digest.finalize();
    if digest.as_bytes()[..] != expected[..] {
        return Err(MemoryError::Digest {
            found: digest.to_hex().to_string(),
            expected: expected.iter().map(|byte| format!("{byte:02x}")).collect(),
        });
    }
    let received = Received { migration, objects, digest: digest.to_hex().to_string() };
    landing.arrived(&received).map_err(MemoryError::Refused)?;
    write_message(&mut stream, Kind::Confirm, digest.as_bytes())?;
    Ok(received)
}

struct Receiver<'a> {
    stream: &'a TcpStream,
    digest: blake3::Hasher,
    files: &'a [Mapping],
    /// Object and offset from which on the next chunk may start.
    free_from: (usize, u64),
    buffer: Vec<u8>,
}

impl Receiver<'_> {
    /// Take chunks until END; the sender's digest.
    fn chunks(&mut self) -> Result<Vec<u8>, MemoryError> {
        const DURING: &str = "receiving memory";
        loop {
            let head = read_head(&mut self.stream, DURING)?;
            match head.kind {
                Kind::Chunk => self.chunk(head)?,
                Kind::End => return read_body(&mut self.stream, head, DURING),
                other => {
                    return Err(MemoryError::Protocol(format!("{other:?} came between chunks")));
                }
            }
        }
    }

    fn chunk(&mut self, head: Head) -> Result<(), MemoryError> {
        let mut place = [0; CHUNK_HEAD_BYTES];
        self.stream
            .read_exact(&mut place)
            .map_err(MemoryError::connection("receiving a chunk's place"))?;
        let (object, offset) = parse_chunk_head(&place)?;
        let file = self.files.get(object).ok_or_else(|| {
            MemoryError::Protocol(format!("object {object} of {}", self.files.len()))
        })?;
        // The head's length was checked to be more than the place.
        let len = (head.len - CHUNK_HEAD_BYTES) as u64;
        let end = offset.checked_add(len).filter(|end| *end <= file.size_bytes());
        let Some(end) = end else {
            return Err(MemoryError::Protocol(format!(
                "{len} bytes at {offset} of object {object}, which has {}",
                file.size_bytes()
            )));
        };
        if (object, offset) < self.free_from {
            return Err(MemoryError::Protocol(format!(
                "chunk at {offset} of object {object} goes back"
            )));
        }
        self.free_from = (object, end);
        // Straight from the socket to where the guest will find it.
        file.fill_from(offset, len, &mut self.stream)?;
        self.digest.update(&place);
        for at in (offset..end).step_by(HASH_BYTES) {
            let bytes = &mut self.buffer[..(end - at).min(HASH_BYTES as u64) as usize];
            file.read(at, bytes)?;
            self.digest.update(bytes);
        }
        Ok(())
    }
}

/// Tell the sender why, and let what it still has on the way drain, lest the reason be lost with a reset.
fn refuse(mut stream: &TcpStream, error: &MemoryError) {
    let reason = match error {
        MemoryError::Refused(reason) => reason.clone(),
        other => other.to_string(),
    };
    let told = write_message(&mut stream, Kind::Refuse, reason_bytes(&reason));
    if told.is_err() || stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let until = Instant::now() + PARTING;
    let mut sink = vec![0; HASH_BYTES];
    let _ = stream.set_read_timeout(Some(PARTING));
    while Instant::now() < until && stream.read(&mut sink).is_ok_and(|len| len > 0) {}
}
