//! A diff as another host may send it, decoded and merged into a region with ranges of every type.

use std::cell::OnceCell;

use tidegate_memory::{Mapping, diff::Diff, fuzzing};
use tidegate_region::{HEADER_BYTES, Header, MergeType, Range};

/// Small, so that inputs reach all of it.
const SIZE: usize = HEADER_BYTES + 1024;

/// The destination, made once for each thread: computing a merge changes nothing.
struct Destination {
    _dir: tempfile::TempDir,
    regions: Vec<(String, Mapping)>,
}

thread_local! {
    static DESTINATION: OnceCell<Destination> = const { OnceCell::new() };
}

fn destination() -> Destination {
    let dir = tempfile::tempdir().expect("a place for files");
    let region = Mapping::create(&dir.path().join("r"), SIZE as u64).expect("created");
    let mut bytes: Vec<u8> = (0..SIZE).map(|at| at as u8).collect();
    let mut ranges = Vec::new();
    let mut offset = HEADER_BYTES as u64;
    for merge_type in MergeType::ALL {
        for &width in merge_type.widths() {
            ranges.push(Range { offset, len_bytes: 32, merge_type, width });
            if merge_type == MergeType::AppendLog {
                bytes[offset as usize..offset as usize + 8].copy_from_slice(&8_u64.to_le_bytes());
            }
            offset += 40;
        }
    }
    let mut header = [0; HEADER_BYTES];
    Header::new(1, 1, SIZE as u64, &ranges).expect("valid").encode(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header);
    region.write(0, &bytes).expect("written");
    Destination { _dir: dir, regions: vec![("r".to_owned(), region)] }
}

pub(crate) fn run(bytes: &[u8]) {
    let Ok(diff) = Diff::decode(bytes) else { return };
    assert!(diff.encode() == bytes, "a diff has one form");
    DESTINATION.with(|destination_of_thread| {
        let destination = destination_of_thread.get_or_init(destination);
        fuzzing::merge(&diff, &destination.regions);
    });
}
