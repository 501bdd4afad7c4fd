//! What a merge writes: computed from three sides, before anything is written.

use tidegate_region::{Header, MergeType, Range};

use super::{RangeConflicts, find, log::LogParts};
use crate::{
    Mapping, MemoryError, ObjectKind,
    diff::{Diff, RegionDiff, Run},
    error::{Cause, Conflict},
    header::{check_same, header_of},
    redo::{Redo, Write},
};

/// Most conflicts kept with their values; all are counted.
const MAX_LISTED: usize = 1000;
const MAX_WIDTH: usize = 8;

/// A merge that could be carried out if nothing is refused.
#[derive(Debug, Default)]
pub(crate) struct Computed {
    pub(crate) redo: Redo,
    pub(crate) refused: Vec<Conflict>,
    pub(crate) refused_count: u64,
}

pub(crate) fn compute(diff: &Diff, regions: &[(String, Mapping)]) -> Result<Computed, MemoryError> {
    let mut computed = Computed::default();
    for region in &diff.regions {
        let ours = find(regions, &region.name)?;
        if ours.size_bytes() != region.size_bytes {
            let reason =
                format!("{} bytes at the source, {} here", region.size_bytes, ours.size_bytes());
            let object = ObjectKind::Region(region.name.clone());
            return Err(MemoryError::Mismatch { object, reason });
        }
        let header = header_of(&region.name, ours)?;
        if let (Some(theirs), Some(ours)) = (&region.header, &header) {
            check_same(&region.name, theirs, ours)?;
        }
        let ranges = header.as_deref().map_or(&[][..], Header::ranges);
        let mut merger = Merger {
            region,
            ours,
            ranges,
            writes: Vec::new(),
            log: None,
            computed: &mut computed,
            buffer: Vec::new(),
        };
        merger.runs()?;
        let writes = merger.writes;
        computed.redo.regions.push((region.name.clone(), writes));
    }
    Ok(computed)
}

/// Merges one region's runs.
pub(super) struct Merger<'a> {
    pub(super) region: &'a RegionDiff,
    pub(super) ours: &'a Mapping,
    ranges: &'a [Range],
    writes: Vec<Write>,
    /// The log whose parts are being gathered.
    log: Option<LogParts<'a>>,
    computed: &'a mut Computed,
    buffer: Vec<u8>,
}

impl<'a> Merger<'a> {
    fn runs(&mut self) -> Result<(), MemoryError> {
        let region = self.region;
        for run in region.runs.iter() {
            let end = run.offset + run.base.len() as u64;
            let mut at = run.offset;
            while at < end {
                let (range, until) = self.typed(at);
                let until = until.min(end);
                let bytes = (at - run.offset) as usize..(until - run.offset) as usize;
                let part =
                    Run { offset: at, base: &run.base[bytes.clone()], theirs: &run.theirs[bytes] };
                self.part(&range, &part)?;
                at = until;
            }
        }
        self.end_log()
    }

    /// The range an offset is in, or the gap between ranges as one; and where what follows begins.
    fn typed(&self, at: u64) -> (Range, u64) {
        let next = self.ranges.partition_point(|range| range.end() <= at);
        let gap = |end| {
            let offset = next.checked_sub(1).map_or(0, |previous| self.ranges[previous].end());
            let len_bytes = end - offset;
            (Range { offset, len_bytes, merge_type: MergeType::Abort, width: 1 }, end)
        };
        match self.ranges.get(next) {
            Some(range) if range.offset <= at => (*range, range.end()),
            Some(range) => gap(range.offset),
            None => gap(self.region.size_bytes),
        }
    }

