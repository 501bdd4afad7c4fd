//! The header a service wrote at the start of a region.

use tidegate_region::{HEADER_BYTES, Header, MAGIC};

use crate::{Mapping, MemoryError, ObjectKind};

/// The header in `memory`; none when no service has formatted it.
pub(crate) fn header_of(
    region: &str,
    memory: &Mapping,
) -> Result<Option<Box<Header>>, MemoryError> {
    if memory.size_bytes() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; HEADER_BYTES];
    memory.read(0, &mut bytes)?;
    if bytes[..MAGIC.len()] != MAGIC {
        return Ok(None);
    }
    let header = Header::parse(&bytes)
        .map_err(|error| MemoryError::Header { region: region.to_owned(), error })?;
    if header.size_bytes() == memory.size_bytes() {
        return Ok(Some(Box::new(header)));
    }
    let reason =
        format!("its header is for {} bytes, it has {}", header.size_bytes(), memory.size_bytes());
    Err(MemoryError::Mismatch { object: ObjectKind::Region(region.to_owned()), reason })
}

/// Whether the source's and the destination's service keep the same in a region that both have formatted.
pub(crate) fn check_same(
    region: &str,
    source: &Header,
    destination: &Header,
) -> Result<(), MemoryError> {
    if source.schema_version() != destination.schema_version() {
        return Err(MemoryError::Schema {
            region: region.to_owned(),
            source_version: source.schema_version(),
            destination_version: destination.schema_version(),
        });
    }
    let reason = if source.generation() != destination.generation() {
        format!(
            "its generation is {} at the source and {} here: one service began anew since T0",
            source.generation(),
            destination.generation()
        )
    } else if source.ranges() != destination.ranges() {
        "its header declares other ranges at the source than here, under the same schema version"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(MemoryError::Mismatch { object: ObjectKind::Region(region.to_owned()), reason })
}
