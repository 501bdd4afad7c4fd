//! QEMU's migration stream, taken apart: pages go into a twin, the rest becomes a *device state*, a stream of its
//! own that a QEMU on a copy of the memory loads.
//!
//! Source: QEMU's `docs/devel/migration.rst` ("Stream structure") and what QEMU 7.2.22 was seen to write. Numbers are
//! big-endian; a name is one byte of length, then as many of text.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `QEVM` |
//! | 4 | version, 3 |
//! | 1 | 7: configuration |
//! | 4, n | length of the machine's name, and that |
//! | | with `x-ignore-shared`: 5, name `configuration/capabilities`, 4 version, 4 count, that many names |
//! | | sections |
//!
//! | bytes | section |
//! |---|---|
//! | 1 | 1: start, 2: part, 3: end, 4: whole |
//! | 4 | the section's number |
//! | | start and whole: name, 4 instance, 4 version |
//! | n | contents |
//! | 1, 4 | 0x7e: footer, and the number again |
//!
//! Only `ram` has a start, parts and an end; parts come while the guest runs, the end when it stands. Everything behind its end is
//! of the devices: contents only QEMU knows, so it is kept as it is. Contents of `ram` are words of 8 bytes: an
//! offset in a block of memory, and flags in the low 12 bits (`ram.rs` has the table).
//!
//! QEMU closes the socket after the last byte, and also when it fails: whether all of it came is for its monitor
//! to say.
//!
//! A device state is the same, with `x-ignore-shared`'s traces taken out: the header, the list of blocks, pages only of
//! blocks that are in no file (firmware, tables), and the devices. So one form serves both ways of capture.

mod compose;
mod error;
pub mod fuzzing;
mod ram;
mod reader;
#[cfg(test)]
mod tests;

use std::{
    io::Read,
    sync::atomic::{AtomicU64, Ordering},
};

use tidegate_memory::{Mapping, MemoryError, copy::Window};

pub(crate) use error::Malformed;
use ram::Ram;
use reader::Reader;

const MAGIC: u32 = u32::from_be_bytes(*b"QEVM");
const VERSION: u32 = 3;

const END_OF_STREAM: u8 = 0;
const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const SECTION_WHOLE: u8 = 4;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const FOOTER: u8 = 0x7e;

const RAM: &str = "ram";
const RAM_VERSION: u32 = 4;
const CAPABILITIES: &str = "configuration/capabilities";
const IGNORE_SHARED: &str = "x-ignore-shared";

const MAX_MACHINE_BYTES: u32 = 256;
const MAX_CAPABILITIES: u32 = 64;
/// More than the devices of any guest here say.
const MAX_DEVICES_BYTES: usize = 64 << 20;

/// A block of guest memory that is kept in a file of ours.
pub(crate) struct Known<'a> {
    /// The id of its memory backend: QEMU's name for the block, or the end of it.
    pub(crate) id: String,
    pub(crate) size_bytes: u64,
    /// Where its pages go. None: they are copied otherwise, and must not be in the stream.
    pub(crate) twin: Option<Twin<'a>>,
}

/// Where a block's pages go.
#[derive(Clone, Copy)]
pub(crate) enum Twin<'a> {
    /// They stay.
    Kept(&'a Mapping),
    /// They leave for another host.
    Leaving(&'a Window),
}

impl Twin<'_> {
    fn write(&self, offset: u64, page: &[u8]) -> Result<(), MemoryError> {
        match self {
            Self::Kept(twin) => twin.write(offset, page),
            Self::Leaving(window) => window.put(offset, page),
        }
    }

    /// A page that is zeros, as it was from the beginning: touching it would only take memory.
    fn leave_out(&self) {
        match self {
            Self::Kept(_) => {}
            Self::Leaving(window) => window.leave_out(),
        }
    }
}

/// What has arrived so far. Written by who reads the stream, read by who drives the capture. Relaxed: nothing hangs on
/// their order.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// Of the stream.
    stream_bytes: AtomicU64,
    /// Pages with bytes in them.
    pages: AtomicU64,
    /// Pages that are zeros.
    zero_pages: AtomicU64,
}

/// A guest's state but for the memory that is in files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceState {
    machine: String,
    /// The number that QEMU gave the section `ram`.
    ram_section: u32,
    blocks: Vec<ram::Described>,
    devices: Vec<u8>,
}

