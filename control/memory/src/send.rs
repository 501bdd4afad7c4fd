//! The sending side of the [copy protocol](crate::transfer).

use std::{
    io,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use crate::{
    Mapping, MemoryError, Object,
    mapping::PAGE_BYTES,
    transfer::{
        DIGEST_BYTES, Kind, MAX_CHUNK_BYTES, SILENCE, chunk_head, encode_hello, encode_layout,
        expect, write_chunk, write_message,
    },
};

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of memory on the wire, zero pages elided.
    pub sent_bytes: u64,
    /// Bytes of the objects that are dealt with.
    pub covered_bytes: u64,
    /// Bytes of all objects.
    pub total_bytes: u64,
}

/// A transfer that the receiver confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Final figures.
    pub progress: Progress,
    /// BLAKE3 of layout and chunks, in hexadecimal.
    pub digest: String,
}

/// Send objects to the host at the other end of `stream`. They must not change meanwhile. `report` is called
/// after each mebibyte looked at.
///
/// # Errors
/// [`MemoryError::Refused`] with the receiver's reason, [`MemoryError::Connection`],
/// [`MemoryError::Protocol`].
pub fn send(
    stream: &TcpStream,
    migration: &str,
    objects: &[(Object, Mapping)],
    report: &mut dyn FnMut(Progress),
) -> Result<Sent, MemoryError> {
    prepare(stream).map_err(MemoryError::connection("starting"))?;
    let sent = converse(stream, migration, objects, report);
    match sent {
        // Whatever broke the sending, the receiver may have said why before it closed.
        Err(error @ MemoryError::Connection { .. }) => Err(parting_reason(stream).unwrap_or(error)),
        other => other,
    }
}

/// Small messages must not wait for each other, and a silent peer must not hold us for ever.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

fn converse(
    mut stream: &TcpStream,
    migration: &str,
    objects: &[(Object, Mapping)],
    report: &mut dyn FnMut(Progress),
) -> Result<Sent, MemoryError> {
    write_message(&mut stream, Kind::Hello, &encode_hello(migration))?;
    expect(&mut stream, Kind::Accept, "waiting to be admitted")?;
    let layout: Vec<Object> = objects.iter().map(|(object, _)| object.clone()).collect();
    let layout = encode_layout(&layout);
    write_message(&mut stream, Kind::Layout, &layout)?;
    expect(&mut stream, Kind::Accept, "waiting for the layout to be accepted")?;

    let mut sender = Sender {
        stream,
        digest: blake3::Hasher::new(),
        progress: Progress {
            total_bytes: objects.iter().map(|(object, _)| object.size_bytes).sum(),
            ..Progress::default()
        },
        buffer: vec![0; MAX_CHUNK_BYTES],
    };
    sender.digest.update(&layout);
    for (index, (object, memory)) in objects.iter().enumerate() {
        sender.object(index, object, memory, report)?;
    }
    let digest = sender.digest.finalize();
    write_message(&mut stream, Kind::End, digest.as_bytes())?;
    let confirmed = expect(&mut stream, Kind::Confirm, "waiting for the confirmation")?;
    if confirmed[..DIGEST_BYTES] != digest.as_bytes()[..] {
        return Err(MemoryError::Protocol("it confirmed another digest".to_owned()));
    }
    Ok(Sent { progress: sender.progress, digest: digest.to_hex().to_string() })
}

struct Sender<'a> {
    stream: &'a TcpStream,
    digest: blake3::Hasher,
    progress: Progress,
    buffer: Vec<u8>,
}

impl Sender<'_> {
    fn object(
        &mut self,
        index: usize,
        object: &Object,
        memory: &Mapping,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), MemoryError> {
        for start in (0..object.size_bytes).step_by(MAX_CHUNK_BYTES) {
            let len = (object.size_bytes - start).min(MAX_CHUNK_BYTES as u64) as usize;
            memory.read(start, &mut self.buffer[..len])?;
            let mut at = 0;
            while let Some((first, end)) = next_run(&self.buffer[..len], at) {
                self.chunk(index, start + first as u64, first, end)?;
                at = end;
            }
            self.progress.covered_bytes += len as u64;
            report(self.progress);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        object: usize,
        offset: u64,
        first: usize,
        end: usize,
    ) -> Result<(), MemoryError> {
        let bytes = &self.buffer[first..end];
        let head = chunk_head(object, offset);
        self.digest.update(&head).update(bytes);
        write_chunk(&mut self.stream, &head, bytes)?;
        self.progress.sent_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// The next run of pages from `at` on that are not all zero.
fn next_run(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let zero = |page: usize| {
        let end = (page + PAGE_BYTES).min(bytes.len());
        bytes[page..end] == [0; PAGE_BYTES][..end - page]
    };
    let mut first = at;
    while first < bytes.len() && zero(first) {
        first += PAGE_BYTES;
    }
    let mut end = first;
    while end < bytes.len() && !zero(end) {
        end += PAGE_BYTES;
    }
    (first < bytes.len()).then(|| (first, end.min(bytes.len())))
}

/// The reason of a REFUSE that is already on its way.
fn parting_reason(mut stream: &TcpStream) -> Option<MemoryError> {
    // Failing to set either only costs the reason.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    match expect(&mut stream, Kind::Refuse, "asking why") {
        Err(error @ MemoryError::Refused(_)) => Some(error),
        _ => None,
    }
}
