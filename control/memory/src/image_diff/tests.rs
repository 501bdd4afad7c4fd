use std::{path::Path, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{
    Mapping, MemoryError,
    page_hashes::PageHashes,
    scan::{Compared, Twin},
};

const SIZES: [usize; 2] = [3 * PIECE_BYTES as usize - 4096, 8192];

/// A guest of RAM and one region: as of T0, at the source and at the destination.
struct Rig {
    _dir: tempfile::TempDir,
    twin: [Mapping; 2],
    now: [Mapping; 2],
    ours: [Mapping; 2],
    hashes: [PageHashes; 2],
}

fn kinds() -> [ObjectKind; 2] {
    [ObjectKind::Ram, ObjectKind::Region("r".to_owned())]
}

fn base(size: usize) -> Vec<u8> {
    static BASE: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..SIZES[0]).map(|at| (at / 7) as u8).collect());
    BASE[..size].to_vec()
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let make = |name: &str| {
            SIZES.map(|size| {
                let path = dir.path().join(format!("{name}{size}"));
                let mapping = Mapping::create(&path, size as u64).expect("create");
                mapping.write(0, &base(size)).expect("write");
                mapping
            })
        };
        let (twin, now, ours) = (make("twin"), make("now"), make("ours"));
        let hashes = [&twin[0], &twin[1]].map(|twin| PageHashes::of(twin).expect("hashes"));
        Self { _dir: dir, twin, now, ours, hashes }
    }

    fn compared(&self, hashed: bool) -> Vec<Compared<'_>> {
        let mut compared = Vec::new();
        for (index, kind) in kinds().into_iter().enumerate() {
            let size_bytes = SIZES[index] as u64;
            let twin = if hashed {
                Twin::Hashes(&self.hashes[index])
            } else {
                Twin::Bytes(&self.twin[index])
            };
            compared.push(Compared {
                object: Object { kind, size_bytes },
                twin,
                now: &self.now[index],
            });
        }
        compared
    }

    fn diff(&self, hashed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, &self.compared(hashed)).expect("written");
        out
    }

    fn apply(&self, bytes: &[u8]) -> Result<Applied, MemoryError> {
        let memory: Vec<_> = kinds().into_iter().zip(&self.ours).collect();
        apply(bytes, &memory)
    }

    fn is_same(&self) -> bool {
        self.now.iter().zip(&self.ours).all(|(now, ours)| content(now) == content(ours))
    }
}

fn content(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.size_bytes() as usize];
    mapping.read(0, &mut bytes).expect("read");
    bytes
}

/// Writes to RAM (object 0) and region (1): which, where, what.
fn writes() -> impl Strategy<Value = Vec<(usize, prop::sample::Index, Vec<u8>)>> {
    let bytes = prop::collection::vec(any::<u8>(), 1..200);
    prop::collection::vec((0_usize..2, any::<prop::sample::Index>(), bytes), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_destination_becomes_the_source(
        writes in writes(), hashed in any::<bool>(), cut in any::<prop::sample::Index>(),
    ) {
        let rig = Rig::new();
        let mut changed = [base(SIZES[0]), base(SIZES[1])];
        for (object, at, bytes) in &writes {
            let at = at.index(SIZES[*object] - bytes.len());
            changed[*object][at..at + bytes.len()].copy_from_slice(bytes);
            rig.now[*object].write(at as u64, bytes).expect("write");
        }
        let mut diff = Vec::new();
        let figures = write(&mut diff, &rig.compared(hashed)).expect("written");
        for (object, figures) in figures.iter().enumerate() {
            let was = base(SIZES[object]);
            let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a != b).count();
            let pages = was.chunks(4096).zip(changed[object].chunks(4096));
            let pages: Vec<_> = pages.filter(|(a, b)| a != b).collect();
            let dirty = pages.len() as u64;
            let changed: usize = pages.iter().map(|(a, b)| differ(a, b)).sum();
            let bytes = if hashed { dirty * 4096 } else { changed as u64 };
            prop_assert_eq!((figures.dirty_pages, figures.changed_bytes), (dirty, bytes));
            prop_assert_eq!(figures.compared_bytes, SIZES[object] as u64);
        }
        // Interrupted anywhere, then done again, and again.
        let cut = cut.index(diff.len());
        rig.apply(&diff[..cut]).expect_err("not whole");
        let applied = rig.apply(&diff).expect("applied");
        prop_assert!(rig.is_same());
        prop_assert_eq!(applied.runs, figures.iter().map(|figures| figures.runs).sum::<u64>());
        prop_assert_eq!(applied.bytes, figures.iter().map(|f| f.run_bytes).sum::<u64>());
        prop_assert_eq!(rig.apply(&diff).expect("applied"), applied);
        prop_assert!(rig.is_same());
        let most = figures.iter().map(packed_bytes).sum::<u64>();
        prop_assert!(diff.len() as u64 <= most + 16 + 11 + 12 + 56, "{} of {most}", diff.len());
    }

    #[test]
    fn noise_never_panics(at in 0_usize..200, noise in prop::collection::vec(any::<u8>(), 1..40)) {
        let rig = Rig::new();
        rig.now[0].write(5, &[9; 100]).expect("write");
        let mut diff = rig.diff(false);
        let at = at.min(diff.len() - 1);
        let end = diff.len().min(at + noise.len());
        let same = diff[at..end] == noise[..end - at];
        diff[at..end].copy_from_slice(&noise[..end - at]);
        prop_assert_eq!(rig.apply(&diff).is_ok(), same);
    }
}

