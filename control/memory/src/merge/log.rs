//! Merging a log: base, then the destination's appended records, then the source's.

use tidegate_region::{
    Range,
    log::{LOG_HEAD_BYTES, checked_len},
};

use super::compute::Merger;
use crate::{MemoryError, diff::Run, error::Cause};

const HEAD: usize = LOG_HEAD_BYTES as usize;

/// What a diff says about one log.
pub(super) struct LogParts<'a> {
    pub(super) range: Range,
    /// Length at T0 and at the source.
    lengths: Option<(u64, u64)>,
    /// Runs of the records; offsets are from the first record.
    parts: Vec<Run<'a>>,
}

impl<'a> LogParts<'a> {
    pub(super) fn new(range: Range) -> Self {
        Self { range, lengths: None, parts: Vec::new() }
    }

    /// Take a part of a run that lies in the log.
    pub(super) fn add(&mut self, part: &Run<'a>) -> Result<(), String> {
        let Run { offset, base, theirs } = *part;
        let at = self.range.offset;
        if offset >= at + LOG_HEAD_BYTES {
            self.parts.push(Run { offset: offset - at - LOG_HEAD_BYTES, base, theirs });
            return Ok(());
        }
        let (Some((was, base)), Some((is, theirs))) =
            (base.split_first_chunk(), theirs.split_first_chunk())
        else {
            return Err(format!("a run at {offset} holds part of a log's length"));
        };
        if offset != at {
            return Err(format!("a run at {offset} holds part of a log's length"));
        }
        self.lengths = Some((u64::from_le_bytes(*was), u64::from_le_bytes(*is)));
        if !base.is_empty() {
            self.parts.push(Run { offset: 0, base, theirs });
        }
        Ok(())
    }

    /// Append to ours what the source appended.
    pub(super) fn merge(self, merger: &mut Merger<'_>) -> Result<(), MemoryError> {
        let Self { range, lengths, parts } = self;
        let at = range.offset;
        let Some((base, theirs)) = lengths else {
            return Err(merger.mismatch(format!("the log at {at} changed, its length is missing")));
        };
        let mut bytes = [0; HEAD];
        merger.ours.read(at, &mut bytes)?;
        let ours = u64::from_le_bytes(bytes);
        let lengths = [base, ours, theirs].map(u64::to_le_bytes);
        let lengths = [&lengths[0][..], &lengths[1][..], &lengths[2][..]];
        let capacity = range.len_bytes - LOG_HEAD_BYTES;
        let invalid = |len| checked_len(len, capacity, range.width).is_err();
        if [base, ours, theirs].into_iter().any(invalid) {
            merger.conflict(&range, at, Cause::LogLength, lengths);
            return Ok(());
        }
        if theirs < base || ours < base {
            merger.conflict(&range, at, Cause::LogShortened, lengths);
            return Ok(());
        }
        if records_changed(merger, &range, base, &parts)? {
            return Ok(());
        }
        let appended = theirs - base;
        if appended == 0 {
            return Ok(());
        }
        // Neither is more than the capacity.
        if ours + appended > capacity {
            merger.conflict(&range, at, Cause::LogFull, lengths);
            return Ok(());
        }
        let Some(records) = cut(&parts, base, theirs) else {
            return Err(merger.mismatch(format!("records appended to the log at {at} are missing")));
        };
        let to = at + LOG_HEAD_BYTES + ours;
        let mut free = vec![0; records.len()];
        merger.ours.read(to, &mut free)?;
        merger.write(at, &bytes, &(ours + appended).to_le_bytes());
        merger.write(to, &free, &records);
        Ok(())
    }
}

/// Whether the source changed records that it had at T0: they are conflicts, eight bytes each.
fn records_changed(
    merger: &mut Merger<'_>,
    range: &Range,
    base_len: u64,
    parts: &[Run<'_>],
) -> Result<bool, MemoryError> {
    let mut changed = false;
    for part in parts.iter().filter(|part| part.offset < base_len) {
        let len = (base_len - part.offset).min(part.base.len() as u64) as usize;
        let words = part.base[..len].chunks(8).zip(part.theirs[..len].chunks(8));
        for (word, (was, is)) in words.enumerate() {
            if was != is {
                let offset = range.offset + LOG_HEAD_BYTES + part.offset + word as u64 * 8;
                let mut ours = vec![0; was.len()];
                merger.ours.read(offset, &mut ours)?;
                merger.conflict(range, offset, Cause::LogRewritten, [was, &ours, is]);
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// The source's bytes from one offset to another, if the parts have all of them.
fn cut(parts: &[Run<'_>], from: u64, to: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = from;
    for part in parts {
        let end = part.offset + part.theirs.len() as u64;
        if part.offset <= at && at < end {
            let until = end.min(to);
            let taken = (at - part.offset) as usize..(until - part.offset) as usize;
            bytes.extend_from_slice(part.theirs.get(taken)?);
            at = until;
        }
    }
    (at == to).then_some(bytes)
}
