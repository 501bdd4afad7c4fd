//! The contents of `ram`: a list of blocks once, then pages again and again; the later one counts.
//!
//! | flag | what | what follows the word |
//! |---|---|---|
//! | 0x02 | a page of one value | name of the block unless 0x20; 1 byte, the value: always 0 |
//! | 0x04 | list of blocks, all of them as long as the offset says | for each: name, 8 length; with `x-ignore-shared` also 8 address |
//! | 0x08 | a page | name of the block unless 0x20; 4096 bytes |
//! | 0x10 | the section's contents end | |
//! | 0x20 | same block as before | |
//!
//! 0x01 is obsolete, 0x40 (XBZRLE), 0x80 (RDMA) and 0x100 (compression) come only with capabilities that are never
//! asked for here.

use std::{io::Read, sync::atomic::Ordering};

use tidegate_memory::{MemoryError, mapping};

use super::{Arrived, Known, Malformed, Reader, Twin};

pub(super) const PAGE_BYTES: usize = mapping::PAGE_BYTES;

pub(super) const FLAG_ZERO: u64 = 0x02;
pub(super) const FLAG_BLOCKS: u64 = 0x04;
pub(super) const FLAG_PAGE: u64 = 0x08;
pub(super) const FLAG_END: u64 = 0x10;
pub(super) const FLAG_SAME_BLOCK: u64 = 0x20;
const FLAGS: u64 = PAGE_BYTES as u64 - 1;
const NAMED: [(u64, &str); 4] =
    [(0x01, "full"), (0x40, "xbzrle"), (0x80, "hook of a transport"), (0x100, "compressed")];

const MAX_BLOCKS: usize = 256;
/// Blocks that are in no file: firmware, its tables, a display's memory.
pub(super) const MAX_LOOSE_BYTES: u64 = 64 << 20;

/// Takes the contents of `ram` up.
pub(super) struct Ram<'a> {
    known: &'a [Known<'a>],
    ignores_shared: bool,
    arrived: &'a Arrived,
    blocks: Vec<Block<'a>>,
    /// The block of the page before.
    current: Option<usize>,
}

struct Block<'a> {
    name: String,
    size_bytes: u64,
    place: Place<'a>,
}

enum Place<'a> {
    /// A twin, and which of its pages were written: all others are zeros.
    Twin(Twin<'a>, PageSet),
    /// In a file, copied otherwise.
    Elsewhere,
    /// In no file.
    Loose(Vec<u8>),
}

/// A block as a device state lists it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    /// What is in it, of a block that is in no file.
    pub(super) bytes: Option<Vec<u8>>,
}

struct PageSet(Vec<u64>);

impl PageSet {
    fn new(size_bytes: u64) -> Self {
        Self(vec![0; (size_bytes as usize / PAGE_BYTES).div_ceil(64)])
    }

    fn insert(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }

    /// Whether it was in.
    fn remove(&mut self, page: usize) -> bool {
        let was = self.0[page / 64] & 1 << (page % 64) != 0;
        self.0[page / 64] &= !(1 << (page % 64));
        was
    }
}

