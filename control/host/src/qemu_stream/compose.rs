//! A device state's own form: the stream of a guest whose memory is there already.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use super::{
    CONFIGURATION, DeviceState, FOOTER, MAGIC, RAM, RAM_VERSION, SECTION_END, SECTION_START,
    VERSION,
    ram::{Described, FLAG_BLOCKS, FLAG_END, FLAG_PAGE, FLAG_SAME_BLOCK, FLAG_ZERO, PAGE_BYTES},
};

impl DeviceState {
    /// Write it to a new file; its length.
    pub(crate) fn save(&self, path: &Path) -> io::Result<u64> {
        let mut file = BufWriter::new(File::create(path)?);
        self.write(&mut file)?;
        Ok(file.into_inner()?.metadata()?.len())
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&MAGIC.to_be_bytes())?;
        out.write_all(&VERSION.to_be_bytes())?;
        out.write_all(&[CONFIGURATION])?;
        out.write_all(&(self.machine.len() as u32).to_be_bytes())?;
        out.write_all(self.machine.as_bytes())?;

        self.section(out, SECTION_START)?;
        name(out, RAM)?;
        out.write_all(&0_u32.to_be_bytes())?;
        out.write_all(&RAM_VERSION.to_be_bytes())?;
        let total: u64 = self.blocks.iter().map(|block| block.size_bytes).sum();
        word(out, total | FLAG_BLOCKS)?;
        for block in &self.blocks {
            name(out, &block.name)?;
            word(out, block.size_bytes)?;
        }
        self.end(out)?;

        self.section(out, SECTION_END)?;
        for block in &self.blocks {
            pages(out, block)?;
        }
        self.end(out)?;
        out.write_all(&self.devices)
    }

    fn section(&self, out: &mut impl Write, kind: u8) -> io::Result<()> {
        out.write_all(&[kind])?;
        out.write_all(&self.ram_section.to_be_bytes())
    }

    fn end(&self, out: &mut impl Write) -> io::Result<()> {
        word(out, FLAG_END)?;
        out.write_all(&[FOOTER])?;
        out.write_all(&self.ram_section.to_be_bytes())
    }
}

/// All pages, also zeros: a QEMU that was just started has bytes of its own there.
fn pages(out: &mut impl Write, block: &Described) -> io::Result<()> {
    let Some(bytes) = &block.bytes else { return Ok(()) };
    for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        let zeros = page.iter().all(|byte| *byte == 0);
        let same = if index == 0 { 0 } else { FLAG_SAME_BLOCK };
        let kind = if zeros { FLAG_ZERO } else { FLAG_PAGE };
        word(out, (index * PAGE_BYTES) as u64 | kind | same)?;
        if index == 0 {
            name(out, &block.name)?;
        }
        out.write_all(if zeros { &[0] } else { page })?;
    }
    Ok(())
}

fn word(out: &mut impl Write, word: u64) -> io::Result<()> {
    out.write_all(&word.to_be_bytes())
}

/// It was read with one byte of length, so it has one.
fn name(out: &mut impl Write, name: &str) -> io::Result<()> {
    out.write_all(&[name.len() as u8])?;
    out.write_all(name.as_bytes())
}
