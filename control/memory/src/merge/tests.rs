use proptest::prelude::*;

use super::*;

const SIZE: usize = 3 * HEADER_BYTES;

/// Ranges of every type and width, with gaps.
fn ranges() -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut offset = HEADER_BYTES as u64 + 16;
    for merge_type in MergeType::ALL.into_iter().take(7) {
        let widths: &[u32] = if merge_type.is_arithmetic() { &[1, 2, 4, 8] } else { &[1] };
        for &width in widths {
            ranges.push(Range { offset, len_bytes: 48, merge_type, width });
            offset += 64;
        }
    }
    ranges
}

struct Rig {
    dir: tempfile::TempDir,
    base: Vec<u8>,
    regions: Vec<(String, Mapping)>,
    twin: Mapping,
    now: Mapping,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let mut base: Vec<u8> = (0..SIZE).map(|at| (at * 7) as u8).collect();
        let mut header = [0; HEADER_BYTES];
        Header::new(1, 1, SIZE as u64, &ranges()).expect("header").encode(&mut header);
        base[..HEADER_BYTES].copy_from_slice(&header);
        let mapping = |name: &str| {
            let mapping = Mapping::create(&dir.path().join(name), SIZE as u64).expect("map");
            mapping.write(0, &base).expect("write");
            mapping
        };
        let (twin, now, ours) = (mapping("twin"), mapping("now"), mapping("ours"));
        Self { regions: vec![("r".to_owned(), ours)], dir, base, twin, now }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn ours(&self) -> &Mapping {
        &self.regions[0].1
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        self.ours().read(0, &mut bytes).expect("read");
        bytes
    }

    fn diff(&self) -> Diff {
        let mut diff = Diff::default();
        diff.compare("r", &self.twin, &self.now).expect("compare");
        diff
    }

    fn merge(&self) -> Result<Report, MemoryError> {
        merge(self.dir(), &self.diff(), &self.regions)
    }
}

/// The merge told value by value over the whole region, without runs: result, or offsets of conflicts.
fn model(base: &[u8], ours: &[u8], theirs: &[u8]) -> Result<Vec<u8>, Vec<usize>> {
    let ranges = ranges();
    let mut out = ours.to_vec();
    let mut refused = Vec::new();
    let mut at = 0;
    while at < base.len() {
        let range = ranges.iter().find(|r| (r.offset..r.end()).contains(&(at as u64)));
        let (kind, width) =
            range.map_or((MergeType::Abort, 1), |r| (r.merge_type, r.width as usize));
        let value = |side: &[u8]| {
            side[at..at + width].iter().rev().fold(0_u128, |n, byte| n << 8 | u128::from(*byte))
        };
        let (b, o, t) = (value(base), value(ours), value(theirs));
        let modulus = 1_u128 << (8 * width);
        let merged = match (t != b, o != b) {
            (false, _) => o,
            (true, false) => t,
            (true, true) => match kind {
                MergeType::Sum => (o + t + modulus - b) % modulus,
                MergeType::Max => o.max(t),
                MergeType::Min => o.min(t),
                MergeType::Or => o | t,
                MergeType::SourceWins => t,
                MergeType::DestinationWins => o,
                MergeType::Abort | MergeType::AppendLog => {
                    refused.push(at);
                    o
                }
            },
        };
        out[at..at + width].copy_from_slice(&merged.to_le_bytes()[..width]);
        at += width;
    }
    if refused.is_empty() { Ok(out) } else { Err(refused) }
}

type Writes = Vec<(usize, u8)>;

/// Writes to the data; `offsets` of them where both sides may not meet are left to the test.
fn writes() -> impl Strategy<Value = Writes> {
    prop::collection::vec((HEADER_BYTES..HEADER_BYTES + 1400, any::<u8>()), 0..120)
}

fn apply(mapping: &Mapping, base: &[u8], writes: &Writes) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for (at, byte) in writes {
        bytes[*at] = *byte;
        mapping.write(*at as u64, &[*byte]).expect("write");
    }
    bytes
}

