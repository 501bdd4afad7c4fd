//! The messages of the [copy protocol](super), as bytes and as values.

use std::io;

use crate::{
    MemoryError, Object, ObjectKind,
    copy::{Layout, MAX_ID_BYTES, MAX_LANES, MAX_SECTIONS, SILENCE, VERSION},
    page_hashes::{DIGEST_BYTES, Digest},
    transport::{MAX_OFFER_BYTES, MAX_PIECE_BYTES, Piece, Stream},
    wire::{Reader, Short, Writer},
};

/// Bytes of a message's head.
pub const HEAD_BYTES: usize = 8;
/// Bytes before a chunk's own.
pub(crate) const CHUNK_HEAD_BYTES: usize = 16;
/// Bytes of what joins streams.
pub(crate) const TOKEN_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"TIDEGATE";
const MAX_REASON_BYTES: usize = 4096;
const MAX_LAYOUT_BYTES: usize = 32768;
const MAX_OBJECTS: usize = 256;
const MAX_OBJECT_BYTES: u64 = 16 << 40;
const MAX_PATHS: usize = 8;
const MAX_PATH_NAME_BYTES: usize = 64;
const MAX_VERSIONS: usize = 16;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's own names")]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Versions = 4,
    Layout = 5,
    Plan = 6,
    Barrier = 7,
    Passed = 8,
    Section = 9,
    Committed = 10,
    Commit = 11,
    Confirm = 12,
    Ping = 13,
    Pong = 14,
    Cancel = 15,
    Join = 16,
    Chunk = 17,
    Packed = 18,
    Zero = 19,
    Image = 20,
}

/// All of them in the order of their codes, which begin at 1.
const KINDS: [Kind; 20] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Refuse,
    Kind::Versions,
    Kind::Layout,
    Kind::Plan,
    Kind::Barrier,
    Kind::Passed,
    Kind::Section,
    Kind::Committed,
    Kind::Commit,
    Kind::Confirm,
    Kind::Ping,
    Kind::Pong,
    Kind::Cancel,
    Kind::Join,
    Kind::Chunk,
    Kind::Packed,
    Kind::Zero,
    Kind::Image,
];

impl Kind {
    fn from_code(code: u32) -> Option<Self> {
        KINDS.get((code as usize).checked_sub(1)?).copied()
    }

    /// Shortest and longest that may follow the head.
    fn lengths(self) -> (usize, usize) {
        const CHUNK: (usize, usize) =
            (CHUNK_HEAD_BYTES + 1, CHUNK_HEAD_BYTES + MAX_PIECE_BYTES as usize);
        match self {
            Self::Hello => (13, 12 + MAX_ID_BYTES),
            Self::Welcome | Self::Passed | Self::Ping | Self::Pong => (0, 0),
            Self::Refuse | Self::Cancel => (1, MAX_REASON_BYTES),
            Self::Versions => (4, 2 + 2 * MAX_VERSIONS),
            Self::Layout => (8, MAX_LAYOUT_BYTES),
            Self::Plan => (12, 12 + MAX_OFFER_BYTES + MAX_SECTIONS as usize / 8),
            Self::Barrier => (12, 4 + 8 * MAX_LANES),
            Self::Section => (16 + DIGEST_BYTES, 16 + DIGEST_BYTES),
            Self::Committed => (8 + DIGEST_BYTES, 8 + DIGEST_BYTES),
            Self::Commit | Self::Confirm => (DIGEST_BYTES, DIGEST_BYTES),
            Self::Join => (16 + TOKEN_BYTES, 16 + TOKEN_BYTES),
            Self::Chunk | Self::Packed => CHUNK,
            Self::Zero => (CHUNK_HEAD_BYTES + 8, CHUNK_HEAD_BYTES + 8),
            Self::Image => (1, 1),
        }
    }
}

/// A message's head whose type is known and whose length that type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type.
    pub kind: Kind,
    /// Length of what follows.
    pub len: usize,
}

