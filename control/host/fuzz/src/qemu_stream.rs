//! A migration stream as a QEMU that is broken, or not the one it seems to be, may send it.
//!
//! A first byte of 0: the rest is the stream. Else it is what is short for one: 0xfe and a byte are a page of that byte.

use std::cell::OnceCell;

use tidegate_host::fuzzing::{self, BLOCKS};
use tidegate_memory::{Mapping, mapping::PAGE_BYTES};

const PAGE: u8 = 0xfe;

/// Two sets of twins, made once for each thread and zeros between two runs.
struct Twins {
    _dir: tempfile::TempDir,
    sets: [[Mapping; 2]; 2],
}

thread_local! {
    static TWINS: OnceCell<Twins> = const { OnceCell::new() };
}

fn twins() -> Twins {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a place for files");
    let sets = ["a", "b"].map(|set| {
        BLOCKS.map(|(name, pages)| {
            let path = dir.path().join(format!("{name}-{set}"));
            Mapping::create(&path, (pages * PAGE_BYTES) as u64).expect("created")
        })
    });
    Twins { _dir: dir, sets }
}

pub(crate) fn run(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    let expanded;
    let stream = if how == 0 {
        rest
    } else {
        expanded = expand(rest);
        &expanded
    };
    TWINS.with(|twins_of_thread| {
        let twins = twins_of_thread.get_or_init(twins);
        fuzzing::qemu_stream(stream, &twins.sets);
        for twin in twins.sets.iter().flatten() {
            let zeros = vec![0; twin.size_bytes() as usize];
            twin.write(0, &zeros).expect("written");
        }
    });
}

fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = bytes.iter();
    while let Some(&byte) = bytes.next() {
        if byte == PAGE {
            let value = bytes.next().copied().unwrap_or_default();
            out.extend([value; PAGE_BYTES]);
        } else {
            out.push(byte);
        }
    }
    out
}
