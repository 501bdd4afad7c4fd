//! What fuzz targets reach into. Not an interface.

use crate::{Mapping, diff::Diff, merge, redo};

/// Compute a merge: what it would write lies in its region.
///
/// # Panics
/// When it does not.
pub fn merge(diff: &Diff, regions: &[(String, Mapping)]) {
    let Ok(computed) = merge::compute(diff, regions) else { return };
    for (name, writes) in &computed.redo.regions {
        let region = regions.iter().find(|(other, _)| other == name).expect("its region");
        for write in writes {
            let end = write.offset.checked_add(write.bytes.len() as u64).expect("no overflow");
            assert!(end <= region.1.size_bytes() && !write.bytes.is_empty());
        }
    }
    let written = redo::encode(&computed.redo);
    assert_eq!(redo::decode(&written).as_ref(), Ok(&computed.redo));
}

/// Read the body of a redo file under a digest that is right: what is read is written the same.
///
/// # Panics
/// When it is not.
pub fn redo(body: &[u8]) {
    let mut file = body.to_vec();
    file.extend_from_slice(blake3::hash(body).as_bytes());
    if let Ok(redo) = redo::decode(&file) {
        assert!(redo::encode(&redo) == file, "a redo file has one form");
    }
}
