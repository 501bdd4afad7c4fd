//! Memory over bare TCP streams: as the copy protocol's TCP transport carries it, without page hashes and without a protocol.
//!
//! The sending ends take pieces off one counter and say before each where it belongs and how long it is, eight bytes each,
//! little-endian; a length of zero is answered by one byte once all before it has landed.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::Context as _;
use tidegate_lab::process::Process;
use tidegate_memory::{
    Mapping,
    transport::{Dial as _, DialPlain, MAX_PIECE_BYTES, Plain, Stream},
};

use super::copies::{LOOPBACK, announce, start};

/// What the copy protocol receives before it hashes.
const STRIDE_BYTES: u64 = 256 * 1024;
const HEAD_BYTES: usize = 16;

/// The sending ends.
pub struct Streams {
    memory: Arc<Mapping>,
    streams: Vec<Box<dyn Stream>>,
    /// Ends with them.
    _receiver: Process,
}

impl Streams {
    /// Connect so many, to a receiver that has room for `memory` in `dir`.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn begin(dir: &Path, memory: &Arc<Mapping>, streams: usize) -> anyhow::Result<Self> {
        let size = memory.size_bytes().to_string();
        let (process, address) = start(dir, &["--bare".to_owned(), size])?;
        let dial = DialPlain(address);
        let streams = (0..streams).map(|_| dial.dial()).collect::<Result<_, _>>()?;
        Ok(Self { memory: Arc::clone(memory), streams, _receiver: process })
    }

    /// Send all memory; bytes per second, from the order until all has arrived.
    ///
    /// # Errors
    /// The connections'.
    pub fn pass(&mut self) -> anyhow::Result<f64> {
        let next = AtomicU64::new(0);
        let memory = &*self.memory;
        let began = Instant::now();
        thread::scope(|scope| {
            let send = |stream| scope.spawn(|| send(stream, memory, &next));
            let threads: Vec<_> = self.streams.iter_mut().map(send).collect();
            threads.into_iter().try_for_each(|it| it.join().expect("a sending thread"))
        })?;
        Ok(memory.size_bytes() as f64 / began.elapsed().as_secs_f64())
    }
}

fn send(stream: &mut Box<dyn Stream>, memory: &Mapping, next: &AtomicU64) -> anyhow::Result<()> {
    loop {
        // Relaxed: it hands out work.
        let at = next.fetch_add(MAX_PIECE_BYTES, Ordering::Relaxed).min(memory.size_bytes());
        let len = MAX_PIECE_BYTES.min(memory.size_bytes() - at);
        let head = [at.to_le_bytes(), len.to_le_bytes()];
        if len == 0 {
            stream.send(head.as_flattened())?;
            return Ok(stream.receive(&mut [0])?);
        }
        stream.send_memory(head.as_flattened(), memory, at, len)?;
    }
}

/// The receiving end, until killed.
pub(super) fn receive(dir: &Path, size_bytes: u64) -> anyhow::Result<()> {
    let memory = Arc::new(Mapping::create(&dir.join("received"), size_bytes)?);
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    announce(&listener)?;
    for stream in listener.incoming() {
        let (stream, memory) = (stream?, Arc::clone(&memory));
        // What goes wrong shows at its sender.
        thread::spawn(move || land(stream, &memory));
    }
    Ok(())
}

fn land(stream: TcpStream, memory: &Mapping) -> anyhow::Result<()> {
    let mut stream = Plain::new(stream)?;
    stream.set_patience(None)?;
    let mut head = [0; HEAD_BYTES];
    loop {
        stream.receive(&mut head)?;
        let [at, len] = head.as_chunks().0 else { unreachable!("16 bytes") };
        let [at, len] = [at, len].map(|word| u64::from_le_bytes(*word));
        if len == 0 {
            stream.send(&[0])?;
            continue;
        }
        let end = at.checked_add(len).context("an offset that cannot be")?;
        for at in (at..end).step_by(STRIDE_BYTES as usize) {
            stream.receive_memory(memory, at, STRIDE_BYTES.min(end - at))?;
        }
    }
}