/// Parse a head.
///
/// # Errors
/// [`MemoryError::Protocol`].
pub fn parse_head(bytes: &[u8; HEAD_BYTES]) -> Result<Head, MemoryError> {
    let short = |_: Short| malformed("a head");
    let mut reader = Reader::new(bytes);
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

/// Read a head. The end of the stream is an error like any other.
pub(crate) fn read_head(
    stream: &mut dyn Stream,
    during: &'static str,
) -> Result<Head, MemoryError> {
    let mut bytes = [0; HEAD_BYTES];
    stream.receive(&mut bytes).map_err(connection(during))?;
    parse_head(&bytes)
}

/// Read what follows a head whose length was checked.
pub(crate) fn read_body(
    stream: &mut dyn Stream,
    head: Head,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    let mut body = vec![0; head.len];
    stream.receive(&mut body).map_err(connection(during))?;
    Ok(body)
}

/// Read a message of the control stream.
pub(crate) fn read_message(
    stream: &mut dyn Stream,
    during: &'static str,
) -> Result<(Kind, Vec<u8>), MemoryError> {
    let head = read_head(stream, during)?;
    // What is longest here is small; a chunk's length is never allocated.
    if matches!(head.kind, Kind::Chunk | Kind::Packed) {
        return Err(MemoryError::Protocol(format!("{:?} came while {during}", head.kind)));
    }
    Ok((head.kind, read_body(stream, head, during)?))
}

/// Read a message that must be of one type; a refusal instead of it is an error with its reason.
pub(crate) fn expect(
    stream: &mut dyn Stream,
    kind: Kind,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    let (found, body) = read_message(stream, during)?;
    expected(kind, found, body, during)
}

/// As [`expect`], of a message that was read.
pub(crate) fn expected(
    kind: Kind,
    found: Kind,
    body: Vec<u8>,
    during: &'static str,
) -> Result<Vec<u8>, MemoryError> {
    match found {
        found if found == kind => Ok(body),
        Kind::Refuse => Err(MemoryError::Refused(String::from_utf8_lossy(&body).into_owned())),
        Kind::Versions => {
            Err(MemoryError::Version { found: VERSION, supported: parse_versions(&body)? })
        }
        other => Err(MemoryError::Protocol(format!("{other:?} came while {during}"))),
    }
}

/// Send a message in one piece.
pub(crate) fn write_message(
    stream: &mut dyn Stream,
    kind: Kind,
    body: &[u8],
) -> Result<(), MemoryError> {
    stream.send(&encode(kind, body)).map_err(connection("sending"))
}

/// A message as bytes.
#[must_use]
pub fn encode(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut message = head(kind, body.len());
    message.bytes(body);
    message.0
}

fn head(kind: Kind, len: usize) -> Writer {
    let mut out = Writer::default();
    out.u32(kind as u32).len(len);
    out
}

/// Head and place of a CHUNK whose bytes follow.
pub(crate) fn chunk_head(piece: Piece) -> Vec<u8> {
    // A piece has at most a mebibyte.
    let mut out = head(Kind::Chunk, CHUNK_HEAD_BYTES + piece.len_bytes as usize);
    out.len(piece.object).u32(0).u64(piece.offset);
    out.0
}

/// Head and place of a PACKED whose `packed_len` bytes follow.
pub(crate) fn packed_head(piece: Piece, packed_len: usize) -> Vec<u8> {
    let mut out = head(Kind::Packed, CHUNK_HEAD_BYTES + packed_len);
    out.len(piece.object).len(piece.len_bytes as usize).u64(piece.offset);
    out.0
}

/// A whole ZERO.
pub(crate) fn zero(piece: Piece) -> Vec<u8> {
    let mut out = head(Kind::Zero, CHUNK_HEAD_BYTES + 8);
    out.len(piece.object).u32(0).u64(piece.offset).u64(piece.len_bytes);
    out.0
}

/// Which piece a CHUNK, PACKED or ZERO is for. `body` is what follows the head, without a chunk's bytes.
///
/// # Errors
/// [`MemoryError::Protocol`]. Whether there is such a piece is for [`Layout::section_of`] to say.
pub fn parse_piece(head: Head, body: &[u8]) -> Result<Piece, MemoryError> {
    let short = |_: Short| malformed("a chunk");
    let mut reader = Reader::new(body);
    let object = reader.len().map_err(short)?;
    let word = reader.u32().map_err(short)?;
    let offset = reader.u64().map_err(short)?;
    let len_bytes = match head.kind {
        Kind::Packed => return Ok(Piece { object, offset, len_bytes: word.into() }),
        Kind::Zero => reader.u64().map_err(short)?,
        // The head's length was checked to be more than the place.
        _ => head.len.saturating_sub(CHUNK_HEAD_BYTES) as u64,
    };
    if word != 0 {
        return Err(MemoryError::Protocol("a chunk's reserved bytes are not zero".to_owned()));
    }
    Ok(Piece { object, offset, len_bytes })
}

pub(crate) fn encode_hello(migration: &str) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(&MAGIC).u16(VERSION).name(migration);
    out.0
}

