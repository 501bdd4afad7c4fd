//! The copy protocol: how one host sends pieces of a guest to another, version 1.
//!
//! One TCP connection carries one transfer of one migration. The receiver must have been told of the
//! migration before; otherwise it refuses.
//!
//! ```text
//! sender                                receiver
//!   HELLO (version, migration)    ──▶
//!                                 ◀──   ACCEPT, or REFUSE and close
//!   LAYOUT (objects)              ──▶
//!                                 ◀──   ACCEPT, or REFUSE and close
//!   CHUNK ...                     ──▶
//!   END (digest)                  ──▶
//!                                 ◀──   CONFIRM (digest), or REFUSE and close
//! ```
//!
//! The receiver may send REFUSE at any time and then closes. A connection that ends before CONFIRM has carried
//! nothing: the receiver's files are then remade from zeros at the next attempt.
//!
//! All numbers are little-endian. Every message begins with a head of 8 bytes:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | type; zero is invalid |
//! | 4 | 4 | length of what follows the head |
//!
//! | type | message | length | what follows |
//! |---|---|---|---|
//! | 1 | HELLO | 13 to 138 | magic `TIDEGATE` (8), version (2), migration id's length (2) and id, 1 to 126 bytes |
//! | 2 | ACCEPT | 0 | |
//! | 3 | REFUSE | 1 to 4096 | reason, UTF-8 |
//! | 4 | LAYOUT | to 32768 | number of objects, 1 to 256 (4); each: kind (1), name's length (2) and name, size (8) |
//! | 5 | CHUNK | 17 to 16 + 1 MiB | object's index (4), zero (4), offset (8), bytes |
//! | 6 | END | 32 | digest |
//! | 7 | CONFIRM | 32 | digest |
//!
//! Object kinds: 1 RAM, 2 device state, 3 region (the only one with a name, of 1 to 64 bytes), 4 diff, 5 diff of a dry run. A size is
//! 1 byte to 16 TiB. No object appears twice.
//!
//! Chunks ascend by object, then by offset, and do not overlap. What no chunk covers is zero: the sender
//! leaves out pages (4096 bytes at multiples of 4096) of zeros.
//!
//! The digest is BLAKE3 over LAYOUT's bytes after its head, and then each CHUNK's bytes after its head. The receiver
//! computes it from what is in its memory after the bytes have landed there.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use crate::{
    MemoryError, Object, ObjectKind,
    wire::{Reader, Short, Writer},
};

/// The only version there is.
pub const VERSION: u16 = 1;
/// Longest migration id.
pub const MAX_ID_BYTES: usize = 126;
/// A peer that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(30);

pub(crate) const MAX_CHUNK_BYTES: usize = 1 << 20;
pub(crate) const CHUNK_HEAD_BYTES: usize = 16;
pub(crate) const DIGEST_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"TIDEGATE";
const HEAD_BYTES: usize = 8;
const MAX_REASON_BYTES: usize = 4096;
const MAX_LAYOUT_BYTES: usize = 32768;
const MAX_OBJECTS: usize = 256;
const MAX_OBJECT_BYTES: u64 = 16 << 40;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Accept = 2,
    Refuse = 3,
    Layout = 4,
    Chunk = 5,
    End = 6,
    Confirm = 7,
}

impl Kind {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Hello,
            2 => Self::Accept,
            3 => Self::Refuse,
            4 => Self::Layout,
            5 => Self::Chunk,
            6 => Self::End,
            7 => Self::Confirm,
            _ => return None,
        })
    }

    /// Shortest and longest that may follow the head.
    fn lengths(self) -> (usize, usize) {
        match self {
            Self::Hello => (13, 12 + MAX_ID_BYTES),
            Self::Accept => (0, 0),
            Self::Refuse => (1, MAX_REASON_BYTES),
            Self::Layout => (4, MAX_LAYOUT_BYTES),
            Self::Chunk => (CHUNK_HEAD_BYTES + 1, CHUNK_HEAD_BYTES + MAX_CHUNK_BYTES),
            Self::End | Self::Confirm => (DIGEST_BYTES, DIGEST_BYTES),
        }
    }
}

/// A message's head whose type is known and whose length that type allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) len: usize,
}

/// Read a head. The end of the stream is an error like any other.
pub(crate) fn read_head(stream: &mut impl Read, during: &'static str) -> Result<Head, MemoryError> {
    let mut bytes = [0; HEAD_BYTES];
    stream.read_exact(&mut bytes).map_err(connection(during))?;
    let mut reader = Reader::new(&bytes);
    let short = |_: Short| MemoryError::Protocol("short head".to_owned());
    let code = reader.u32().map_err(short)?;
    let len = reader.len().map_err(short)?;
    let kind = Kind::from_code(code)
        .ok_or_else(|| MemoryError::Protocol(format!("message type {code} is unknown")))?;
    let (shortest, longest) = kind.lengths();
    if !(shortest..=longest).contains(&len) {
        return Err(MemoryError::Protocol(format!(
            "{kind:?} of {len} bytes; {shortest} to {longest} are allowed"
        )));
    }
    Ok(Head { kind, len })
}

/// Read what follows a head whose length was checked.
pub(crate) fn read_body(
    stream: &mut impl Read,
    head: Head,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    let mut body = vec![0; head.len];
    stream.read_exact(&mut body).map_err(connection(during))?;
    Ok(body)
}

