//! LZ4 on the way, where it pays.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::{
    Mapping, MemoryError,
    copy::{
        Controls,
        message::{CHUNK_HEAD_BYTES, HEAD_BYTES, connection, packed_head},
    },
    transport::{MAX_PIECE_BYTES, Piece, Stream},
};

/// Whether bytes are compressed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Never.
    Off,
    /// While it is measured to be faster than sending the bytes as they are.
    #[default]
    Auto,
    /// Always, but for what does not become smaller.
    On,
}

/// Where a message's bytes begin.
const BODY: usize = HEAD_BYTES + CHUNK_HEAD_BYTES;
/// Pieces before the first measurement: socket buffers take the first bytes at no cost.
const SETTLE_PIECES: u64 = 8;
/// Pieces from one measurement to the next.
const MEASURE_EVERY: u64 = 64;
/// Bytes of a measurement.
const SAMPLE_BYTES: usize = 64 * 1024;
/// What packing must save to be taken: it heats a core that others may need.
const WORTH: f64 = 0.9;

/// The sending end of one lane.
pub(super) struct Packer {
    compression: Compression,
    controls: Arc<Controls>,
    /// Lanes that share a cap.
    lanes: usize,
    raw: Vec<u8>,
    packed: Vec<u8>,
    pieces: u64,
    /// Time the wire takes for a byte, smoothed.
    wire_ns: f64,
    pays: bool,
}

impl Packer {
    pub(super) fn new(compression: Compression, controls: Arc<Controls>, lanes: usize) -> Self {
        Self {
            compression,
            controls,
            lanes,
            raw: Vec::new(),
            packed: Vec::new(),
            pieces: 0,
            wire_ns: 0.0,
            pays: false,
        }
    }

    /// The whole PACKED message of a piece, if it is to be one.
    pub(super) fn pack(
        &mut self,
        piece: Piece,
        memory: &Mapping,
    ) -> Result<Option<&[u8]>, MemoryError> {
        self.pieces += 1;
        match self.compression {
            Compression::Off => return Ok(None),
            Compression::On => {}
            Compression::Auto => {
                if self.pieces % MEASURE_EVERY == SETTLE_PIECES {
                    self.measure(piece, memory)?;
                }
                if !self.pays {
                    return Ok(None);
                }
            }
        }
        let packed = self.compress(piece, memory, piece.len_bytes as usize)?;
        if packed as f64 >= piece.len_bytes as f64 * WORTH {
            return Ok(None);
        }
        self.packed[..BODY].copy_from_slice(&packed_head(piece, packed));
        Ok(Some(&self.packed[..BODY + packed]))
    }

    /// Remember how long the wire took for so many bytes.
    pub(super) fn took(&mut self, time: Duration, bytes: u64) {
        let ns = time.as_nanos() as f64 / bytes.max(1) as f64;
        self.wire_ns += (ns - self.wire_ns) / 8.0;
    }

    /// See what packing takes and saves on the first bytes of a piece.
    fn measure(&mut self, piece: Piece, memory: &Mapping) -> Result<(), MemoryError> {
        let bytes = (piece.len_bytes as usize).min(SAMPLE_BYTES);
        let began = Instant::now();
        let packed = self.compress(piece, memory, bytes)?;
        let pack_ns = began.elapsed().as_nanos() as f64 / bytes as f64;
        let ratio = packed as f64 / bytes as f64;
        let capped_ns = self.controls.cap_bytes_per_s().map_or(0.0, |cap| {
            // This lane's share of the cap.
            1e9 * self.lanes as f64 / cap.max(1) as f64
        });
        let wire_ns = self.wire_ns.max(capped_ns);
        self.pays = pack_ns + ratio * wire_ns < WORTH * wire_ns;
        Ok(())
    }

    /// Compress a piece's first bytes to behind where a message's head goes; their length then.
    fn compress(
        &mut self,
        piece: Piece,
        memory: &Mapping,
        bytes: usize,
    ) -> Result<usize, MemoryError> {
        let most = MAX_PIECE_BYTES as usize;
        self.raw.resize(most, 0);
        self.packed.resize(BODY + get_maximum_output_size(most), 0);
        let raw = &mut self.raw[..bytes];
        memory.read(piece.offset, raw)?;
        let packed = compress_into(raw, &mut self.packed[BODY..]);
        packed.map_err(|error| MemoryError::Protocol(format!("LZ4: {error}")))
    }
}

/// The receiving end of one lane.
#[derive(Default)]
pub(super) struct Unpacker {
    packed: Vec<u8>,
    raw: Vec<u8>,
}

impl Unpacker {
    /// Receive `packed_len` bytes that hold `len_bytes`; both were checked to be at most a mebibyte.
    pub(super) fn unpack(
        &mut self,
        stream: &mut dyn Stream,
        packed_len: usize,
        len_bytes: u64,
    ) -> Result<&[u8], MemoryError> {
        self.packed.resize(MAX_PIECE_BYTES as usize, 0);
        self.raw.resize(MAX_PIECE_BYTES as usize, 0);
        let (packed, raw) = (&mut self.packed[..packed_len], &mut self.raw[..len_bytes as usize]);
        stream.receive(packed).map_err(connection("receiving memory"))?;
        match decompress_into(packed, raw) {
            Ok(len) if len == raw.len() => Ok(raw),
            Ok(len) => {
                Err(MemoryError::Protocol(format!("PACKED says {len_bytes} bytes and has {len}")))
            }
            Err(error) => Err(MemoryError::Protocol(format!("PACKED is no LZ4 block: {error}"))),
        }
    }
}
