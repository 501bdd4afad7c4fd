//! What the guest counted: the region's file, read from outside.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, bail};
use tidegate_guest_service::{SESSIONS, counters::header};
use tidegate_region::{HEADER_BYTES, Header};

/// Requests counted, by session number.
///
/// # Errors
/// When the file cannot be read or does not hold the service's counters.
pub fn counted(path: &Path) -> anyhow::Result<Vec<u64>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut start = vec![0; HEADER_BYTES];
    file.read_exact_at(&mut start, 0).with_context(|| format!("read {}", path.display()))?;
    let found = Header::parse(&start).with_context(|| path.display().to_string())?;
    let wanted = header(found.size_bytes(), found.ranges()[0].merge_type)?;
    if found != wanted {
        bail!("{} holds {found:?} instead of {wanted:?}", path.display());
    }
    let mut bytes = vec![0; SESSIONS as usize * 8];
    file.read_exact_at(&mut bytes, HEADER_BYTES as u64)?;
    let (counts, _) = bytes.as_chunks();
    Ok(counts.iter().map(|count| u64::from_le_bytes(*count)).collect())
}
