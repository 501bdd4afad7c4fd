//! An image diff as another host may send it.
//!
//! A first byte of 0: the rest is the stream. Else the rest says what is in pieces, and they get hashes that are right.

use std::cell::OnceCell;

use tidegate_memory::{Mapping, ObjectKind, image_diff};
use twox_hash::XxHash3_128;

const RAM_BYTES: u64 = (1 << 20) + 5000;
const REGION_BYTES: u64 = 8192;

/// The destination's memory, made once for each thread: what is in it does not matter.
struct Memory {
    _dir: tempfile::TempDir,
    ram: Mapping,
    region: Mapping,
}

thread_local! {
    static MEMORY: OnceCell<Memory> = const { OnceCell::new() };
}

fn memory() -> Memory {
    let dir = tempfile::tempdir().expect("a place for files");
    let make = |name: &str, size| Mapping::create(&dir.path().join(name), size).expect("created");
    let (ram, region) = (make("ram", RAM_BYTES), make("region", REGION_BYTES));
    Memory { _dir: dir, ram, region }
}

pub(crate) fn run(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    let forged;
    let stream = if how == 0 {
        rest
    } else {
        forged = forge(rest);
        &forged
    };
    MEMORY.with(|memory_of_thread| {
        let memory = memory_of_thread.get_or_init(memory);
        let region = ObjectKind::Region("r".to_owned());
        let targets = [(ObjectKind::Ram, &memory.ram), (region, &memory.region)];
        let once = image_diff::apply(stream, &targets);
        let twice = image_diff::apply(stream, &targets);
        match (once, twice) {
            (Ok(once), Ok(twice)) => {
                assert!(once == twice && once.runs >= once.pieces && once.bytes >= once.runs);
            }
            (Err(_), Err(_)) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// A stream with two objects: each piece is told by 12 bytes and what they ask for.
fn forge(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = b"TGIMAGE\0".to_vec();
    out.extend(1_u32.to_le_bytes());
    out.extend(2_u32.to_le_bytes());
    out.extend([1, 0, 0]);
    out.extend(RAM_BYTES.to_le_bytes());
    out.extend([3, 1, 0, b'r']);
    out.extend(REGION_BYTES.to_le_bytes());
    let mut digest = blake3::Hasher::new();
    digest.update(&out);
    let mut pieces = 0_u64;
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let [object, runs, data, start, fine @ ..] = *head;
        let (data, rest) = rest.split_at(usize::from(data).min(rest.len()));
        let (heads, rest) = rest.split_at((usize::from(runs) * 4).min(rest.len()));
        let from = out.len();
        let start = (u64::from(start) << 20) + u64::from(u32::from_le_bytes(fine));
        out.extend(u32::from(object).to_le_bytes());
        out.extend(((heads.len() / 4) as u32).to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend((data.len() as u32).to_le_bytes());
        out.extend([0; 4]);
        out.extend(data);
        for head in heads.chunks_exact(4) {
            out.extend([head[0], head[1], head[2], 0, head[3], 0, 0, 0]);
        }
        let hash = XxHash3_128::oneshot(&out[from..]).to_le_bytes();
        out.extend(hash);
        digest.update(&hash);
        pieces += 1;
        bytes = rest;
    }
    out.extend(u32::MAX.to_le_bytes());
    out.extend([0; 4]);
    out.extend(pieces.to_le_bytes());
    out.extend([0; 8]);
    out.extend(digest.finalize().as_bytes());
    out
}
