//! Three-way merge of regions: base is T0, theirs the source's bytes at the end, ours the destination's now.
//!
//! A value only one side changed is taken. A value both changed follows the merge type of the range it is in,
//! as the destination's region header declares; the header itself and bytes outside of every range are
//! `abort`: changed on both sides they fail the merge before anything is written. A region without a header
//! is all such bytes.
//!
//! The destination must be paused from before [`merge`] until it returned.

use std::path::Path;

use tidegate_region::{HEADER_BYTES, Header, MAGIC, MergeType, Range};

use crate::{
    Mapping, MemoryError, ObjectKind,
    diff::{Diff, RegionDiff, Run},
    error::Conflict,
    redo::{self, Redo, Stage, Write},
};

/// Most conflicts kept with their values; all are counted.
const MAX_LISTED: usize = 1000;
const MAX_WIDTH: usize = 8;

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the destination that changed.
    pub merged_bytes: u64,
    /// Values changed on both sides of which one was given up, the first 1000.
    pub conflicts: Vec<Conflict>,
    /// How many there are.
    pub conflict_count: u64,
}

/// Merge `diff` into the destination's regions, all or nothing. `dir` belongs to this migration and keeps
/// how far it came: run again after a crash this carries the same result through, and once it is done it only
/// answers the report.
///
/// # Errors
/// [`MemoryError::Conflicts`] with nothing applied; [`MemoryError::Mismatch`] when a region is missing or
/// of another size; [`MemoryError::Header`].
pub fn merge(
    dir: &Path,
    diff: &Diff,
    regions: &[(String, Mapping)],
) -> Result<Report, MemoryError> {
    let redo = match redo::stage(dir)? {
        Stage::Done(report) => return Ok(report),
        Stage::Computed(redo) => redo,
        Stage::NotBegun => {
            let redo = compute(diff, regions)?;
            redo::store(dir, &redo)?;
            redo
        }
    };
    for (name, writes) in &redo.regions {
        let region = find(regions, name)?;
        for write in writes {
            region.write(write.offset, &write.bytes)?;
        }
    }
    redo::finish(dir)?;
    Ok(redo.report)
}

/// Whether a merge in `dir` was computed: from then on its diff must not be replaced.
///
/// # Errors
/// [`MemoryError::Damaged`] when what is there cannot be read.
pub fn has_begun(dir: &Path) -> Result<bool, MemoryError> {
    Ok(!matches!(redo::stage(dir)?, Stage::NotBegun))
}

/// The report of a merge in `dir` that is done.
///
/// # Errors
/// [`MemoryError::Damaged`] when what is there cannot be read.
pub fn finished(dir: &Path) -> Result<Option<Report>, MemoryError> {
    Ok(match redo::stage(dir)? {
        Stage::Done(report) => Some(report),
        Stage::NotBegun | Stage::Computed(_) => None,
    })
}

fn find<'a>(regions: &'a [(String, Mapping)], name: &str) -> Result<&'a Mapping, MemoryError> {
    let found = regions.iter().find(|(candidate, _)| candidate == name);
    found.map(|(_, mapping)| mapping).ok_or_else(|| MemoryError::Mismatch {
        object: ObjectKind::Region(name.to_owned()),
        reason: "the destination has no such region".to_owned(),
    })
}

pub(crate) fn compute(diff: &Diff, regions: &[(String, Mapping)]) -> Result<Redo, MemoryError> {
    let mut redo = Redo::default();
    let mut refused = Vec::new();
    let mut refused_count = 0;
    for region in &diff.regions {
        let ours = find(regions, &region.name)?;
        if ours.size_bytes() != region.size_bytes {
            let reason =
                format!("{} bytes at the source, {} here", region.size_bytes, ours.size_bytes());
            return Err(MemoryError::Mismatch {
                object: ObjectKind::Region(region.name.clone()),
                reason,
            });
        }
        let mut merger = Merger { region, ours, ranges: &[], writes: Vec::new(), both: Vec::new() };
        let header = header(region, ours)?;
        merger.ranges = header.as_ref().map_or(&[], Header::ranges);
        for run in &region.runs {
            merger.run(run)?;
        }
        for conflict in merger.both {
            let (list, count) = if conflict.resolution == MergeType::Abort {
                (&mut refused, &mut refused_count)
            } else {
                (&mut redo.report.conflicts, &mut redo.report.conflict_count)
            };
            *count += 1;
            if list.len() < MAX_LISTED {
                list.push(conflict);
            }
        }
        redo.report.merged_bytes +=
            merger.writes.iter().map(|write| write.bytes.len() as u64).sum::<u64>();
        redo.regions.push((region.name.clone(), merger.writes));
    }
    if refused_count > 0 {
        return Err(MemoryError::Conflicts { conflicts: refused, total: refused_count });
    }
    Ok(redo)
}