/// Whether a byte may be changed on one side only.
fn forbids_both(at: usize) -> bool {
    let range = ranges().into_iter().find(|r| (r.offset..r.end()).contains(&(at as u64)));
    range.is_none_or(|range| range.merge_type == MergeType::Abort)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn merging_equals_the_naive_model(ours in writes(), theirs in writes(), meet in any::<bool>()) {
        let rig = Rig::new();
        let mut theirs = theirs;
        if !meet {
            theirs.retain(|(at, _)| !forbids_both(*at) || ours.iter().all(|(o, _)| o != at));
        }
        let our_bytes = apply(rig.ours(), &rig.base, &ours);
        let their_bytes = apply(&rig.now, &rig.base, &theirs);
        match (model(&rig.base, &our_bytes, &their_bytes), rig.merge()) {
            (Ok(expected), Ok(report)) => {
                prop_assert!(rig.content() == expected);
                let differ = expected.iter().zip(&our_bytes).filter(|(a, b)| a != b).count();
                // Whole values are written, so some of the bytes may be as before.
                prop_assert!(report.merged_bytes >= differ as u64);
                prop_assert!(report.merged_bytes <= 8 * differ as u64);
                prop_assert_eq!(rig.merge().expect("again"), report);
                prop_assert!(rig.content() == expected);
            }
            (Err(expected), Err(MemoryError::Conflicts { conflicts, total })) => {
                let found: Vec<_> = conflicts.iter().map(|c| c.offset as usize).collect();
                prop_assert_eq!(total as usize, expected.len());
                prop_assert_eq!(found, expected);
                prop_assert!(rig.content() == our_bytes);
            }
            (expected, found) => prop_assert!(false, "{expected:?} but {found:?}"),
        }
    }

    #[test]
    fn a_merge_interrupted_anywhere_is_carried_through(
        ours in writes(), theirs in writes(), written in 0_usize..100,
    ) {
        let rig = Rig::new();
        let mut theirs = theirs;
        theirs.retain(|(at, _)| !forbids_both(*at) || ours.iter().all(|(o, _)| o != at));
        let our_bytes = apply(rig.ours(), &rig.base, &ours);
        let their_bytes = apply(&rig.now, &rig.base, &theirs);
        let expected = model(&rig.base, &our_bytes, &their_bytes).expect("no conflict");
        let redo = compute(&rig.diff(), &rig.regions).expect("computed");
        redo::store(rig.dir(), &redo).expect("stored");
        prop_assert!(has_begun(rig.dir()).expect("readable"));
        for write in redo.regions[0].1.iter().take(written) {
            rig.ours().write(write.offset, &write.bytes[..write.bytes.len().div_ceil(2)]).expect("half");
        }
        // The process dies here; the next one has only what is on disk.
        prop_assert_eq!(rig.merge().expect("carried through"), redo.report.clone());
        prop_assert!(rig.content() == expected);
        prop_assert_eq!(finished(rig.dir()).expect("readable"), Some(redo.report));
        // Once it is done, the destination's later changes are safe.
        rig.ours().write(SIZE as u64 - 8, b"later...").expect("write");
        rig.merge().expect("nothing to do");
        prop_assert_eq!(&rig.content()[SIZE - 8..], b"later...");
    }
}

#[test]
fn conflicts_that_a_type_decides_are_reported_with_all_values() {
    let rig = Rig::new();
    let range = ranges().into_iter().find(|r| r.merge_type == MergeType::SourceWins);
    let at = range.expect("there").offset;
    rig.ours().write(at, &[1]).expect("write");
    rig.now.write(at, &[2]).expect("write");
    let report = rig.merge().expect("merged");
    assert_eq!((report.conflict_count, report.merged_bytes), (1, 1));
    let shown = report.conflicts[0].to_string();
    let base = rig.base[at as usize];
    assert_eq!(
        shown,
        format!(
            "region `r` offset {at}: T0 0x{base:02x}, destination 0x01, source 0x02 (source-wins)"
        )
    );
    assert_eq!(rig.merge().expect("again"), report, "the report survives");
}

#[test]
fn a_header_changed_on_both_sides_is_a_conflict() {
    let rig = Rig::new();
    rig.ours().write(24, &[9]).expect("generation");
    rig.now.write(24, &[8]).expect("generation");
    let error = rig.merge().expect_err("conflict").to_string();
    assert!(error.contains("offset 24") && error.contains("(abort)"), "{error}");
    assert!(!has_begun(rig.dir()).expect("readable"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let rig = Rig::new();
    rig.now.write(HEADER_BYTES as u64, &[1]).expect("write");
    let mut diff = rig.diff();
    diff.regions[0].name = "other".into();
    let error = merge(rig.dir(), &diff, &rig.regions).expect_err("unknown").to_string();
    assert!(error.contains("has no such region"), "{error}");

    let mut diff = rig.diff();
    diff.regions[0].size_bytes *= 2;
    let error = merge(rig.dir(), &diff, &rig.regions).expect_err("size").to_string();
    assert!(error.contains("24576 bytes at the source, 12288 here"), "{error}");

    // A run that a well-behaved peer would have widened.
    let wide = ranges().into_iter().find(|r| r.width == 8).expect("there").offset;
    let mut diff = rig.diff();
    let run = Run { offset: wide + 1, base: vec![0; 4], theirs: vec![1; 4] };
    diff.regions[0].runs = vec![run];
    let error = merge(rig.dir(), &diff, &rig.regions).expect_err("part").to_string();
    assert!(error.contains("part of a 8-byte value"), "{error}");

    rig.ours().write(8, &[99]).expect("version");
    let error = rig.merge().expect_err("header").to_string();
    assert!(error.contains("region `r` cannot be merged"), "{error}");
}

#[test]
fn a_damaged_redo_file_is_not_applied() {
    let rig = Rig::new();
    rig.now.write(HEADER_BYTES as u64, &[1]).expect("write");
    let redo = compute(&rig.diff(), &rig.regions).expect("computed");
    redo::store(rig.dir(), &redo).expect("stored");
    let path = rig.dir().join("merge.redo");
    let good = std::fs::read(&path).expect("redo");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).expect("damage");
        assert!(rig.merge().is_err(), "byte {at}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).expect("cut");
    assert!(rig.merge().is_err());
    assert!(rig.content() == rig.base);
}
