//! What changed in regions since T0: runs of bytes with their value at T0 and now.
//!
//! Runs start and end at multiples of [`ALIGN_BYTES`] (or the region's end), so that a value of any width a
//! region can declare lies in a run whole or not at all.
//!
//! A diff travels and is kept in this layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `TGDIFF` and two zeros |
//! | 4 | version, 1 |
//! | 4 | number of regions, at most 256 |
//! | each region | |
//! | 2, n | name's length and name |
//! | 8 | region's size, not zero |
//! | 8 | number of runs |
//! | each run | ascending, not overlapping, inside the region |
//! | 8 | offset |
//! | 4 | length n, 1 to 65536 |
//! | n, n | bytes at T0, bytes now |

use std::sync::{Mutex, PoisonError};

pub use crate::scan::Figures;
use crate::{
    Mapping, MemoryError, Object, ObjectKind,
    object::checked_name,
    parallel::in_parallel_with,
    runs::WORD_BYTES,
    scan::{Compared, GROUP_BYTES, Scanner, Twin},
    wire::{Reader, Short, Writer},
};

/// Runs are widened to this.
pub const ALIGN_BYTES: usize = WORD_BYTES;
/// Changed words that are no further apart are one run: a run's own overhead is more than the gap.
pub(crate) const GAP_WORDS: usize = 1;
/// Longest run.
const MAX_RUN_BYTES: usize = GROUP_BYTES;
const MAGIC: [u8; 8] = *b"TGDIFF\0\0";
const VERSION: u32 = 1;
const MAX_REGIONS: usize = 256;

/// Bytes that changed, and what surrounds them up to the alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the region.
    pub offset: u64,
    /// At T0.
    pub base: Vec<u8>,
    /// Now, at the source; as long as `base`.
    pub theirs: Vec<u8>,
}

/// What changed in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDiff {
    /// The region.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Ascending, not overlapping.
    pub runs: Vec<Run>,
}

/// What changed in a guest's regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// One entry for each region compared.
    pub regions: Vec<RegionDiff>,
}

impl Diff {
    /// Compare a region with its twin. The guest must be paused: a value caught half written would count.
    ///
    /// # Errors
    /// [`MemoryError::Mismatch`] when the sizes differ.
    pub fn compare(
        &mut self,
        name: &str,
        twin: &Mapping,
        now: &Mapping,
    ) -> Result<Figures, MemoryError> {
        let kind = ObjectKind::Region(name.to_owned());
        let size_bytes = twin.size_bytes();
        let object = Object { kind, size_bytes };
        let compared = Compared { object, twin: Twin::Bytes(twin), now };
        compared.check()?;
        let found = Mutex::new((Vec::new(), Figures::default()));
        in_parallel_with(&compared.pieces()?, Scanner::default, |scanner, piece| {
            let (mut runs, mut figures) = (Vec::new(), Figures::default());
            scanner.piece(&compared, piece, &mut |group| {
                let base = group.base.unwrap_or_default();
                figures.changed_bytes += group.runs(GAP_WORDS, |run| {
                    figures.runs += 1;
                    figures.run_bytes += run.len() as u64;
                    runs.push(Run {
                        offset: group.start + run.start as u64,
                        base: base[run.clone()].to_vec(),
                        theirs: group.theirs[run].to_vec(),
                    });
                });
            })?;
            figures += scanner.looked_at(piece);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0.append(&mut runs);
            found.1 += figures;
            Ok(())
        })?;
        let (mut runs, figures) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        runs.sort_unstable_by_key(|run| run.offset);
        self.regions.push(RegionDiff { name: name.to_owned(), size_bytes, runs });
        Ok(figures)
    }

    /// The bytes that travel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&MAGIC).u32(VERSION).len(self.regions.len());
        for region in &self.regions {
            out.name(&region.name).u64(region.size_bytes).u64(region.runs.len() as u64);
            for run in &region.runs {
                out.u64(run.offset).len(run.base.len()).bytes(&run.base).bytes(&run.theirs);
            }
        }
        out.0
    }

    /// Read what [`Self::encode`] wrote, trusting nothing.
    ///
    /// # Errors
    /// [`MemoryError::Damaged`] with the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, MemoryError> {
        decode(bytes).map_err(|reason| MemoryError::Damaged { what: "the diff", reason })
    }
}

fn decode(bytes: &[u8]) -> Result<Diff, String> {
    let mut reader = Reader::new(bytes);
    let short = |_: Short| Short.to_string();
    if reader.array().map_err(short)? != MAGIC {
        return Err("it does not start with the magic".to_owned());
    }
    let version = reader.u32().map_err(short)?;
    if version != VERSION {
        return Err(format!("version {version} is not supported, only {VERSION} is"));
    }
    let count = reader.len().map_err(short)?;
    if count > MAX_REGIONS {
        return Err(format!("{count} regions are more than {MAX_REGIONS}"));
    }
    let mut regions = Vec::with_capacity(count);
    for _ in 0..count {
        regions.push(decode_region(&mut reader)?);
    }
    match reader.left() {
        0 => Ok(Diff { regions }),
        left => Err(format!("{left} bytes follow the last region")),
    }
}

fn decode_region(reader: &mut Reader<'_>) -> Result<RegionDiff, String> {
    let short = |_: Short| Short.to_string();
    let name = reader.name().map_err(short)?;
    let name = checked_name(name).map_err(|error| error.to_string())?.to_owned();
    let size_bytes = reader.u64().map_err(short)?;
    let count = reader.u64().map_err(short)?;
    // No allocation by a number that a peer chose: each run takes bytes that must be there.
    let mut runs = Vec::new();
    let mut free_from = 0;
    for _ in 0..count {
        let offset = reader.u64().map_err(short)?;
        let len = reader.len().map_err(short)?;
        let end = offset.checked_add(len as u64).filter(|end| *end <= size_bytes);
        let Some(end) = end else {
            return Err(format!("{len} bytes at {offset} lie outside region `{name}`"));
        };
        if len == 0 || len > MAX_RUN_BYTES || offset < free_from {
            return Err(format!(
                "run of {len} bytes at {offset} of region `{name}` is not allowed"
            ));
        }
        free_from = end;
        let base = reader.bytes(len).map_err(short)?.to_vec();
        let theirs = reader.bytes(len).map_err(short)?.to_vec();
        runs.push(Run { offset, base, theirs });
    }
    Ok(RegionDiff { name, size_bytes, runs })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            Figures {
                compared_bytes: 4096,
                dirty_pages: 1,
                changed_bytes: 3,
                runs: 2,
                run_bytes: 32
            }
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
        assert!(changed(8, &[2]).contains("version 2"));
        assert!(changed(12, &[255; 4]).contains("4294967295 regions"));
        // Name of one byte at 18, size at 19, count at 27, offset at 35, length at 43.
        assert!(changed(18, b"/").contains("not a region's name"));
        assert!(changed(27, &[255; 8]).contains("in the middle"));
        assert!(changed(35, &[255; 8]).contains("outside"));
        assert!(changed(43, &[255; 4]).contains("outside"));
        assert!(changed(43, &[0; 4]).contains("not allowed"));
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
            for run in &diff.regions[0].runs {
                let at = run.offset as usize;
                prop_assert_eq!(at % ALIGN_BYTES, 0);
                prop_assert_eq!(&base[at..at + run.base.len()], &run.base[..]);
                rebuilt[at..at + run.theirs.len()].copy_from_slice(&run.theirs);
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
}