/// HELLO's migration id.
///
/// # Errors
/// [`MemoryError::Version`] for another version, [`MemoryError::Protocol`].
pub fn parse_hello(body: &[u8]) -> Result<String, MemoryError> {
    let short = |_: Short| malformed("HELLO");
    let mut reader = Reader::new(body);
    magic_and_version(&mut reader, "HELLO")?;
    let migration = reader.name().map_err(short)?.to_owned();
    if migration.is_empty() || reader.left() != 0 {
        return Err(short(Short));
    }
    Ok(migration)
}

fn magic_and_version(reader: &mut Reader<'_>, what: &str) -> Result<(), MemoryError> {
    if reader.array().map_err(|_| malformed(what))? != MAGIC {
        return Err(MemoryError::Protocol(format!("{what} does not start with the magic")));
    }
    let found = reader.u16().map_err(|_| malformed(what))?;
    if found != VERSION {
        return Err(MemoryError::Version { found, supported: vec![VERSION] });
    }
    Ok(())
}

pub(crate) fn encode_versions(versions: &[u16]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u16(versions.len() as u16);
    for version in versions {
        out.u16(*version);
    }
    out.0
}

/// VERSIONS' list.
///
/// # Errors
/// [`MemoryError::Protocol`].
pub fn parse_versions(body: &[u8]) -> Result<Vec<u16>, MemoryError> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16().map_err(|_| malformed("VERSIONS"))?);
    if count == 0 || count > MAX_VERSIONS || reader.left() != 2 * count {
        return Err(malformed("VERSIONS"));
    }
    (0..count).map(|_| reader.u16().map_err(|_| malformed("VERSIONS"))).collect()
}

/// What LAYOUT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The objects.
    pub layout: Layout,
    /// Names of data paths, the best first.
    pub paths: Vec<String>,
}

/// LAYOUT's first part, which the digest of a copy begins with.
pub(crate) fn encode_objects(objects: &[Object]) -> Vec<u8> {
    let mut out = Writer::default();
    out.len(objects.len());
    for object in objects {
        let (code, name) = object.kind.code();
        out.u8(code).name(name).u64(object.size_bytes);
    }
    out.0
}

/// LAYOUT's body.
#[must_use]
pub fn encode_layout(objects: &[Object], paths: &[String]) -> Vec<u8> {
    let mut out = Writer(encode_objects(objects));
    out.len(paths.len());
    for path in paths {
        out.name(path);
    }
    out.0
}

/// Parse LAYOUT.
///
/// # Errors
/// [`MemoryError::Protocol`].
pub fn parse_layout(body: &[u8]) -> Result<Proposal, MemoryError> {
    let short = |_: Short| malformed("LAYOUT");
    let mut reader = Reader::new(body);
    let layout = Layout::new(parse_objects(&mut reader)?)?;
    let count = reader.len().map_err(short)?;
    if count == 0 || count > MAX_PATHS {
        return Err(MemoryError::Protocol(format!("{count} data paths; 1 to {MAX_PATHS} may be")));
    }
    let mut paths = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.name().map_err(short)?;
        if name.is_empty() || name.len() > MAX_PATH_NAME_BYTES {
            return Err(malformed("a data path's name"));
        }
        paths.push(name.to_owned());
    }
    if reader.left() != 0 {
        return Err(short(Short));
    }
    Ok(Proposal { layout, paths })
}

fn parse_objects(reader: &mut Reader<'_>) -> Result<Vec<Object>, MemoryError> {
    let short = |_: Short| malformed("LAYOUT");
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
    Ok(objects)
}

/// What PLAN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Index of the data path among those proposed.
    pub path: usize,
    /// What its sending end needs to know.
    pub offer: Vec<u8>,
    /// For each section: it was committed before.
    pub committed: Vec<bool>,
}

impl Plan {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.len(self.path).len(self.offer.len()).bytes(&self.offer).len(self.committed.len());
        for eight in self.committed.chunks(8) {
            let bits = eight.iter().enumerate();
            out.u8(bits.fold(0, |byte, (bit, set)| byte | (u8::from(*set) << bit)));
        }
        out.0
    }

    /// Parse PLAN as the answer to a layout of so many sections and data paths.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`].
    pub fn parse(body: &[u8], sections: u32, paths: usize) -> Result<Self, MemoryError> {
        let short = |_: Short| malformed("PLAN");
        let mut reader = Reader::new(body);
        let path = reader.len().map_err(short)?;
        let offer_bytes = reader.len().map_err(short)?;
        if path >= paths || offer_bytes > MAX_OFFER_BYTES {
            return Err(short(Short));
        }
        let offer = reader.bytes(offer_bytes).map_err(short)?.to_vec();
        let found = reader.u32().map_err(short)?;
        let bits = reader.bytes((sections as usize).div_ceil(8)).map_err(short)?;
        if found != sections || reader.left() != 0 {
            return Err(MemoryError::Protocol(format!(
                "PLAN is of {found} sections, there are {sections}"
            )));
        }
        let bit = |number: usize| bits[number / 8] & (1 << (number % 8)) != 0;
        Ok(Self { path, offer, committed: (0..sections as usize).map(bit).collect() })
    }
}

