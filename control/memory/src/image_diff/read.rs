//! Applying an image diff.

use std::{
    io::{self, Read},
    sync::{Mutex, PoisonError},
};

use twox_hash::XxHash3_128;

use super::{
    DIGEST_BYTES, END, HASH_BYTES, HEAD_BYTES, Head, MAGIC, MAX_OBJECTS, MAX_RUNS, RUN_BYTES,
    VERSION, encode_objects, is_memory,
};
use crate::{
    Mapping, MemoryError, Object, ObjectKind, object::MAX_NAME_BYTES, parallel::on_threads,
    scan::PIECE_BYTES,
};

/// Runs of at least so many bytes are written by the kernel: that takes less than the faults of a mapping that is new.
const THROUGH_BYTES: usize = 4096;

/// What applying a diff wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pieces that had changes.
    pub pieces: u64,
    /// Runs in them.
    pub runs: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// Read a diff to its END and write it into `memory`, which must have every object of the diff in the same size. The
/// guest must not run from before this until it returned well; see the [module](super#guarantees).
///
/// # Errors
/// [`MemoryError::Damaged`] with what is wrong; [`MemoryError::Mismatch`], before anything is written, when an object is
/// missing or of another size; [`MemoryError::Connection`] when `input` fails.
pub fn apply<R: Read + Send>(
    input: R,
    memory: &[(ObjectKind, &Mapping)],
) -> Result<Applied, MemoryError> {
    let mut input = Input { input, digest: blake3::Hasher::new(), objects: Vec::new() };
    let objects = input.layout()?;
    for object in &objects {
        input.objects.push(Target::find(object, memory)?);
    }
    let pieces: u64 = objects.iter().map(|object| object.size_bytes.div_ceil(PIECE_BYTES)).sum();
    // Reading is one thread's at a time; verifying and writing are each one's own.
    let shared = Mutex::new(Shared { input, applied: Applied::default(), over: false });
    on_threads(usize::try_from(pieces).unwrap_or(usize::MAX), || {
        let mut buffer = Vec::new();
        while let Some((head, memory)) = next_piece(&shared, &mut buffer)? {
            if let Err(error) = apply_piece(&head, &buffer, memory) {
                locked(&shared).over = true;
                return Err(error);
            }
        }
        Ok(())
    })?;
    Ok(shared.into_inner().unwrap_or_else(PoisonError::into_inner).applied)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged(reason: impl Into<String>) -> MemoryError {
    MemoryError::Damaged { what: "the image diff", reason: reason.into() }
}

struct Shared<'a, R> {
    input: Input<'a, R>,
    applied: Applied,
    /// END was read, or something is wrong.
    over: bool,
}

/// The next piece, whole in `buffer`, and where it goes; none behind END.
fn next_piece<'a, R: Read>(
    shared: &Mutex<Shared<'a, R>>,
    buffer: &mut Vec<u8>,
) -> Result<Option<(Head, &'a Mapping)>, MemoryError> {
    let mut shared = locked(shared);
    if shared.over {
        return Ok(None);
    }
    let pieces = shared.applied.pieces;
    let next = shared.input.next(buffer, pieces);
    match next {
        Ok(Some((head, _))) => {
            shared.applied.pieces += 1;
            shared.applied.runs += u64::from(head.runs);
            shared.applied.bytes += u64::from(head.data_bytes);
        }
        _ => shared.over = true,
    }
    next
}

/// An object of the diff and the memory it goes to.
struct Target<'a> {
    memory: &'a Mapping,
    /// Pieces that came.
    seen: Vec<bool>,
}

impl<'a> Target<'a> {
    fn find(object: &Object, memory: &[(ObjectKind, &'a Mapping)]) -> Result<Self, MemoryError> {
        let mismatch = |reason| MemoryError::Mismatch { object: object.kind.clone(), reason };
        let found = memory.iter().find(|(kind, _)| *kind == object.kind);
        let (_, memory) = found.ok_or_else(|| mismatch("the destination has none".to_owned()))?;
        if memory.size_bytes() != object.size_bytes {
            return Err(mismatch(format!(
                "{} bytes at the source, {} here",
                object.size_bytes,
                memory.size_bytes()
            )));
        }
        // As long as memory that is there: not by a number that a peer chose.
        let pieces = object.size_bytes.div_ceil(PIECE_BYTES) as usize;
        Ok(Self { memory, seen: vec![false; pieces] })
    }
}

struct Input<'a, R> {
    input: R,
    digest: blake3::Hasher,
    objects: Vec<Target<'a>>,
}

impl<'a, R: Read> Input<'a, R> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), MemoryError> {
        self.input.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends in the middle"),
            _ => MemoryError::connection("receiving the image diff")(error),
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// What stands before the first piece.
    fn layout(&mut self) -> Result<Vec<Object>, MemoryError> {
        if self.array()? != MAGIC {
            return Err(damaged("it does not start with the magic"));
        }
        let version = u32::from_le_bytes(self.array()?);
        if version != VERSION {
            return Err(damaged(format!("version {version} is not supported, only {VERSION} is")));
        }
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count == 0 || count > MAX_OBJECTS {
            return Err(damaged(format!("{count} objects; 1 to {MAX_OBJECTS} are allowed")));
        }
        let mut objects: Vec<Object> = Vec::new();
        for _ in 0..count {
            let object = self.object()?;
            if objects.iter().any(|other| other.kind == object.kind) {
                return Err(damaged(format!("{} is there twice", object.kind)));
            }
            objects.push(object);
        }
        // As it was read: what is encoded has one form only.
        self.digest.update(&encode_objects(objects.iter()));
        Ok(objects)
    }

