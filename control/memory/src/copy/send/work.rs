//! What lanes do: a stretch of one section is brought up to date.

use std::{ops::Range, sync::Mutex};

use crate::{
    Mapping, MemoryError,
    copy::{
        Layout, Section,
        send::{Shared, Stretch, gone},
    },
    locked,
    mapping::PAGE_BYTES,
    page_hashes::{Digest, ZERO_PAGE, digest_of, hash_pages},
    transport::{Lane, MAX_PIECE_BYTES, Piece},
    twin::next_extent,
};

const PAGE: u64 = PAGE_BYTES as u64;
/// Pages hashed before what differs of them is put: they go out of the cache they were hashed in.
const PIECE_PAGES: usize = MAX_PIECE_BYTES as usize / PAGE_BYTES;

/// A piece of work for one lane.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) section: Section,
    /// In the section.
    pub(super) range: Range<u64>,
    /// The section's digest is asked for.
    pub(super) commit: bool,
    /// The receiver says that it has the section: nothing is put.
    pub(super) resumed: bool,
}

impl Work {
    /// All sections, to be committed.
    pub(super) fn of_sections(layout: &Layout, before: &[bool]) -> Vec<Self> {
        let sections = (0..layout.sections()).filter_map(|number| layout.section(number));
        let work = sections.map(|section| Self {
            resumed: before[section.number as usize],
            ..Self::again(section)
        });
        work.collect()
    }

    /// One section, whatever the receiver has.
    pub(super) fn again(section: Section) -> Self {
        Self { section, range: 0..section.len_bytes, commit: true, resumed: false }
    }

    /// Stretches, cut at sections.
    pub(super) fn of_stretches(
        layout: &Layout,
        stretches: &[Stretch],
    ) -> Result<Vec<Self>, MemoryError> {
        let mut work = Vec::new();
        for Stretch { object, range } in stretches {
            let mut at = range.start;
            while at < range.end {
                let piece =
                    Piece { object: *object, offset: at, len_bytes: PAGE.min(range.end - at) };
                let section = layout.section_of(piece)?;
                let end = range.end.min(section.offset + section.len_bytes);
                let last = Piece { object: *object, offset: (end - 1) / PAGE * PAGE, len_bytes: 1 };
                let last = Piece { len_bytes: end - last.offset, ..last };
                layout.section_of(last)?;
                let range = at - section.offset..end - section.offset;
                work.push(Self { section, range, commit: false, resumed: false });
                at = end;
            }
        }
        Ok(work)
    }
}

impl Shared {
    /// The numbers of the sections that some work is in, each once.
    pub(super) fn sections_of(&self, work: &[Work]) -> Vec<u32> {
        let mut numbers: Vec<_> = work.iter().map(|work| work.section.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Bring a stretch of the receiver's memory up to date; the section's digest, if it is asked for.
    pub(super) fn bring(
        &self,
        work: &Work,
        lane: &mut dyn Lane,
    ) -> Result<Option<Digest>, MemoryError> {
        let Work { section, range, .. } = work;
        let mut known = locked(&self.known[section.number as usize]);
        let known = known.hashes_mut();
        let mut now = [ZERO_PAGE; PIECE_PAGES];
        let mut data = Data::new(&self.data[section.object]);
        let mut at = range.start;
        while at < range.end {
            self.check()?;
            let end = (at + MAX_PIECE_BYTES).min(range.end);
            let first = (at / PAGE) as usize;
            let now = &mut now[..(end - at).div_ceil(PAGE) as usize];
            let known = &mut known[first..first + now.len()];
            let in_object = section.offset + at..section.offset + end;
            self.hash(section.object, in_object, known, now, &mut data)?;
            if !work.resumed {
                let place = Place {
                    section: *section,
                    object: section.object,
                    start: section.offset + at,
                    len: end - at,
                };
                self.put_runs(&place, known, now, lane)?;
            }
            known.copy_from_slice(now);
            self.gauge.covered(end - at);
            at = end;
        }
        Ok(work.commit.then(|| digest_of(known)))
    }

    fn hash(
        &self,
        object: usize,
        range: Range<u64>,
        known: &[u128],
        into: &mut [u128],
        data: &mut Data<'_>,
    ) -> Result<(), MemoryError> {
        let source = &self.sources[object];
        match (&source.hashes, &source.memory) {
            (Some(hashes), _) => {
                let first = (range.start / PAGE) as usize;
                let given = hashes.hashes().get(first..first + into.len());
                let given = given.ok_or_else(|| MemoryError::Damaged {
                    what: "a list of page hashes",
                    reason: format!("it is too short for the {}", source.object.kind),
                })?;
                into.copy_from_slice(given);
                Ok(())
            }
            (None, Some(memory)) => data.hash(memory, range, into),
            (None, None) => {
                into.copy_from_slice(known);
                Ok(())
            }
        }
    }

    fn put_runs(
        &self,
        place: &Place,
        known: &[u128],
        now: &[u128],
        lane: &mut dyn Lane,
    ) -> Result<(), MemoryError> {
        let memory = self.sources[place.object].memory.as_deref();
        let gone = || gone(&self.layout, place.section);
        let mut at = 0;
        while let Some((run, zero)) = next_run(known, now, at) {
            at = run.end;
            let offset = place.start + run.start as u64 * PAGE;
            let end = (place.start + run.end as u64 * PAGE).min(place.start + place.len);
            let piece = Piece { object: place.object, offset, len_bytes: end - offset };
            let wire_bytes =
                if zero { lane.zero(piece)? } else { lane.put(piece, memory.ok_or_else(gone)?)? };
            self.gauge.sent(wire_bytes);
            self.controls.spend(wire_bytes, &self.halted)?;
        }
        Ok(())
    }
}

/// Where memory has data, looked up as a copy comes to it. Its holes are not looked at: that would fill them.
///
/// To look up where data ends, the kernel looks at each of its pages. So one lane does that for the others.
struct Data<'a> {
    here: Range<u64>,
    /// The latest that any lane has looked up.
    latest: &'a Mutex<Range<u64>>,
}

impl<'a> Data<'a> {
    fn new(latest: &'a Mutex<Range<u64>>) -> Self {
        Self { here: 0..0, latest }
    }

