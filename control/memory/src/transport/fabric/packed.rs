//! Small pieces, many in one message: a write of 4 KiB costs nearly as much as one of 64.
//!
//! A message is at most 1 MiB long: its number among the lane's writes and messages (4 bytes), and entries one behind
//! the other:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | object's index |
//! | 4 | 4 | length, 1 to 1 MiB; the highest bit: all zeros |
//! | 8 | 8 | offset |
//! | 16 | | the bytes, unless they are zeros |

use std::sync::Arc;

use vm_memory::MmapRegion;

use crate::{
    Mapping, MemoryError,
    copy::ground::Ground,
    transport::{MAX_PIECE_BYTES, Piece},
    wire::{Reader, Short, Writer},
};

/// Largest message, and size of each place for one.
pub(super) const MESSAGE_BYTES: usize = 1 << 20;
/// Pieces up to this length are packed.
pub(super) const SMALL_BYTES: u64 = 64 * 1024;
/// Bytes of a message's number.
const NUMBER_BYTES: usize = 4;
/// Bytes in front of a piece's own.
pub(super) const HEAD_BYTES: usize = 16;
const ZEROS: u32 = 1 << 31;

/// Memory for messages: places of [`MESSAGE_BYTES`].
pub(super) fn places(count: usize) -> Result<Arc<MmapRegion>, MemoryError> {
    let region = MmapRegion::new(count * MESSAGE_BYTES).map_err(|error| {
        let error = std::io::Error::other(error.to_string());
        MemoryError::connection("making room for messages")(error)
    });
    region.map(Arc::new)
}

/// A message that is being put together.
#[derive(Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// All of it; nothing when it was not begun.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its number, if it was begun.
    pub(super) fn number(&self) -> Option<u32> {
        self.bytes.first_chunk().map(|number| u32::from_le_bytes(*number))
    }

    pub(super) fn begin(&mut self, number: u32) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Whether an entry of so many bytes behind its head fits in.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.len().max(NUMBER_BYTES) + HEAD_BYTES + bytes as usize <= MESSAGE_BYTES
    }

    /// Append a piece with its bytes, or as zeros.
    pub(super) fn push(
        &mut self,
        piece: Piece,
        memory: Option<&Mapping>,
    ) -> Result<(), MemoryError> {
        let len = piece.len_bytes as u32;
        let mut writer = Writer(std::mem::take(&mut self.bytes));
        let marked = if memory.is_some() { len } else { len | ZEROS };
        writer.u32(piece.object as u32).u32(marked).u64(piece.offset);
        self.bytes = writer.0;
        let Some(memory) = memory else { return Ok(()) };
        let start = self.bytes.len();
        self.bytes.resize(start + len as usize, 0);
        memory.read(piece.offset, &mut self.bytes[start..])
    }
}

/// Put a message's pieces where they belong; its number. What the peer says is checked by the ground.
pub(super) fn land(message: &[u8], ground: &Ground) -> Result<u32, MemoryError> {
    let mut reader = Reader::new(message);
    let short = |how: Short| MemoryError::Protocol(format!("a packed message: {how}"));
    let number = reader.u32().map_err(short)?;
    while reader.left() > 0 {
        let object = reader.u32().map_err(short)? as usize;
        let len = reader.u32().map_err(short)?;
        let offset = reader.u64().map_err(short)?;
        let len_bytes = u64::from(len & !ZEROS);
        if len_bytes > MAX_PIECE_BYTES {
            return Err(MemoryError::Protocol(format!("{len_bytes} bytes in a packed message")));
        }
        let bytes = match len & ZEROS {
            0 => Some(reader.bytes(len_bytes as usize).map_err(short)?),
            _ => None,
        };
        let piece = Piece { object, offset, len_bytes };
        ground.land(piece, |file, at, len| match bytes {
            Some(bytes) => {
                let start = (at - offset) as usize;
                file.write(at, &bytes[start..start + len as usize])
            }
            // Not by a hole: memory that a device has pinned would stay behind.
            None => file.write_zeros(at, len),
        })?;
    }
    Ok(number)
}
