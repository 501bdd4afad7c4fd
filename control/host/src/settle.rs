//! Whether a guest's memory has come to rest: its pages' hashes are looked at again and again.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate_memory::{Mapping, ObjectKind, PageHashes};

use crate::{HostError, guest::Guest, image::memory_files};

/// Between two looks at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is watched, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    /// RAM too, not only regions.
    pub(crate) ram: bool,
    /// Names; empty: all regions the guest has.
    pub(crate) regions: Vec<String>,
    /// How long nothing must have changed.
    pub(crate) settle: Duration,
    /// How long that is waited for.
    pub(crate) deadline: Duration,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// For how long nothing has changed.
    pub(crate) unchanged: Duration,
    /// In the last look.
    pub(crate) changed_pages: u64,
    pub(crate) watched_pages: u64,
    pub(crate) watched: Duration,
    pub(crate) settled: bool,
}

/// Memory and its pages as of the last look.
struct Watched {
    memory: Mapping,
    last: PageHashes,
    next: PageHashes,
}

impl Watch {
    /// Look until nothing has changed for long enough, the deadline passes, or `report` says that nobody waits any more.
    ///
    /// # Errors
    /// A region that the guest does not have; memory that cannot be read.
    pub(crate) fn until_settled(
        &self,
        guest: &Arc<Guest>,
        mut report: impl FnMut(Seen) -> bool,
    ) -> Result<Seen, HostError> {
        let began = Instant::now();
        let mut watched = self.open(guest)?;
        let pages = |it: &Watched| it.last.hashes().len() as u64;
        let watched_pages = watched.iter().map(pages).sum();
        let mut seen = Seen { watched_pages, ..Seen::default() };
        // Compared with nothing: what it saw may have changed while it looked.
        look(&mut watched)?;
        let mut changed_at = Instant::now();
        loop {
            // As often as needed to be sure in time, and no more: looking takes a processor.
            thread::sleep(LOOK_EVERY.min(self.settle / 4));
            let looked_at = Instant::now();
            seen.changed_pages = look(&mut watched)?;
            if seen.changed_pages > 0 {
                changed_at = Instant::now();
            }
            // Every page was read before `changed_at` and again after `looked_at`, and was the same.
            seen.unchanged = looked_at.saturating_duration_since(changed_at);
            seen.watched = began.elapsed();
            seen.settled = seen.changed_pages == 0 && seen.unchanged >= self.settle;
            if !report(seen) || seen.settled || seen.watched >= self.deadline {
                return Ok(seen);
            }
        }
    }

    fn open(&self, guest: &Arc<Guest>) -> Result<Vec<Watched>, HostError> {
        let spec = &guest.record.spec;
        let has = |name: &String| spec.regions.iter().any(|region| region.name == *name);
        if let Some(missing) = self.regions.iter().find(|name| !has(name)) {
            let reason = format!("guest `{}` has no region `{missing}`", guest.name());
            return Err(HostError::Invalid { field: "regions", reason });
        }
        let mut watched = Vec::new();
        for (kind, path) in memory_files(spec, &guest.places) {
            let wanted = match &kind {
                ObjectKind::Ram => self.ram,
                ObjectKind::Region(name) => self.regions.is_empty() || self.regions.contains(name),
                _ => false,
            };
            if wanted {
                let memory = Mapping::open(&path)?;
                let none = PageHashes::zeros(memory.size_bytes());
                watched.push(Watched { memory, last: none.clone(), next: none });
            }
        }
        if watched.is_empty() {
            return Err(HostError::Precondition(format!(
                "guest `{}` has no regions, and its RAM is not to be watched: there is nothing that could settle; \
                 pause it at once",
                guest.name()
            )));
        }
        Ok(watched)
    }
}

/// Hash every page; how many are not as in the look before.
fn look(watched: &mut [Watched]) -> Result<u64, HostError> {
    let mut changed = 0;
    for it in watched {
        it.next.update(&it.memory, 0, 0..it.memory.size_bytes())?;
        let pairs = it.last.hashes().iter().zip(it.next.hashes());
        changed += pairs.filter(|(last, next)| last != next).count() as u64;
        std::mem::swap(&mut it.last, &mut it.next);
    }
    Ok(changed)
}
