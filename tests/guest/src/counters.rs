//! Requests per session, counted in the declared region.
//!
//! | offset | what |
//! |---|---|
//! | 0 | header, see `tidegate-region`: one range of u64 |
//! | 4096 | u64 per session number: requests counted |
//!
//! The range's merge type is the deployment's choice, because it depends on how the destination is made. A
//! *booted* destination starts with no work in flight: `sum` is exact. A *clone* also carries out what the
//! source had received but not yet counted at T0, so the same request is counted on both sides; it is for the
//! same session, which only the source continues, and `max` is exact where `sum` would count it twice.

use std::{
    fs::File,
    sync::atomic::{AtomicU64, Ordering},
};

use tidegate_region::{HEADER_BYTES, Header, HeaderError, MAGIC, MergeType, Range};
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

use crate::SESSIONS;

/// Bytes of the counted range.
pub const COUNTERS_BYTES: u64 = SESSIONS as u64 * 8;

/// Why the region cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// Mapping failed.
    #[error("cannot map {size_bytes} bytes of the region: {source}")]
    Map {
        /// How many.
        size_bytes: usize,
        /// Why.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// Reading or writing it failed.
    #[error("cannot access the region: {0}")]
    Access(#[from] vm_memory::VolatileMemoryError),
    /// The counters do not fit.
    #[error("the region does not fit: {0}")]
    Layout(HeaderError),
    /// Something else was formatted there.
    #[error("the region belongs to something else: {0:?}")]
    Foreign(Box<Header>),
}

/// What was found at attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// An empty region, now formatted.
    Formatted,
    /// Counters that are continued.
    Continued,
}

/// The mapped region.
pub struct Counters {
    memory: MmapRegion,
}

impl Counters {
    /// Map `size_bytes` of `file`. Counters that are there are continued; otherwise the region is formatted.
    ///
    /// # Errors
    /// [`CountersError`] when it cannot be mapped, is too small, or holds another service's state.
    pub fn attach(
        file: File,
        size_bytes: usize,
        merge_type: MergeType,
    ) -> Result<(Self, Attached), CountersError> {
        let wanted = header(size_bytes as u64, merge_type).map_err(CountersError::Layout)?;
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), size_bytes)
            .map_err(|source| CountersError::Map { size_bytes, source })?;
        let mut bytes = [0; HEADER_BYTES];
        memory.as_volatile_slice().read_slice(&mut bytes, 0)?;
        let attached = match Header::parse(&bytes) {
            Ok(found) if found.ranges() == wanted.ranges() => Attached::Continued,
            Ok(found) => return Err(CountersError::Foreign(Box::new(found))),
            Err(_) => {
                wanted.encode(&mut bytes);
                format(&memory, &bytes)?;
                Attached::Formatted
            }
        };
        Ok((Self { memory }, attached))
    }

    /// Count one request of `session`.
    ///
    /// # Errors
    /// [`CountersError::Access`] when there is no such session.
    pub fn count(&self, session: u32) -> Result<(), CountersError> {
        let offset = HEADER_BYTES + session as usize * 8;
        let counter = self.memory.get_atomic_ref::<AtomicU64>(offset)?;
        // Only the number matters; the reader is a host that has stopped the guest.
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The header of a region of counters.
///
/// # Errors
/// [`HeaderError::Range`] when `size_bytes` is too small.
pub fn header(size_bytes: u64, merge_type: MergeType) -> Result<Header, HeaderError> {
    let range =
        Range { offset: HEADER_BYTES as u64, len_bytes: COUNTERS_BYTES, merge_type, width: 8 };
    Header::new(1, 1, size_bytes, &[range])
}

/// Zeros first, magic last: whoever sees the magic sees a complete region.
fn format(memory: &MmapRegion, header: &[u8; HEADER_BYTES]) -> Result<(), CountersError> {
    let all = memory.as_volatile_slice();
    for session in 0..SESSIONS as usize {
        memory.get_atomic_ref::<AtomicU64>(HEADER_BYTES + session * 8)?.store(0, Ordering::Relaxed);
    }
    all.write_slice(&header[MAGIC.len()..], MAGIC.len())?;
    let magic = memory.get_atomic_ref::<AtomicU64>(0)?;
    // Pairs with nothing inside the guest: it keeps the stores above before the magic.
    magic.store(u64::from_le_bytes(MAGIC), Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const SIZE: usize = 1 << 20;

    fn region() -> File {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(SIZE as u64).expect("grow");
        file
    }

    fn counted(file: &File, session: u64) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 4096 + session * 8).expect("read");
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn counts_and_continues() {
        let file = region();
        let attach = || {
            let file = file.try_clone().expect("clone");
            Counters::attach(file, SIZE, MergeType::Sum).expect("attach")
        };
        let (counters, attached) = attach();
        assert_eq!(attached, Attached::Formatted);
        counters.count(0).expect("first");
        counters.count(SESSIONS - 1).expect("last");
        drop(counters);
        let (counters, attached) = attach();
        assert_eq!(attached, Attached::Continued);
        counters.count(0).expect("first again");
        assert_eq!((counted(&file, 0), counted(&file, u64::from(SESSIONS) - 1)), (2, 1));
        let mut start = [0; HEADER_BYTES];
        file.read_exact_at(&mut start, 0).expect("read");
        assert_eq!(Header::parse(&start), header(SIZE as u64, MergeType::Sum));
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let attach = |file: &File, size, merge| {
            Counters::attach(file.try_clone().expect("clone"), size, merge)
                .map(|(_, attached)| attached)
        };
        let file = region();
        assert!(matches!(attach(&file, 8192, MergeType::Sum), Err(CountersError::Layout(_))));
        assert!(matches!(attach(&file, SIZE, MergeType::Max), Ok(Attached::Formatted)));
        assert!(matches!(attach(&file, SIZE, MergeType::Sum), Err(CountersError::Foreign(_))));
        let null = File::open("/dev/null").expect("open");
        assert!(matches!(attach(&null, SIZE, MergeType::Sum), Err(CountersError::Map { .. })));
    }
}