    fn object(&mut self) -> Result<Object, MemoryError> {
        let [code] = self.array()?;
        let len = usize::from(u16::from_le_bytes(self.array()?));
        if len > MAX_NAME_BYTES {
            return Err(damaged(format!("a name of {len} bytes; {MAX_NAME_BYTES} are allowed")));
        }
        let mut name = vec![0; len];
        self.fill(&mut name)?;
        let name = std::str::from_utf8(&name).map_err(|error| damaged(error.to_string()))?;
        let kind = ObjectKind::from_code(code, name).map_err(|error| damaged(error.to_string()))?;
        let size_bytes = u64::from_le_bytes(self.array()?);
        if !is_memory(&kind) || size_bytes == 0 {
            return Err(damaged(format!("{kind} of {size_bytes} bytes has no place in it")));
        }
        Ok(Object { kind, size_bytes })
    }

    fn next(
        &mut self,
        buffer: &mut Vec<u8>,
        pieces: u64,
    ) -> Result<Option<(Head, &'a Mapping)>, MemoryError> {
        let bytes = self.array::<HEAD_BYTES>()?;
        let head = Head::decode(&bytes).map_err(damaged)?;
        if head.object == END {
            return self.end(&head, pieces).map(|()| None);
        }
        let memory = self.admit(&head)?;
        buffer.clear();
        buffer.extend_from_slice(&bytes);
        buffer.resize(HEAD_BYTES + head.body_bytes(), 0);
        self.fill(&mut buffer[HEAD_BYTES..])?;
        self.digest.update(&buffer[buffer.len() - HASH_BYTES..]);
        Ok(Some((head, memory)))
    }

    /// Check a piece's head: numbers, bounds, and that it did not come before.
    fn admit(&mut self, head: &Head) -> Result<&'a Mapping, MemoryError> {
        let count = self.objects.len();
        let target = self
            .objects
            .get_mut(head.object as usize)
            .ok_or_else(|| damaged(format!("object {} of {count}", head.object)))?;
        let left = target.memory.size_bytes().saturating_sub(head.start);
        let (runs, data) = (head.runs as usize, u64::from(head.data_bytes));
        let fits = head.start.is_multiple_of(PIECE_BYTES) && data <= left.min(PIECE_BYTES);
        if !fits || data == 0 || runs == 0 || runs > MAX_RUNS {
            return Err(damaged(format!(
                "a piece at {} of object {} with {runs} runs of {data} bytes is not allowed",
                head.start, head.object
            )));
        }
        // In bounds: there are bytes left at the piece's start.
        let seen = &mut target.seen[(head.start / PIECE_BYTES) as usize];
        if std::mem::replace(seen, true) {
            let (start, object) = (head.start, head.object);
            return Err(damaged(format!("the piece at {start} of object {object} came twice")));
        }
        Ok(target.memory)
    }

    fn end(&mut self, head: &Head, pieces: u64) -> Result<(), MemoryError> {
        let digest: [u8; DIGEST_BYTES] = self.array()?;
        if head.runs != 0 || head.data_bytes != 0 || head.start != pieces {
            return Err(damaged(format!("{pieces} pieces came, END says {}", head.start)));
        }
        let found = self.digest.finalize();
        if found.as_bytes() == &digest { Ok(()) } else { Err(damaged("its digest does not match")) }
    }
}

/// Verify a piece and write it.
fn apply_piece(head: &Head, bytes: &[u8], memory: &Mapping) -> Result<(), MemoryError> {
    let (content, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
    if XxHash3_128::oneshot(content).to_le_bytes() != hash {
        return Err(damaged(format!(
            "the piece at {} of object {} does not match its hash; send the diff again",
            head.start, head.object
        )));
    }
    let (mut data, heads) = content[HEAD_BYTES..].split_at(head.data_bytes as usize);
    let piece_bytes = PIECE_BYTES.min(memory.size_bytes() - head.start);
    let (heads, _) = heads.as_chunks::<RUN_BYTES>();
    let runs = || {
        heads.iter().map(|run| {
            let [a, b, c, d, e, f, g, h] = *run;
            (u64::from(u32::from_le_bytes([a, b, c, d])), u32::from_le_bytes([e, f, g, h]))
        })
    };
    let mut free_from = 0;
    let mut sum = 0;
    for (offset, len) in runs() {
        if len == 0 || offset < free_from || offset + u64::from(len) > piece_bytes {
            let (start, object) = (head.start, head.object);
            return Err(damaged(format!(
                "a run of {len} bytes at {offset} of the piece at {start} of object {object} is \
                 not allowed"
            )));
        }
        free_from = offset + u64::from(len);
        sum += u64::from(len);
    }
    if sum != u64::from(head.data_bytes) {
        return Err(damaged(format!("runs of {sum} bytes have {} bytes", head.data_bytes)));
    }
    for (offset, len) in runs() {
        let (run, rest) = data.split_at(len as usize);
        if run.len() >= THROUGH_BYTES {
            memory.write_through(head.start + offset, run)?;
        } else {
            memory.write(head.start + offset, run)?;
        }
        data = rest;
    }
    Ok(())
}
