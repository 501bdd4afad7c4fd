use std::fs;

use proptest::prelude::*;

use tidegate_region::{HEADER_BYTES, Header, Range, log};

use super::*;
use crate::{diff::Runs, error::Cause, twin};

const SIZE: usize = 3 * HEADER_BYTES;

const LOG_BYTES: u64 = 128;

/// Ranges of every type and width, with gaps.
fn ranges() -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut offset = HEADER_BYTES as u64 + 16;
    for merge_type in MergeType::ALL {
        for &width in merge_type.widths() {
            let len_bytes = if merge_type == MergeType::AppendLog { LOG_BYTES } else { 48 };
            ranges.push(Range { offset, len_bytes, merge_type, width });
            offset += len_bytes + 16;
        }
    }
    ranges
}

fn logs() -> impl Iterator<Item = Range> {
    ranges().into_iter().filter(|range| range.merge_type == MergeType::AppendLog)
}

fn span(range: &Range) -> std::ops::Range<usize> {
    range.offset as usize..range.end() as usize
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
        for range in logs() {
            // What is behind the length is whatever was there: often just what will be appended.
            let bytes = &mut base[span(&range)];
            bytes[..if range.width < 4 { 8 } else { LOG_BYTES as usize }].fill(0);
            for value in [1, 2] {
                log::append(bytes, range.width, &vec![value; 2 * range.width as usize])
                    .expect("room");
            }
        }
        let mapping = |name: &str| {
            let mapping = Mapping::create(&dir.path().join(name), SIZE as u64).expect("map");
            mapping.write(0, &base).expect("write");
            mapping
        };
        let (now, ours) = (mapping("now"), mapping("ours"));
        // T0, taken as it is of a guest.
        let kind = ObjectKind::Region("r".to_owned());
        let captured = dir.path().join("twin");
        let sources = [(kind.clone(), now.path().to_owned())];
        twin::Prepared::new(&captured, &sources, 0).and_then(|it| it.fill()).expect("captured");
        let twin = Mapping::open(&twin::path_of(&captured, &kind)).expect("twin");
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
        if let Some(range) = range.filter(|range| range.merge_type == MergeType::AppendLog) {
            let span = span(range);
            let sides = [base, ours, theirs].map(|side| &side[span.clone()]);
            match model_log(sides, range.width) {
                Some(log) => out[span.clone()].copy_from_slice(&log),
                None => refused.push(at),
            }
            at = span.end;
            continue;
        }
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
                MergeType::AppendLog => unreachable!(),
                MergeType::Abort => {
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

/// A log of ours with the records that theirs has behind base's; none when they do not fit.
fn model_log([base, ours, theirs]: [&[u8]; 3], width: u32) -> Option<Vec<u8>> {
    let records = |side| log::records(side, width).expect("valid");
    let mut out = ours.to_vec();
    let appended = &records(theirs)[records(base).len()..];
    if !appended.is_empty() {
        log::append(&mut out, width, appended).ok()?;
    }
    Some(out)
}

type Writes = Vec<(usize, u8)>;

/// What one side does: writes of bytes outside of logs, and records appended to logs.
#[derive(Clone, Debug)]
struct Changes {
    writes: Writes,
    records: Vec<(usize, Vec<u8>)>,
}

fn changes() -> impl Strategy<Value = Changes> {
    let writes = prop::collection::vec((HEADER_BYTES..HEADER_BYTES + 1400, any::<u8>()), 0..120);
    let units = prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 1..4);
    let records = prop::collection::vec((0_usize..4, units), 0..12);
    (writes, records).prop_map(|(mut writes, records)| {
        writes.retain(|(at, _)| logs().all(|log| !span(&log).contains(at)));
        let bytes = |units: Vec<u8>, width| {
            units.into_iter().flat_map(|unit| std::iter::repeat_n(unit, width)).collect()
        };
        let records = records.into_iter().map(|(log, units)| (log, bytes(units, 1 << log)));
        Changes { writes, records: records.collect() }
    })
}

fn apply(mapping: &Mapping, base: &[u8], changes: &Changes) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for (at, byte) in &changes.writes {
        bytes[*at] = *byte;
    }
    for (log, record) in &changes.records {
        let range = logs().nth(*log).expect("there are four");
        // Until it is full.
        let _ = log::append(&mut bytes[span(&range)], range.width, record);
    }
    mapping.write(0, &bytes).expect("write");
    bytes
}

fn without_meetings(ours: &Changes, theirs: &mut Changes) {
    let meets = |at: &usize| forbids_both(*at) && ours.writes.iter().any(|(ours, _)| ours == at);
    theirs.writes.retain(|(at, _)| !meets(at));
}