    /// Merge a part of a run that lies in one range.
    fn part(&mut self, range: &Range, part: &Run<'a>) -> Result<(), MemoryError> {
        if self.log.as_ref().is_some_and(|log| log.range.offset != range.offset) {
            self.end_log()?;
        }
        if range.merge_type == MergeType::AppendLog {
            let log = self.log.get_or_insert_with(|| LogParts::new(*range));
            return log.add(part).map_err(|reason| self.mismatch(reason));
        }
        let width = range.width as usize;
        if !part.offset.is_multiple_of(width as u64) || !part.base.len().is_multiple_of(width) {
            let at = part.offset;
            return Err(self.mismatch(format!("a run at {at} holds part of a {width}-byte value")));
        }
        let mut ours = std::mem::take(&mut self.buffer);
        ours.resize(part.base.len(), 0);
        self.ours.read(part.offset, &mut ours)?;
        if ours == part.base {
            self.write(part.offset, &ours, part.theirs);
        } else {
            for at in (0..ours.len()).step_by(width) {
                let bytes = at..at + width;
                let sides = Sides {
                    base: &part.base[bytes.clone()],
                    ours: &ours[bytes.clone()],
                    theirs: &part.theirs[bytes],
                };
                self.value(range, part.offset + at as u64, &sides);
            }
        }
        self.buffer = ours;
        Ok(())
    }

    fn end_log(&mut self) -> Result<(), MemoryError> {
        match self.log.take() {
            Some(log) => log.merge(self),
            None => Ok(()),
        }
    }

    fn value(&mut self, range: &Range, offset: u64, sides: &Sides<'_>) {
        let Sides { base, ours, theirs } = *sides;
        if theirs == base {
            return;
        }
        if ours == base {
            self.write(offset, ours, theirs);
            return;
        }
        let mut merged = [0; MAX_WIDTH];
        let merged = &mut merged[..base.len()];
        sides.merge(range.merge_type, merged);
        let gives_one_up = matches!(
            range.merge_type,
            MergeType::SourceWins | MergeType::DestinationWins | MergeType::Abort
        );
        if gives_one_up {
            self.conflict(range, offset, Cause::BothChanged, [base, ours, theirs]);
        }
        self.write(offset, ours, merged);
    }

    /// Note down values, as of T0, here and at the source, of which one is given up or which refuse the merge.
    pub(super) fn conflict(
        &mut self,
        range: &Range,
        offset: u64,
        cause: Cause,
        [base, ours, theirs]: [&[u8]; 3],
    ) {
        let Computed { redo, refused, refused_count } = &mut *self.computed;
        let report = &mut redo.report;
        let merge_type = range.merge_type;
        let (list, count) = if matches!(merge_type, MergeType::Abort | MergeType::AppendLog) {
            (refused, refused_count)
        } else {
            (&mut report.conflicts, &mut report.conflict_count)
        };
        *count += 1;
        if list.len() < MAX_LISTED {
            list.push(Conflict {
                region: self.region.name.clone(),
                offset,
                base: base.to_vec(),
                ours: ours.to_vec(),
                theirs: theirs.to_vec(),
                resolution: merge_type,
                cause,
            });
        }
        match report.ranges.last_mut() {
            Some(last) if last.region == self.region.name && last.offset == range.offset => {
                last.count += 1;
            }
            _ => report.ranges.push(RangeConflicts {
                region: self.region.name.clone(),
                offset: range.offset,
                len_bytes: range.len_bytes,
                merge_type,
                count: 1,
            }),
        }
    }

    /// Have bytes written where `ours` are, if they differ.
    pub(super) fn write(&mut self, offset: u64, ours: &[u8], bytes: &[u8]) {
        let changed = ours.iter().zip(bytes).filter(|(ours, merged)| ours != merged).count();
        if changed == 0 {
            return;
        }
        self.computed.redo.report.merged_bytes += changed as u64;
        match self.writes.last_mut() {
            Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => self.writes.push(Write { offset, bytes: bytes.to_vec() }),
        }
    }

    pub(super) fn mismatch(&self, reason: String) -> MemoryError {
        MemoryError::Mismatch { object: ObjectKind::Region(self.region.name.clone()), reason }
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
            // Logs have no values.
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