/// Take a stream apart to its end.
///
/// # Errors
/// [`Malformed`] with the place in the stream.
pub(crate) fn read(
    source: impl Read,
    known: &[Known<'_>],
    arrived: &Arrived,
) -> Result<DeviceState, Malformed> {
    let mut reader = Reader::new(source, &arrived.stream_bytes);
    let (machine, ignores_shared) = header(&mut reader)?;
    let mut ram = Ram::new(known, ignores_shared, arrived);
    let ram_section = start(&mut reader)?;
    ram.blocks(&mut reader)?;
    ram.pages(&mut reader)?;
    footer(&mut reader, ram_section)?;
    loop {
        let kind = reader.u8("a section")?;
        if !matches!(kind, SECTION_PART | SECTION_END) {
            return Err(
                reader.wrong(format!("section kind {kind} comes before the end of `{RAM}`"))
            );
        }
        let number = reader.u32("a section's number")?;
        if number != ram_section {
            return Err(reader.wrong(format!("section {number} is not `{RAM}`, {ram_section}")));
        }
        ram.pages(&mut reader)?;
        footer(&mut reader, ram_section)?;
        if kind == SECTION_END {
            break;
        }
    }
    let devices = reader.rest(MAX_DEVICES_BYTES)?;
    if !matches!(devices.first(), Some(&(SECTION_WHOLE | END_OF_STREAM))) {
        return Err(reader.wrong("the devices are missing behind the memory"));
    }
    Ok(DeviceState { machine, ram_section, blocks: ram.finish(), devices })
}

/// The machine's name, and whether memory in files is left out.
fn header(reader: &mut Reader<'_, impl Read>) -> Result<(String, bool), Malformed> {
    let magic = reader.u32("the magic")?;
    if magic != MAGIC {
        return Err(reader.wrong(format!("it begins with {magic:#x}, not with {MAGIC:#x}")));
    }
    let version = reader.u32("the version")?;
    if version != VERSION {
        return Err(reader.wrong(format!("version {version} is not supported, only {VERSION} is")));
    }
    let kind = reader.u8("the configuration")?;
    if kind != CONFIGURATION {
        return Err(reader.wrong(format!("kind {kind} stands where the configuration should")));
    }
    let len = reader.u32("the machine's name")?;
    if len > MAX_MACHINE_BYTES {
        return Err(reader.wrong(format!("a machine's name of {len} bytes is too long")));
    }
    let machine = reader.text(len as usize, "the machine's name")?;
    let mut ignores_shared = false;
    while reader.peek("a section")? == SUBSECTION {
        reader.u8("a subsection")?;
        let name = reader.name("a subsection's name")?;
        let version = reader.u32("a subsection's version")?;
        if name != CAPABILITIES || version != 1 {
            return Err(reader.wrong(format!("subsection `{name}`, version {version}, is unknown")));
        }
        let count = reader.u32("capabilities")?;
        if count > MAX_CAPABILITIES {
            return Err(reader.wrong(format!("{count} capabilities are too many")));
        }
        for _ in 0..count {
            let name = reader.name("a capability")?;
            if name != IGNORE_SHARED {
                return Err(reader.wrong(format!("capability `{name}` is not supported")));
            }
            ignores_shared = true;
        }
    }
    Ok((machine, ignores_shared))
}

/// The start of `ram`: its number.
fn start(reader: &mut Reader<'_, impl Read>) -> Result<u32, Malformed> {
    let kind = reader.u8("a section")?;
    let number = reader.u32("a section's number")?;
    if kind != SECTION_START {
        return Err(reader.wrong(format!("section kind {kind} is not the start of `{RAM}`")));
    }
    let name = reader.name("a section's name")?;
    let instance = reader.u32("a section's instance")?;
    let version = reader.u32("a section's version")?;
    if name != RAM || instance != 0 || version != RAM_VERSION {
        return Err(reader.wrong(format!(
            "section `{name}`, instance {instance}, version {version}, is not `{RAM}`, 0, {RAM_VERSION}"
        )));
    }
    Ok(number)
}

fn footer(reader: &mut Reader<'_, impl Read>, section: u32) -> Result<(), Malformed> {
    let (mark, number) = (reader.u8("a footer")?, reader.u32("a footer")?);
    if mark != FOOTER || number != section {
        return Err(reader.wrong(format!(
            "footer {mark:#x} of section {number} does not end section {section}"
        )));
    }
    Ok(())
}

impl Arrived {
    pub(crate) fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory that came as they are.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * ram::PAGE_BYTES as u64
    }
}