    /// The next stretch of data that ends behind `at`.
    fn look_up(&mut self, memory: &Mapping, at: u64) -> Result<(), MemoryError> {
        let mut latest = locked(self.latest);
        if !latest.contains(&at) {
            let next = next_extent(memory.file(), memory.path(), at)?;
            *latest = next.unwrap_or(u64::MAX..u64::MAX);
        }
        self.here = latest.clone();
        Ok(())
    }

    fn hash(
        &mut self,
        memory: &Mapping,
        range: Range<u64>,
        into: &mut [u128],
    ) -> Result<(), MemoryError> {
        into.fill(ZERO_PAGE);
        let mut at = range.start;
        while at < range.end {
            if at >= self.here.end {
                self.look_up(memory, at)?;
            }
            let start = self.here.start.max(at) / PAGE * PAGE;
            let end = self.here.end.min(range.end);
            if start >= end {
                break;
            }
            let first = ((start - range.start) / PAGE) as usize;
            // A file system whose blocks are smaller may end data in the middle of a page.
            let end = end.next_multiple_of(PAGE).min(range.end);
            hash_pages(memory, start..end, &mut into[first..])?;
            at = end;
        }
        Ok(())
    }
}

/// Where some pages lie in an object.
struct Place {
    section: Section,
    object: usize,
    start: u64,
    len: u64,
}

/// The next run from `at` on of pages that differ, and whether they are zeros now.
fn next_run(known: &[u128], now: &[u128], at: usize) -> Option<(Range<usize>, bool)> {
    let differs = |page: &usize| known[*page] != now[*page];
    let start = (at..now.len()).find(differs)?;
    let zero = now[start] == ZERO_PAGE;
    let same = |page: &usize| differs(page) && (now[*page] == ZERO_PAGE) == zero;
    let end = (start..now.len()).find(|page| !same(page)).unwrap_or(now.len());
    Some((start..end, zero))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros_and_stay_holes() {
        use std::os::unix::fs::MetadataExt as _;

        let dir = tempfile::tempdir().expect("dir");
        let size = 4 * MAX_PIECE_BYTES + 5000;
        let memory = Mapping::create(&dir.path().join("m"), size).expect("memory");
        for at in [0, 3 * PAGE, MAX_PIECE_BYTES - 1, 3 * MAX_PIECE_BYTES + 9 * PAGE, size - 1] {
            memory.write(at, b"x").expect("written");
        }
        let blocks = || memory.file().metadata().expect("there").blocks();
        let before = blocks();
        let latest = Mutex::default();
        let mut data = Data::new(&latest);
        let mut found = Vec::new();
        for start in (0..size).step_by(MAX_PIECE_BYTES as usize) {
            let end = size.min(start + MAX_PIECE_BYTES);
            let mut into = vec![7; (end - start).div_ceil(PAGE) as usize];
            data.hash(&memory, start..end, &mut into).expect("hashed");
            found.extend(into);
        }
        assert_eq!(blocks(), before, "holes were filled");
        let whole = crate::PageHashes::of(&memory).expect("hashed");
        assert!(found == whole.hashes(), "not the hashes of what is there");
    }

    #[test]
    fn runs_are_what_differs_and_of_one_kind() {
        let known = [1, 2, 0, 4, 5, 0, 7];
        let now = [1, 9, 9, 0, 0, 0, 8];
        let mut runs = Vec::new();
        let mut at = 0;
        while let Some((run, zero)) = next_run(&known, &now, at) {
            at = run.end;
            runs.push((run, zero));
        }
        assert_eq!(runs, [(1..3, false), (3..5, true), (6..7, false)]);
    }
}
