//! One correction to a device state before QEMU loads it.
//!
//! With `x-ignore-shared`, QEMU's state names each block of memory with its length and, although the bytes are
//! left out, the address it has in the guest; the loading QEMU compares that with its own. A region is a PCI
//! device's memory: in the source the firmware has given it an address, in a QEMU that is about to load it
//! has none, 0, until the devices' own state, further on, brings it. QEMU 7.2 refuses that, so the address is
//! set to 0 here. Numbers are big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | length of the name |
//! | n | name: the device's path, `/`, the memory's id |
//! | 8 | length of the block |
//! | 8 | its address in the guest |

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::{HostError, qemu::region_id, spec::GuestSpec};

/// The list of blocks is at the very start.
const SEARCHED_BYTES: u64 = 64 * 1024;
const NUMBER_BYTES: usize = 8;

/// Set the addresses of the regions' blocks to 0. Doing it again changes nothing.
pub(crate) fn without_region_addresses(path: &Path, spec: &GuestSpec) -> Result<(), HostError> {
    let open = || -> io::Result<(File, Vec<u8>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut start = Vec::new();
        (&file).take(SEARCHED_BYTES).read_to_end(&mut start)?;
        Ok((file, start))
    };
    let (file, start) = open().map_err(HostError::file("read", path))?;
    for (index, region) in spec.regions.iter().enumerate() {
        let address = address_of(&start, &region_id(index), region.size_bytes);
        let address = address.ok_or_else(|| {
            HostError::Precondition(format!(
                "the device state {} does not mention region `{}` of {} bytes; was it saved by a \
                 guest with the same devices?",
                path.display(),
                region.name,
                region.size_bytes
            ))
        })?;
        file.write_all_at(&[0; NUMBER_BYTES], address as u64)
            .map_err(HostError::file("write", path))?;
    }
    Ok(())
}

/// Where the address of a block is, if the block is there exactly once.
fn address_of(state: &[u8], id: &str, size_bytes: u64) -> Option<usize> {
    let mut tail = format!("/{id}").into_bytes();
    tail.extend(size_bytes.to_be_bytes());
    let found = |at: &usize| {
        let name_end = at + id.len() + 1;
        // The name's length stands before the device's path, of whatever length that is.
        let named = |device: usize| {
            let length = at.checked_sub(device + 1).map(|before| usize::from(state[before]));
            length == Some(name_end - (at - device))
        };
        state[*at..].starts_with(&tail) && (1..64).any(named)
    };
    let mut places = (0..state.len()).filter(found);
    let address = places.next()? + tail.len();
    (places.next().is_none() && address + NUMBER_BYTES <= state.len()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, size: u64, address: u64) -> Vec<u8> {
        let mut bytes = vec![name.len() as u8];
        bytes.extend(name.as_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        bytes
    }

    #[test]
    fn a_block_is_found_by_name_and_size() {
        let mut state = b"QEVM noise".to_vec();
        state.extend(block("ram0", 1 << 20, 0));
        state.extend(block("0000:00:01.0/region1", 65536, 0xfebe_0000));
        let at = state.len() - 8;
        state.extend(block("0000:00:02.0/region10", 65536, 5));
        assert_eq!(address_of(&state, "region1", 65536), Some(at));
        assert_eq!(address_of(&state, "region1", 4096), None);
        assert_eq!(address_of(&state, "region0", 65536), None);
        assert_eq!(address_of(&state[..at + 7], "region1", 65536), None);
        state.extend(block("0000:00:03.0/region1", 65536, 5));
        assert_eq!(address_of(&state, "region1", 65536), None);
    }
}
