//! Three-way merge of regions: base is T0, theirs the source's bytes at the end, ours the destination's now.
//!
//! A value only one side changed is taken. A value both changed follows the merge type of the range it is in,
//! as the destination's region header declares; the header itself and bytes outside of every range are
//! `abort`: changed on both sides they fail the merge before anything is written. A region without a header
//! is all such bytes. Logs are merged as a whole ([`tidegate_region::log`]).
//!
//! The destination must be paused from before [`merge`] until it returned. For [`preview`] it may run.

mod compute;
mod log;

pub(crate) use compute::compute;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tidegate_region::MergeType;

use crate::{
    Mapping, MemoryError, ObjectKind,
    diff::Diff,
    error::Conflict,
    redo::{self, Redo, Stage},
};

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the destination that changed.
    pub merged_bytes: u64,
    /// Values changed on both sides of which one was given up, the first 1000.
    pub conflicts: Vec<Conflict>,
    /// How many there are.
    pub conflict_count: u64,
    /// How many there are in each range that has any.
    pub ranges: Vec<RangeConflicts>,
}

/// Conflicts of one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeConflicts {
    /// The region.
    pub region: String,
    /// Where the range is in it.
    pub offset: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// Its merge type; `abort` for bytes outside of every range.
    pub merge_type: MergeType,
    /// Values in conflict.
    pub count: u64,
}

/// What a merge would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// What would be reported, if nothing is refused; `ranges` has the refused ones too.
    pub report: Report,
    /// What would refuse the merge, the first 1000.
    pub refused: Vec<Conflict>,
    /// How many there are.
    pub refused_count: u64,
    /// How long the destination would be stopped, by what each step took here and now.
    pub pause: Duration,
}

/// Merge `diff` into the destination's regions, all or nothing. `dir` belongs to this migration and keeps
/// how far it came: run again after a crash this carries the same result through, and once it is done it only
/// answers the report.
///
/// # Errors
/// [`MemoryError::Conflicts`] with nothing applied; [`MemoryError::Mismatch`] when a region is missing or
/// of another size or generation; [`MemoryError::Schema`]; [`MemoryError::Header`].
pub fn merge(
    dir: &Path,
    diff: &Diff,
    regions: &[(String, Mapping)],
) -> Result<Report, MemoryError> {
    let redo = match redo::stage(dir)? {
        Stage::Done(report) => return Ok(report),
        Stage::Computed(redo) => redo,
        Stage::NotBegun => {
            let computed = compute(diff, regions)?;
            if computed.refused_count > 0 {
                let (conflicts, total) = (computed.refused, computed.refused_count);
                return Err(MemoryError::Conflicts { conflicts, total });
            }
            redo::store(dir, &computed.redo)?;
            computed.redo
        }
    };
    apply(&redo, regions)?;
    redo::finish(dir)?;
    Ok(redo.report)
}

/// Compute what [`merge`] would do and change nothing. While the guests run its values are of now, not of the end.
/// `dir` is where a merge would keep its file: the same bytes are written there, and removed, for their time.
///
/// # Errors
/// As [`merge`]; conflicts are no error here.
pub fn preview(
    dir: &Path,
    diff: &Diff,
    regions: &[(String, Mapping)],
) -> Result<Preview, MemoryError> {
    let begun = Instant::now();
    let computed = compute(diff, regions)?;
    redo::rehearse(dir, &computed.redo)?;
    let mut copied = 0;
    for (_, writes) in &computed.redo.regions {
        // What is written to the guest, written to ourselves.
        copied += writes
            .iter()
            .map(|write| std::hint::black_box(write.bytes.clone()).len())
            .sum::<usize>();
    }
    std::hint::black_box(copied);
    let pause = begun.elapsed();
    let compute::Computed { redo, refused, refused_count } = computed;
    Ok(Preview { report: redo.report, refused, refused_count, pause })
}

fn apply(redo: &Redo, regions: &[(String, Mapping)]) -> Result<(), MemoryError> {
    for (name, writes) in &redo.regions {
        let region = find(regions, name)?;
        for write in writes {
            region.write(write.offset, &write.bytes)?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests;