pub(crate) fn encode_barrier(marks: &[u64]) -> Vec<u8> {
    let mut out = Writer::default();
    out.len(marks.len());
    for mark in marks {
        out.u64(*mark);
    }
    out.0
}

/// Each lane's mark.
///
/// # Errors
/// [`MemoryError::Protocol`].
pub fn parse_barrier(body: &[u8]) -> Result<Vec<u64>, MemoryError> {
    let mut reader = Reader::new(body);
    let count = reader.len().map_err(|_| malformed("BARRIER"))?;
    if count == 0 || count > MAX_LANES || reader.left() != 8 * count {
        return Err(malformed("BARRIER"));
    }
    (0..count).map(|_| reader.u64().map_err(|_| malformed("BARRIER"))).collect()
}

/// What SECTION says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// The section's number.
    pub section: u32,
    /// The lane its bytes went over.
    pub lane: usize,
    /// The count at which they have arrived.
    pub mark: u64,
    /// What they are.
    pub digest: Digest,
}

impl Commitment {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.section).len(self.lane).u64(self.mark).bytes(&self.digest);
        out.0
    }

    /// Parse SECTION.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`].
    pub fn parse(body: &[u8]) -> Result<Self, MemoryError> {
        let short = |_: Short| malformed("SECTION");
        let mut reader = Reader::new(body);
        let (section, lane) = (reader.u32().map_err(short)?, reader.len().map_err(short)?);
        if lane >= MAX_LANES {
            return Err(short(Short));
        }
        let mark = reader.u64().map_err(short)?;
        Ok(Self { section, lane, mark, digest: reader.array().map_err(short)? })
    }
}

/// What COMMITTED says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The section's number.
    pub section: u32,
    /// It is committed; else it has to be sent again.
    pub same: bool,
    /// What is there.
    pub digest: Digest,
}

impl Verdict {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.section).u32(if self.same { 1 } else { 2 }).bytes(&self.digest);
        out.0
    }

    /// Parse COMMITTED.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`].
    pub fn parse(body: &[u8]) -> Result<Self, MemoryError> {
        let short = |_: Short| malformed("COMMITTED");
        let mut reader = Reader::new(body);
        let section = reader.u32().map_err(short)?;
        let same = match reader.u32().map_err(short)? {
            1 => true,
            2 => false,
            _ => return Err(short(Short)),
        };
        Ok(Self { section, same, digest: reader.array().map_err(short)? })
    }
}

/// Parse COMMIT or CONFIRM.
pub(crate) fn parse_digest(body: &[u8]) -> Result<Digest, MemoryError> {
    body.try_into().map_err(|_| malformed("a digest"))
}

/// What JOIN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The lane this stream is to be.
    pub lane: usize,
    /// Which copy's.
    pub token: [u8; TOKEN_BYTES],
}

impl Join {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&MAGIC).u16(VERSION).u16(0).len(self.lane).bytes(&self.token);
        out.0
    }

    /// Parse JOIN.
    ///
    /// # Errors
    /// [`MemoryError::Version`], [`MemoryError::Protocol`].
    pub fn parse(body: &[u8]) -> Result<Self, MemoryError> {
        let short = |_: Short| malformed("JOIN");
        let mut reader = Reader::new(body);
        magic_and_version(&mut reader, "JOIN")?;
        let zero = reader.u16().map_err(short)?;
        let lane = reader.len().map_err(short)?;
        if zero != 0 || lane >= MAX_LANES {
            return Err(short(Short));
        }
        Ok(Self { lane, token: reader.array().map_err(short)? })
    }
}

/// Fit a reason into a REFUSE or CANCEL.
pub(crate) fn reason_bytes(reason: &str) -> &[u8] {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 { b"refused" } else { &reason.as_bytes()[..end] }
}

fn malformed(what: &str) -> MemoryError {
    MemoryError::Protocol(format!("{what} is malformed"))
}

/// The end of the stream in the middle of a conversation is not just "failed to fill buffer".
pub(crate) fn connection(during: &'static str) -> impl FnOnce(io::Error) -> MemoryError {
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
