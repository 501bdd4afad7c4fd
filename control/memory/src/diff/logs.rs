//! What a merge needs of logs beside what changed in them.

use std::ops::Range;

use tidegate_region::{
    Header, MergeType,
    log::{LOG_HEAD_BYTES, checked_len},
};

use super::{ALIGN_BYTES, MAX_RUN_BYTES, Runs};
use crate::{Mapping, MemoryError};

/// The length of each log, and what was appended to it since T0: ascending, each a multiple of the alignment.
pub(super) fn spans(
    header: &Header,
    twin: &Mapping,
    now: &Mapping,
) -> Result<Vec<Range<u64>>, MemoryError> {
    let mut spans = Vec::new();
    for range in header.ranges().iter().filter(|it| it.merge_type == MergeType::AppendLog) {
        let records = range.offset + LOG_HEAD_BYTES;
        let (was, is) = (number(twin, range.offset)?, number(now, range.offset)?);
        let capacity = range.len_bytes - LOG_HEAD_BYTES;
        let valid = |len| checked_len(len, capacity, range.width).is_ok();
        if valid(was) && valid(is) && was < is {
            let align = ALIGN_BYTES as u64;
            let appended = records + was / align * align..records + is.next_multiple_of(align);
            if appended.start == records {
                spans.push(range.offset..appended.end);
            } else {
                spans.extend([range.offset..records, appended]);
            }
        } else {
            // Nothing was appended, or the merge will refuse what was done.
            spans.push(range.offset..records);
        }
    }
    Ok(spans)
}

fn number(memory: &Mapping, offset: u64) -> Result<u64, MemoryError> {
    let mut bytes = [0; 8];
    memory.read(offset, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The runs outside of `spans`, and all of `spans`.
pub(super) fn with_spans(
    runs: Runs,
    spans: &[Range<u64>],
    twin: &Mapping,
    now: &Mapping,
) -> Result<Runs, MemoryError> {
    if spans.is_empty() {
        return Ok(runs);
    }
    let mut all = Runs::default();
    let mut spans = spans.iter().peekable();
    let mut covered = 0;
    for run in runs.iter() {
        let end = run.offset + run.base.len() as u64;
        let mut at = run.offset.max(covered);
        while at < end {
            // Spans that end before here are out already.
            let span = spans.peek().map_or(u64::MAX..u64::MAX, |span| (*span).clone());
            if span.start <= at {
                push_span(&mut all, &span, twin, now)?;
                spans.next();
                covered = span.end;
                at = at.max(covered);
                continue;
            }
            let until = end.min(span.start);
            let bytes = (at - run.offset) as usize..(until - run.offset) as usize;
            all.push(at, &run.base[bytes.clone()], &run.theirs[bytes]);
            at = until;
        }
    }
    for span in spans {
        push_span(&mut all, span, twin, now)?;
    }
    Ok(all)
}

fn push_span(
    runs: &mut Runs,
    span: &Range<u64>,
    twin: &Mapping,
    now: &Mapping,
) -> Result<(), MemoryError> {
    let (mut base, mut theirs) = (Vec::new(), Vec::new());
    for start in span.clone().step_by(MAX_RUN_BYTES) {
        let len = (span.end - start).min(MAX_RUN_BYTES as u64) as usize;
        base.resize(len, 0);
        theirs.resize(len, 0);
        twin.read(start, &mut base)?;
        now.read(start, &mut theirs)?;
        runs.push(start, &base, &theirs);
    }
    Ok(())
}
