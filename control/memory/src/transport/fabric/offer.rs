//! What the receiver tells the sender: where its memory is, and by what right it may be written.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use tidegate_fabric::{MAX_ADDRESS_BYTES, Window};

use crate::{
    Mapping, MemoryError,
    transport::MAX_OFFER_BYTES,
    wire::{Reader, Short, Writer},
};

const VERSION: u16 = 1;
const MACHINE_BYTES: usize = 16;
const WINDOW_BYTES: usize = 24;

/// Which machine an end is on, as far as `shm` is concerned.
pub(super) type Machine = [u8; MACHINE_BYTES];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) address: Vec<u8>,
    pub(super) machine: Machine,
    /// Of the objects' files in the layout's order.
    pub(super) windows: Vec<Window>,
}

impl Offer {
    pub(super) fn encode(&self) -> Result<Vec<u8>, MemoryError> {
        let mut writer = Writer::default();
        writer.u16(VERSION).u16(self.address.len() as u16).len(self.windows.len());
        writer.bytes(&self.machine).bytes(&self.address);
        for Window { key, base, len } in &self.windows {
            writer.u64(*key).u64(*base).u64(*len);
        }
        if writer.0.len() > MAX_OFFER_BYTES {
            return Err(MemoryError::Protocol(format!(
                "{} objects are too many for a data path over libfabric; take tcp",
                self.windows.len()
            )));
        }
        Ok(writer.0)
    }

    /// `memory`: what is to be written, object by object.
    pub(super) fn parse(bytes: &[u8], memory: &[Arc<Mapping>]) -> Result<Self, MemoryError> {
        let offer = Self::read(bytes)?;
        if offer.windows.len() != memory.len() {
            return Err(wrong(&format!(
                "{} windows for {} objects",
                offer.windows.len(),
                memory.len()
            )));
        }
        for (window, object) in offer.windows.iter().zip(memory) {
            if window.len != object.size_bytes() || window.base.checked_add(window.len).is_none() {
                return Err(wrong(&format!(
                    "a window of {} bytes for an object of {}",
                    window.len,
                    object.size_bytes()
                )));
            }
        }
        Ok(offer)
    }

    fn read(bytes: &[u8]) -> Result<Self, MemoryError> {
        let short = |how: Short| wrong(&how.to_string());
        let mut reader = Reader::new(bytes);
        let version = reader.u16().map_err(short)?;
        if version != VERSION {
            return Err(wrong(&format!("version {version}, not {VERSION}")));
        }
        let address_len = usize::from(reader.u16().map_err(short)?);
        if !(1..=MAX_ADDRESS_BYTES).contains(&address_len) {
            return Err(wrong(&format!("an address of {address_len} bytes")));
        }
        let count = reader.len().map_err(short)?;
        let machine = reader.array().map_err(short)?;
        let address = reader.bytes(address_len).map_err(short)?.to_vec();
        if reader.left() != count.saturating_mul(WINDOW_BYTES) {
            return Err(wrong(&format!("{} bytes for {count} windows", reader.left())));
        }
        let mut window = || -> Result<Window, Short> {
            Ok(Window { key: reader.u64()?, base: reader.u64()?, len: reader.u64()? })
        };
        let windows = (0..count).map(|_| window()).collect::<Result<_, _>>().map_err(short)?;
        Ok(Self { address, machine, windows })
    }
}

fn wrong(how: &str) -> MemoryError {
    MemoryError::Protocol(format!("the offer of a data path makes no sense: {how}"))
}

/// What two processes have in common when `shm` works between them: the boot, `/dev/shm`, and the numbers of processes.
pub(super) fn this_machine() -> Result<Machine, MemoryError> {
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fs::read(boot).map_err(MemoryError::file("read", boot))?);
    for place in ["/dev/shm", "/proc/self/ns/pid"].map(Path::new) {
        // A machine without one of them has no `shm`, and is like no other.
        let found = fs::metadata(place).map(|meta| [meta.dev(), meta.ino()]);
        let [dev, ino] = found.unwrap_or([u64::MAX, u64::from(std::process::id())]);
        hasher.update(&dev.to_le_bytes());
        hasher.update(&ino.to_le_bytes());
    }
    let mut machine = [0; MACHINE_BYTES];
    machine.copy_from_slice(&hasher.finalize().as_bytes()[..MACHINE_BYTES]);
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("dir");
        let create = |name: &str, size| {
            Arc::new(Mapping::create(&dir.path().join(name), size).expect("memory"))
        };
        let memory = [create("a", 8192), create("b", 5001)];
        let window = |key, base, len| Window { key, base, len };
        let offer = Offer {
            address: vec![7; 16],
            machine: this_machine().expect("machine"),
            windows: vec![window(1, 0, 8192), window(2, 1 << 40, 5001)],
        };
        let bytes = offer.encode().expect("encode");
        assert_eq!(Offer::parse(&bytes, &memory).expect("parse"), offer);

        for len in 0..bytes.len() {
            Offer::parse(&bytes[..len], &memory).expect_err("short");
        }
        Offer::parse(&[&bytes[..], &[0]].concat(), &memory).expect_err("long");
        for (at, value) in [(0, 9), (2, 0), (2, 200), (4, 3), (4, 0xff), (7, 0xff)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            Offer::parse(&bad, &memory).expect_err("bad head");
        }
        Offer::parse(&bytes, &memory[..1]).expect_err("an object less");
        let swapped = [memory[1].clone(), memory[0].clone()];
        Offer::parse(&bytes, &swapped).expect_err("other sizes");
        let far = Offer { windows: vec![window(1, u64::MAX, 8192), offer.windows[1]], ..offer };
        Offer::parse(&far.encode().expect("encode"), &memory).expect_err("beyond the end");
        let many = Offer { windows: vec![window(1, 0, 1); 200], ..far };
        assert!(many.encode().is_err());
    }
}