fn header(region: &RegionDiff, ours: &Mapping) -> Result<Option<Header>, MemoryError> {
    let invalid = |error| MemoryError::Header { region: region.name.clone(), error };
    if ours.size_bytes() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; HEADER_BYTES];
    ours.read(0, &mut bytes)?;
    if bytes[..MAGIC.len()] != MAGIC {
        return Ok(None);
    }
    let header = Header::parse(&bytes).map_err(invalid)?;
    if header.size_bytes() == ours.size_bytes() {
        return Ok(Some(header));
    }
    let reason =
        format!("its header is for {} bytes, it has {}", header.size_bytes(), ours.size_bytes());
    Err(MemoryError::Mismatch { object: ObjectKind::Region(region.name.clone()), reason })
}

/// Merges one region's runs.
struct Merger<'a> {
    region: &'a RegionDiff,
    ours: &'a Mapping,
    ranges: &'a [Range],
    writes: Vec<Write>,
    /// Values changed on both sides whose merge gives one up.
    both: Vec<Conflict>,
}

impl Merger<'_> {
    fn run(&mut self, run: &Run) -> Result<(), MemoryError> {
        let mut ours = vec![0; run.base.len()];
        self.ours.read(run.offset, &mut ours)?;
        let end = run.offset + run.base.len() as u64;
        let mut at = run.offset;
        while at < end {
            let (merge_type, width, until) = self.typed(at);
            let until = until.min(end);
            if width > 1 && !self.is_whole(at, until, width) {
                return Err(MemoryError::Mismatch {
                    object: ObjectKind::Region(self.region.name.clone()),
                    reason: format!("a run at {at} holds part of a {width}-byte value"),
                });
            }
            for value in (at..until).step_by(width) {
                let from = (value - run.offset) as usize;
                let bytes = from..from + width;
                let sides = Sides {
                    base: &run.base[bytes.clone()],
                    ours: &ours[bytes.clone()],
                    theirs: &run.theirs[bytes],
                };
                self.value(value, merge_type, &sides);
            }
            at = until;
        }
        Ok(())
    }

    /// Type and width of the value at an offset, and where the next range or gap begins.
    fn typed(&self, at: u64) -> (MergeType, usize, u64) {
        let next = self.ranges.partition_point(|range| range.end() <= at);
        match self.ranges.get(next) {
            Some(range) if range.offset <= at => {
                (range.merge_type, range.width as usize, range.end())
            }
            Some(range) => (MergeType::Abort, 1, range.offset),
            None => (MergeType::Abort, 1, u64::MAX),
        }
    }

    /// Ranges start at multiples of their width, so whole values do too.
    fn is_whole(&self, at: u64, until: u64, width: usize) -> bool {
        at.is_multiple_of(width as u64) && until.is_multiple_of(width as u64)
    }

    fn value(&mut self, offset: u64, merge_type: MergeType, sides: &Sides<'_>) {
        let Sides { base, ours, theirs } = *sides;
        if theirs == base {
            return;
        }
        if ours == base {
            self.write(offset, theirs);
            return;
        }
        let mut merged = [0; MAX_WIDTH];
        let merged = &mut merged[..base.len()];
        sides.merge(merge_type, merged);
        let gives_one_up = matches!(
            merge_type,
            MergeType::SourceWins | MergeType::DestinationWins | MergeType::Abort
        );
        if gives_one_up {
            self.both.push(Conflict {
                region: self.region.name.clone(),
                offset,
                base: base.to_vec(),
                ours: ours.to_vec(),
                theirs: theirs.to_vec(),
                resolution: merge_type,
            });
        }
        if merged != ours {
            self.write(offset, merged);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        match self.writes.last_mut() {
            Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => self.writes.push(Write { offset, bytes: bytes.to_vec() }),
        }
    }
}

/// One value as the three sides have it.
struct Sides<'a> {
    base: &'a [u8],
    ours: &'a [u8],
    theirs: &'a [u8],
}

impl Sides<'_> {
    /// The value when both sides changed it; for `abort` it is not used.
    fn merge(&self, merge_type: MergeType, into: &mut [u8]) {
        let (base, ours, theirs) = (number(self.base), number(self.ours), number(self.theirs));
        let merged = match merge_type {
            MergeType::Sum => ours.wrapping_add(theirs).wrapping_sub(base),
            MergeType::Max => ours.max(theirs),
            MergeType::Min => ours.min(theirs),
            MergeType::Or => ours | theirs,
            MergeType::SourceWins => theirs,
            MergeType::DestinationWins | MergeType::Abort | MergeType::AppendLog => ours,
        };
        // Cutting off the upper bytes is what wraps a sum at the value's width.
        into.copy_from_slice(&merged.to_le_bytes()[..into.len()]);
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; MAX_WIDTH];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

#[cfg(test)]
mod tests;
