//! A service that keeps a count and a log in a region; run it again and it goes on.
//!
//! `cargo run -p tidegate-region --example service -- FILE`, where FILE is the region: in a guest, `resource2` of the
//! ivshmem device; anywhere else a file of its size (`truncate -s 1M FILE`).

use std::{
    env,
    error::Error,
    fs::OpenOptions,
    sync::atomic::{AtomicU64, Ordering},
};

use tidegate_region::{HEADER_BYTES, Header, LogError, MAGIC, MergeType, Range, log};
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

const SCHEMA_VERSION: u32 = 1;
const COUNT_AT: usize = HEADER_BYTES;
const LOG: Range =
    Range { offset: 8192, len_bytes: 4096, merge_type: MergeType::AppendLog, width: 8 };

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("which file is the region?")?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = usize::try_from(file.metadata()?.len())?;
    let memory = MmapRegion::<()>::from_file(FileOffset::new(file, 0), size)?;
    let all = memory.as_volatile_slice();

    let mut header = [0; HEADER_BYTES];
    all.read_slice(&mut header, 0)?;
    if header[..8] != MAGIC {
        let count =
            Range { offset: COUNT_AT as u64, len_bytes: 8, merge_type: MergeType::Sum, width: 8 };
        Header::new(SCHEMA_VERSION, 1, size as u64, &[count, LOG])?.encode(&mut header);
        // Data, header, magic: whoever sees the magic sees all.
        all.write_slice(&[0; 8], COUNT_AT)?;
        all.write_slice(&[0; 8], LOG.offset as usize)?;
        all.write_slice(&header[8..], 8)?;
        memory.get_atomic_ref::<AtomicU64>(0)?.store(u64::from_le_bytes(MAGIC), Ordering::Release);
    }
    let found = Header::parse(&header)?;
    if found.schema_version() != SCHEMA_VERSION {
        return Err("the region is another version's".into());
    }

    let count = memory.get_atomic_ref::<AtomicU64>(COUNT_AT)?.fetch_add(1, Ordering::Relaxed) + 1;
    append(&memory, &count.to_le_bytes())?;
    println!("run {count}");
    Ok(())
}

/// The record first, then the length that makes it count.
fn append(memory: &MmapRegion<()>, record: &[u8]) -> Result<(), Box<dyn Error>> {
    let length = memory.get_atomic_ref::<AtomicU64>(LOG.offset as usize)?;
    let capacity_bytes = LOG.len_bytes - log::LOG_HEAD_BYTES;
    let used = log::checked_len(length.load(Ordering::Relaxed), capacity_bytes, LOG.width)?;
    if used + record.len() as u64 > capacity_bytes {
        let free_bytes = (capacity_bytes - used) as usize;
        return Err(LogError::Full { record_bytes: record.len(), free_bytes }.into());
    }
    let to = LOG.offset + log::LOG_HEAD_BYTES + used;
    memory.as_volatile_slice().write_slice(record, to as usize)?;
    length.store(used + record.len() as u64, Ordering::Release);
    Ok(())
}