/// A guest's untouched memory is a hole; looking must not fill it.
#[test]
fn holes_stay_holes_and_count_as_zeros() {
    // Where guests' memory is; on a disk reading a hole allocates nothing anyhow.
    let dir = tempfile::tempdir_in("/dev/shm").expect("a tmpfs at /dev/shm");
    let size_bytes = 2 * PIECE_BYTES;
    let make = |name: &str| Mapping::create(&dir.path().join(name), size_bytes).expect("create");
    let (twin, now, ours) = (make("twin"), make("now"), make("ours"));
    // Given back by the guest since T0.
    for memory in [&twin, &ours] {
        memory.write(4096, &[7; 4096]).expect("write");
    }
    let object = Object { kind: ObjectKind::Ram, size_bytes };
    let compared = [Compared { object, twin: Twin::Bytes(&twin), now: &now }];
    let mut diff = Vec::new();
    let figures = write(&mut diff, &compared).expect("written");
    assert_eq!((figures[0].dirty_pages, figures[0].changed_bytes), (1, 4096));
    apply(&diff[..], &[(ObjectKind::Ram, &ours)]).expect("applied");
    assert!(content(&ours).iter().all(|byte| *byte == 0));
    assert_eq!(blocks(now.path()), 0, "nothing was allocated by looking");
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("file").blocks()
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let rig = Rig::new();
    rig.now[0].write(0, &[9; 8]).expect("write");
    let diff = rig.diff(false);
    let [ram, region] = kinds();
    let error = apply(&diff[..], &[(ram.clone(), &rig.ours[0])]).expect_err("no region");
    assert!(error.to_string().contains("region `r`: the destination has none"), "{error}");
    let memory = [(ram, &rig.ours[1]), (region, &rig.ours[1])];
    let error = apply(&diff[..], &memory).expect_err("other size").to_string();
    assert!(error.contains("ram: 3141632 bytes at the source, 8192 here"), "{error}");
    assert!(content(&rig.ours[0]) == base(SIZES[0]));
}

#[test]
fn hostile_bytes_are_refused() {
    let rig = Rig::new();
    rig.now[0].write(8, &[9; 8]).expect("write");
    rig.now[0].write(800, &[9; 8]).expect("write");
    let good = rig.diff(false);
    // Two objects in 16 + 11 + 12 bytes; then a head, 16 bytes of data, two runs, a hash.
    let piece = 39;
    assert_eq!(good.len(), piece + 24 + 16 + 16 + 16 + 56);
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        rig.apply(&bad).expect_err("refused").to_string()
    };
    assert!(changed(0, b"X").contains("magic"));
    assert!(changed(8, &[2]).contains("version 2"));
    assert!(changed(12, &[255; 4]).contains("4294967295 objects"));
    assert!(changed(16, &[4]).contains("no place in it"));
    assert!(changed(piece, &[9]).contains("object 9 of 2"));
    assert!(changed(piece + 4, &[255; 4]).contains("not allowed"));
    assert!(changed(piece + 8, &[1]).contains("not allowed"));
    assert!(changed(piece + 8, &[0, 0, 0x30]).contains("not allowed"));
    assert!(changed(piece + 16, &[255; 4]).contains("not allowed"));
    assert!(changed(piece + 20, &[1]).contains("zero must be"));
    assert!(changed(piece + 24, &[1]).contains("does not match its hash"));
    assert!(changed(piece + 72 + 8, &[2]).contains("1 pieces came, END says 2"));
    assert!(changed(piece + 72 + 24, &[!good[piece + 96]]).contains("its digest does not match"));
    // A piece twice.
    let mut twice = good[..piece + 72].to_vec();
    twice.extend_from_slice(&good[piece..]);
    assert!(rig.apply(&twice).expect_err("refused").to_string().contains("came twice"));
    // Runs that lie, under a hash that is right.
    let forged = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let hash = twox_hash::XxHash3_128::oneshot(&bad[piece..piece + 56]).to_le_bytes();
        bad[piece + 56..piece + 72].copy_from_slice(&hash);
        rig.apply(&bad).expect_err("refused").to_string()
    };
    let runs = piece + 40;
    assert!(forged(runs, &[0, 0, 0x10, 0]).contains("a run of 8 bytes at 1048576"));
    assert!(forged(runs + 8, &[0; 4]).contains("a run of 8 bytes at 0"));
    assert!(forged(runs + 4, &[0; 4]).contains("a run of 0 bytes"));
    assert!(forged(runs + 4, &[4]).contains("runs of 12 bytes have 16 bytes"));
}