impl<'a> Ram<'a> {
    pub(super) fn new(known: &'a [Known<'a>], ignores_shared: bool, arrived: &'a Arrived) -> Self {
        Self { known, ignores_shared, arrived, blocks: Vec::new(), current: None }
    }

    /// Take the list of blocks up.
    pub(super) fn blocks(&mut self, reader: &mut Reader<'_, impl Read>) -> Result<(), Malformed> {
        let word = reader.u64("the list of blocks")?;
        let (mut left, flags) = (word & !FLAGS, word & FLAGS);
        if flags != FLAG_BLOCKS {
            return Err(reader.wrong(format!("flags {flags:#x} are not the list of blocks")));
        }
        let mut loose_bytes = 0;
        while left > 0 {
            let name = reader.name("a block's name")?;
            let size_bytes = reader.u64("a block's length")?;
            if self.ignores_shared {
                // Where the block is in the guest: the loading QEMU has it elsewhere, or not yet.
                reader.u64("a block's address")?;
            }
            let fits = size_bytes > 0 && size_bytes.is_multiple_of(PAGE_BYTES as u64);
            let rest = left.checked_sub(size_bytes).filter(|_| fits);
            left = rest.ok_or_else(|| {
                reader.wrong(format!("block `{name}` of {size_bytes} bytes does not fit in {left}"))
            })?;
            if self.blocks.len() == MAX_BLOCKS || self.find(&name).is_some() {
                return Err(reader.wrong(format!("block `{name}` is one too many")));
            }
            let place = match self.known.iter().find(|known| known.is(&name)) {
                Some(known) if known.size_bytes == size_bytes => match known.twin {
                    Some(twin) => Place::Twin(twin, PageSet::new(size_bytes)),
                    None => Place::Elsewhere,
                },
                Some(known) => {
                    return Err(reader.wrong(format!(
                        "block `{name}` has {size_bytes} bytes, its file {}",
                        known.size_bytes
                    )));
                }
                None => {
                    loose_bytes += size_bytes;
                    if loose_bytes > MAX_LOOSE_BYTES {
                        return Err(reader.wrong(format!(
                            "block `{name}` of {size_bytes} bytes is in no file; such blocks may have \
                             {MAX_LOOSE_BYTES} bytes together"
                        )));
                    }
                    Place::Loose(vec![0; size_bytes as usize])
                }
            };
            self.blocks.push(Block { name, size_bytes, place });
        }
        let missing = |known: &&Known<'_>| {
            self.blocks.iter().filter(|block| known.is(&block.name)).count() != 1
        };
        match self.known.iter().find(missing) {
            Some(known) => Err(reader.wrong(format!(
                "block `{}` is not listed exactly once; has the guest the devices it was started with?",
                known.id
            ))),
            None => Ok(()),
        }
    }

    /// Take pages up, to the end of the section's contents.
    pub(super) fn pages(&mut self, reader: &mut Reader<'_, impl Read>) -> Result<(), Malformed> {
        loop {
            let word = reader.u64("a page")?;
            let (offset, flags) = (word & !FLAGS, word & FLAGS);
            match flags & !FLAG_SAME_BLOCK {
                FLAG_PAGE => self.page(reader, flags, offset)?,
                FLAG_ZERO => self.zero_page(reader, flags, offset)?,
                FLAG_END if offset == 0 && flags == FLAG_END => return Ok(()),
                _ => return Err(reader.wrong(unknown(flags, offset))),
            }
        }
    }

    fn page(
        &mut self,
        reader: &mut Reader<'_, impl Read>,
        flags: u64,
        offset: u64,
    ) -> Result<(), Malformed> {
        let block = self.block(reader, flags, offset)?;
        let at = reader.at();
        let bytes = reader.bytes(PAGE_BYTES, "a page's bytes")?;
        match &mut block.place {
            Place::Twin(twin, written) => {
                twin.write(offset, bytes).map_err(|error| unwritten(at, &error))?;
                written.insert(offset as usize / PAGE_BYTES);
            }
            Place::Loose(all) => all[offset as usize..][..PAGE_BYTES].copy_from_slice(bytes),
            Place::Elsewhere => return Err(Malformed::new(at, uninvited(&block.name))),
        }
        self.arrived.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn zero_page(
        &mut self,
        reader: &mut Reader<'_, impl Read>,
        flags: u64,
        offset: u64,
    ) -> Result<(), Malformed> {
        let block = self.block(reader, flags, offset)?;
        let at = reader.at();
        let value = reader.u8("a page's value")?;
        if value != 0 {
            return Err(reader.wrong(format!("a page of value {value}; only 0 is used")));
        }
        match &mut block.place {
            Place::Twin(twin, written) => {
                if written.remove(offset as usize / PAGE_BYTES) {
                    twin.write(offset, &[0; PAGE_BYTES]).map_err(|error| unwritten(at, &error))?;
                } else {
                    twin.leave_out();
                }
            }
            Place::Loose(all) => all[offset as usize..][..PAGE_BYTES].fill(0),
            Place::Elsewhere => return Err(Malformed::new(at, uninvited(&block.name))),
        }
        self.arrived.zero_pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The block of a page, which lies in it.
    fn block(
        &mut self,
        reader: &mut Reader<'_, impl Read>,
        flags: u64,
        offset: u64,
    ) -> Result<&mut Block<'a>, Malformed> {
        if flags & FLAG_SAME_BLOCK == 0 {
            let name = reader.name("a block's name")?;
            self.current = self.find(&name);
            if self.current.is_none() {
                return Err(reader.wrong(format!("block `{name}` was not listed")));
            }
        }
        let block = self.current.and_then(|index| self.blocks.get_mut(index));
        let block = block.ok_or_else(|| reader.wrong("the first page names no block"))?;
        // Both are multiples of a page.
        if offset >= block.size_bytes {
            return Err(reader.wrong(format!(
                "a page at {offset} is not in block `{}` of {} bytes",
                block.name, block.size_bytes
            )));
        }
        Ok(block)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.blocks.iter().position(|block| block.name == name)
    }

    pub(super) fn finish(self) -> Vec<Described> {
        let describe = |block: Block<'_>| {
            let bytes = match block.place {
                Place::Loose(bytes) => Some(bytes),
                Place::Twin(..) | Place::Elsewhere => None,
            };
            Described { name: block.name, size_bytes: block.size_bytes, bytes }
        };
        self.blocks.into_iter().map(describe).collect()
    }
}

impl Known<'_> {
    /// A device's memory is called by the device's path, `/`, and its own id; a machine's by its id.
    fn is(&self, name: &str) -> bool {
        name.strip_suffix(&self.id).is_some_and(|path| path.is_empty() || path.ends_with('/'))
    }
}

fn unknown(flags: u64, offset: u64) -> String {
    match NAMED.iter().find(|(flag, _)| flags & flag != 0) {
        Some((flag, name)) => {
            format!(
                "flag {flag:#x} ({name}) is not supported; who has set a capability in this QEMU?"
            )
        }
        None => format!("flags {flags:#x} at offset {offset} are unknown"),
    }
}

fn uninvited(name: &str) -> String {
    format!("a page of block `{name}`, which QEMU was told to leave out")
}

fn unwritten(at_bytes: u64, error: &MemoryError) -> Malformed {
    Malformed::new(at_bytes, error.to_string())
}