/// Whether a byte may be changed on one side only.
fn forbids_both(at: usize) -> bool {
    let range = ranges().into_iter().find(|r| (r.offset..r.end()).contains(&(at as u64)));
    range.is_none_or(|range| range.merge_type == MergeType::Abort)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn merging_equals_the_naive_model(
        ours in changes(), mut theirs in changes(), meet in any::<bool>(),
    ) {
        let rig = Rig::new();
        if !meet {
            without_meetings(&ours, &mut theirs);
        }
        let our_bytes = apply(rig.ours(), &rig.base, &ours);
        let their_bytes = apply(&rig.now, &rig.base, &theirs);
        let expected = model(&rig.base, &our_bytes, &their_bytes);
        let preview = preview(rig.dir(), &rig.diff(), &rig.regions).expect("previewed");
        prop_assert!(rig.content() == our_bytes, "a preview changes nothing");
        prop_assert_eq!(fs::read_dir(rig.dir()).expect("dir").count(), 3, "and leaves nothing");
        prop_assert_eq!(preview.refused_count as usize, expected.as_ref().err().map_or(0, Vec::len));
        let counted: u64 = preview.report.ranges.iter().map(|range| range.count).sum();
        prop_assert_eq!(counted, preview.refused_count + preview.report.conflict_count);
        match (expected, rig.merge()) {
            (Ok(expected), Ok(report)) => {
                prop_assert!(rig.content() == expected);
                let differ = expected.iter().zip(&our_bytes).filter(|(a, b)| a != b).count();
                prop_assert_eq!(report.merged_bytes, differ as u64);
                prop_assert_eq!(&report, &preview.report);
                prop_assert_eq!(rig.merge().expect("again"), report);
                prop_assert!(rig.content() == expected);
            }
            (Err(expected), Err(MemoryError::Conflicts { conflicts, total })) => {
                prop_assert_eq!(&conflicts, &preview.refused);
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
        ours in changes(), mut theirs in changes(), step in 0_usize..100, cut in any::<prop::sample::Index>(),
    ) {
        let rig = Rig::new();
        without_meetings(&ours, &mut theirs);
        let our_bytes = apply(rig.ours(), &rig.base, &ours);
        let their_bytes = apply(&rig.now, &rig.base, &theirs);
        let Ok(expected) = model(&rig.base, &our_bytes, &their_bytes) else {
            // A log is full; what does not merge is not interrupted.
            return Ok(());
        };
        let computed = compute(&rig.diff(), &rig.regions).expect("computed");
        let redo = computed.redo;
        // Step 0: it dies while the file is written aside. Then: before each write, in the middle of one, after all.
        if step == 0 {
            redo::store(rig.dir(), &redo).expect("stored");
            let bytes = fs::read(rig.dir().join("merge.redo")).expect("redo");
            fs::remove_file(rig.dir().join("merge.redo")).expect("removed");
            fs::write(rig.dir().join("merge.tmp"), &bytes[..cut.index(bytes.len())]).expect("part");
            prop_assert!(!has_begun(rig.dir()).expect("readable"));
        } else {
            redo::store(rig.dir(), &redo).expect("stored");
            prop_assert!(has_begun(rig.dir()).expect("readable"));
            let writes = &redo.regions[0].1;
            for (index, write) in writes.iter().enumerate().take(step) {
                let half = if index + 1 == step { cut.index(write.bytes.len()) } else { write.bytes.len() };
                rig.ours().write(write.offset, &write.bytes[..half]).expect("half");
            }
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

/// What a merge does with one log, each side having done something to it at an offset in its range.
fn log_merged(
    ours: &[(u64, &[u8])],
    theirs: &[(u64, &[u8])],
) -> (Rig, Range, Result<Report, MemoryError>) {
    let rig = Rig::new();
    let range = logs().next().expect("width 1");
    for (side, writes) in [(rig.ours(), ours), (&rig.now, theirs)] {
        for (at, bytes) in writes {
            side.write(range.offset + at, bytes).expect("write");
        }
    }
    let merged = rig.merge();
    (rig, range, merged)
}

#[test]
fn a_log_that_cannot_be_merged_says_why() {
    // At T0 each log has four records of one byte.
    let refused = |ours: &[(u64, &[u8])], theirs: &[(u64, &[u8])]| {
        let (rig, range, merged) = log_merged(ours, theirs);
        let before = rig.content();
        let MemoryError::Conflicts { conflicts, total } = merged.expect_err("refused") else {
            panic!("conflicts");
        };
        assert!(rig.content() == before);
        assert_eq!(total, 1);
        (conflicts[0].cause, conflicts[0].offset - range.offset, conflicts[0].to_string())
    };
    let (cause, at, text) = refused(&[(0, &[100])], &[(0, &[30])]);
    assert_eq!((cause, at), (Cause::LogFull, 0));
    assert!(text.contains("destination 0x6400000000000000, source 0x1e00000000000000"), "{text}");
    assert!(text.contains("(append-log, log full)"), "{text}");
    assert_eq!(refused(&[], &[(0, &[3])]).0, Cause::LogShortened);
    assert_eq!(refused(&[(0, &[3])], &[(0, &[5])]).0, Cause::LogShortened);
    assert_eq!(refused(&[], &[(0, &[121])]).0, Cause::LogLength);
    assert_eq!(refused(&[(0, &[255; 8])], &[(0, &[5])]).0, Cause::LogLength);
    let (cause, at, text) = refused(&[], &[(9, &[7]), (0, &[5])]);
    assert_eq!((cause, at), (Cause::LogRewritten, 8));
    assert!(text.contains("T0 0x01010202, destination 0x01010202, source 0x01070202"), "{text}");
}

#[test]
fn half_a_record_is_no_record() {
    let (rig, range, merged) = log_merged(&[(12, &[8]), (0, &[5])], &[(12, &[9, 9, 9])]);
    assert_eq!(merged.expect("merged").merged_bytes, 0);
    let bytes = &rig.content()[span(&range)];
    assert_eq!(log::records(bytes, 1).expect("valid"), [1, 1, 2, 2, 8]);
}

#[test]
fn services_that_differ_are_not_merged() {
    let with = |schema_version, generation, ranges: &[Range]| {
        let rig = Rig::new();
        let mut header = [0; HEADER_BYTES];
        let changed = Header::new(schema_version, generation, SIZE as u64, ranges);
        changed.expect("header").encode(&mut header);
        rig.now.write(HEADER_BYTES as u64 + 16, &[1]).expect("write");
        let diff = rig.diff();
        rig.ours().write(0, &header).expect("write");
        merge(rig.dir(), &diff, &rig.regions).expect_err("refused")
    };
    let error = with(2, 1, &ranges());
    assert!(matches!(error, MemoryError::Schema { source_version: 1, destination_version: 2, .. }));
    let text = error.to_string();
    assert!(text.contains("schema version 1 at the source and 2 at the destination"), "{text}");
    let text = with(1, 2, &ranges()).to_string();
    assert!(text.contains("generation is 1 at the source and 2 here"), "{text}");
    let text = with(1, 1, &ranges()[1..]).to_string();
    assert!(text.contains("other ranges"), "{text}");

    // The source's service began anew: what was there at T0 says nothing about what is there now.
    let rig = Rig::new();
    rig.now.write(24, &[2]).expect("generation");
    let error = Diff::default().compare("r", &rig.twin, &rig.now).expect_err("refused");
    assert!(error.to_string().contains("generation 1 and schema version 1 then, 2 and 1 now"));
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
fn bytes_outside_of_ranges_changed_on_both_sides_are_a_conflict() {
    let rig = Rig::new();
    rig.ours().write(HEADER_BYTES as u64, &[9]).expect("write");
    rig.now.write(HEADER_BYTES as u64, &[8]).expect("write");
    let error = rig.merge().expect_err("conflict").to_string();
    assert!(error.contains("offset 4096") && error.contains("(abort)"), "{error}");
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
    let mut runs = Runs::default();
    runs.push(wide + 1, &[0; 4], &[1; 4]);
    diff.regions[0].runs = runs;
    let error = merge(rig.dir(), &diff, &rig.regions).expect_err("part").to_string();
    assert!(error.contains("part of a 8-byte value"), "{error}");

    // A log's change without its length, and records that are not all there.
    let log = logs().next().expect("there").offset;
    for (runs, expected) in [
        (vec![(log + 16, vec![0; 8], vec![1; 8])], "its length is missing"),
        (vec![(log + 4, vec![0; 4], vec![1; 4])], "part of a log's length"),
        (vec![(log, 4_u64.to_le_bytes().into(), 9_u64.to_le_bytes().into())], "are missing"),
    ] {
        let mut diff = rig.diff();
        diff.regions[0].runs = Runs::default();
        for (at, base, theirs) in runs {
            diff.regions[0].runs.push(at, &base, &theirs);
        }
        let error = merge(rig.dir(), &diff, &rig.regions).expect_err("log").to_string();
        assert!(error.contains(expected), "{error}");
    }

    rig.ours().write(8, &[99]).expect("version");
    let error = rig.merge().expect_err("header").to_string();
    assert!(error.contains("region `r` cannot be merged"), "{error}");
}

#[test]
fn a_damaged_redo_file_is_not_applied() {
    let rig = Rig::new();
    rig.now.write(HEADER_BYTES as u64, &[1]).expect("write");
    let computed = compute(&rig.diff(), &rig.regions).expect("computed");
    redo::store(rig.dir(), &computed.redo).expect("stored");
    let path = rig.dir().join("merge.redo");
    let good = fs::read(&path).expect("redo");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).expect("damage");
        assert!(rig.merge().is_err(), "byte {at}");
    }
    fs::write(&path, &good[..good.len() - 1]).expect("cut");
    assert!(rig.merge().is_err());
    assert!(rig.content() == rig.base);
}
