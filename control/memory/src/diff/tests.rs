use proptest::prelude::*;

use super::*;
use crate::Mapping;

fn mapping(dir: &std::path::Path, name: &str, bytes: &[u8]) -> Mapping {
    let mapping = Mapping::create(&dir.join(name), bytes.len() as u64).expect("create");
    mapping.write(0, bytes).expect("write");
    mapping
}

fn compare(base: &[u8], theirs: &[u8]) -> (Diff, Figures) {
    let dir = tempfile::tempdir().expect("dir");
    let mut diff = Diff::default();
    let (twin, now) = (mapping(dir.path(), "t", base), mapping(dir.path(), "n", theirs));
    let figures = diff.compare("r", &twin, &now).expect("compare");
    (diff, figures)
}

#[test]
fn small_gaps_are_bridged_and_large_ones_are_not() {
    let base = vec![0; 4096];
    let mut now = base.clone();
    now[3] = 1;
    now[17] = 1; // one unchanged word between
    now[100] = 1;
    let (diff, figures) = compare(&base, &now);
    let found: Vec<_> =
        diff.regions[0].runs.iter().map(|run| (run.offset, run.base.len())).collect();
    assert_eq!(found, [(0, 24), (96, 8)]);
    assert_eq!(
        figures,
        Figures { compared_bytes: 4096, dirty_pages: 1, changed_bytes: 3, runs: 2, run_bytes: 32 }
    );
}

#[test]
fn sizes_must_agree() {
    let dir = tempfile::tempdir().expect("dir");
    let (a, b) = (mapping(dir.path(), "a", &[0; 64]), mapping(dir.path(), "b", &[0; 32]));
    assert!(Diff::default().compare("r", &a, &b).is_err());
}

#[test]
fn hostile_bytes_are_refused() {
    let mut now = vec![0; 64];
    now[9] = 1;
    let good = compare(&[0; 64], &now).0.encode();
    assert!(Diff::decode(&good).is_ok());
    for cut in 0..good.len() {
        assert!(Diff::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        Diff::decode(&bad).expect_err("refused").to_string()
    };
    assert!(changed(8, &[1]).contains("version 1"));
    assert!(changed(12, &[255; 4]).contains("4294967295 regions"));
    // Name of one byte at 18, size at 19, header's length at 27, count at 31, offset at 39, length at 47.
    assert!(changed(18, b"/").contains("not a region's name"));
    assert!(changed(19, &[0; 8]).contains("has no bytes"));
    assert!(changed(27, &[1]).contains("a header of 1 bytes"));
    assert!(changed(31, &[255; 8]).contains("in the middle"));
    assert!(changed(39, &[255; 8]).contains("outside"));
    assert!(changed(47, &[255; 4]).contains("outside"));
    assert!(changed(47, &[0; 4]).contains("not allowed"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn runs_turn_the_twin_into_now(
        size in 1_usize..200_000,
        writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
    ) {
        let base: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
        let mut now = base.clone();
        for (index, byte) in writes {
            now[index.index(size)] = byte;
        }
        let (diff, figures) = compare(&base, &now);
        let diff = Diff::decode(&diff.encode()).expect("decode");
        let mut rebuilt = base.clone();
        for run in diff.regions[0].runs.iter() {
            let at = run.offset as usize;
            prop_assert_eq!(at % ALIGN_BYTES, 0);
            prop_assert_eq!(&base[at..at + run.base.len()], run.base);
            rebuilt[at..at + run.theirs.len()].copy_from_slice(run.theirs);
        }
        prop_assert_eq!(&rebuilt, &now);
        let changed = base.iter().zip(&now).filter(|(a, b)| a != b).count() as u64;
        prop_assert_eq!(figures.changed_bytes, changed);
    }

    #[test]
    fn decoding_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = Diff::default().encode();
        bytes[12] = 1;
        bytes.extend(noise);
        let _ = Diff::decode(&bytes);
    }
}