/// Read a message that must be of one type; a refusal instead of it is an error with its reason.
pub(crate) fn expect(
    stream: &mut impl Read,
    kind: Kind,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    let head = read_head(stream, during)?;
    if head.kind != kind && head.kind != Kind::Refuse {
        return Err(MemoryError::Protocol(format!("{:?} came while {during}", head.kind)));
    }
    let body = read_body(stream, head, during)?;
    if head.kind == Kind::Refuse {
        return Err(MemoryError::Refused(String::from_utf8_lossy(&body).into_owned()));
    }
    Ok(body)
}

/// Send a message in one piece.
pub(crate) fn write_message(
    stream: &mut impl Write,
    kind: Kind,
    body: &[u8],
) -> Result<(), MemoryError> {
    let mut message = head(kind, body.len());
    message.bytes(body);
    stream.write_all(&message.0).map_err(MemoryError::connection("sending"))
}

/// Send a chunk; head and bytes leave together. `chunk_head` is what [`chunk_head`] made.
pub(crate) fn write_chunk(
    stream: &mut impl Write,
    chunk_head: &[u8],
    bytes: &[u8],
) -> Result<(), MemoryError> {
    let mut head = head(Kind::Chunk, chunk_head.len() + bytes.len());
    head.bytes(chunk_head);
    let slices = [io::IoSlice::new(&head.0), io::IoSlice::new(bytes)];
    let mut write = || -> io::Result<()> {
        let sent = stream.write_vectored(&slices)?;
        stream.write_all(&head.0[sent.min(head.0.len())..])?;
        stream.write_all(&bytes[sent.saturating_sub(head.0.len())..])
    };
    write().map_err(MemoryError::connection("sending memory"))
}

fn head(kind: Kind, len: usize) -> Writer {
    let mut out = Writer::default();
    out.u32(kind as u32).len(len);
    out
}

pub(crate) fn chunk_head(object: usize, offset: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.len(object).u32(0).u64(offset);
    out.0
}

/// Where a chunk's bytes go: index of the object, offset in it.
pub(crate) fn parse_chunk_head(bytes: &[u8]) -> Result<(usize, u64), MemoryError> {
    let short = |_: Short| MemoryError::Protocol("short chunk".to_owned());
    let mut reader = Reader::new(bytes);
    let object = reader.len().map_err(short)?;
    let zero = reader.u32().map_err(short)?;
    let offset = reader.u64().map_err(short)?;
    if zero != 0 {
        return Err(MemoryError::Protocol("a chunk's reserved bytes are not zero".to_owned()));
    }
    Ok((object, offset))
}

pub(crate) fn encode_hello(migration: &str) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(&MAGIC).u16(VERSION).name(migration);
    out.0
}

/// The migration's id.
pub(crate) fn parse_hello(body: &[u8]) -> Result<String, MemoryError> {
    let short = |_: Short| MemoryError::Protocol("HELLO is malformed".to_owned());
    let mut reader = Reader::new(body);
    if reader.array().map_err(short)? != MAGIC {
        return Err(MemoryError::Protocol("HELLO does not start with the magic".to_owned()));
    }
    let found = reader.u16().map_err(short)?;
    if found != VERSION {
        return Err(MemoryError::Version { found, supported: VERSION });
    }
    let migration = reader.name().map_err(short)?.to_owned();
    if migration.is_empty() || reader.left() != 0 {
        return Err(short(Short));
    }
    Ok(migration)
}

pub(crate) fn encode_layout(objects: &[Object]) -> Vec<u8> {
    let mut out = Writer::default();
    out.len(objects.len());
    for object in objects {
        let (code, name) = object.kind.code();
        out.u8(code).name(name).u64(object.size_bytes);
    }
    out.0
}

pub(crate) fn parse_layout(body: &[u8]) -> Result<Vec<Object>, MemoryError> {
    let short = |_: Short| MemoryError::Protocol("LAYOUT is malformed".to_owned());
    let mut reader = Reader::new(body);
    let count = reader.len().map_err(short)?;
    if count == 0 || count > MAX_OBJECTS {
        return Err(MemoryError::Protocol(format!("{count} objects; 1 to {MAX_OBJECTS} may be")));
    }
    let mut objects: Vec<Object> = Vec::with_capacity(count);
    for _ in 0..count {
        let code = reader.u8().map_err(short)?;
        let kind = ObjectKind::from_code(code, reader.name().map_err(short)?)?;
        let size_bytes = reader.u64().map_err(short)?;
        if size_bytes == 0 || size_bytes > MAX_OBJECT_BYTES {
            return Err(MemoryError::Protocol(format!("{kind} of {size_bytes} bytes")));
        }
        if objects.iter().any(|object| object.kind == kind) {
            return Err(MemoryError::Protocol(format!("{kind} appears twice")));
        }
        objects.push(Object { kind, size_bytes });
    }
    if reader.left() != 0 {
        return Err(short(Short));
    }
    Ok(objects)
}

/// Fit a reason into a REFUSE.
pub(crate) fn reason_bytes(reason: &str) -> &[u8] {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 { b"refused" } else { &reason.as_bytes()[..end] }
}

/// The end of the stream in the middle of a conversation is not just "failed to fill buffer".
fn connection(during: &'static str) -> impl FnOnce(io::Error) -> MemoryError {
    move |error| {
        let error = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {} s", SILENCE.as_secs()),
            ),
            _ => error,
        };
        MemoryError::connection(during)(error)
    }
}

#[cfg(test)]
mod tests;
