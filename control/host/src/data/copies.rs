//! Copies that this host sends, by migration: their bandwidth can be changed, they can be ended, and it is known how far they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tidegate_memory::copy::{Controls, Progress};

use crate::{migration::locked, send::Carried};

/// The copies this host sends.
#[derive(Clone, Default)]
pub(crate) struct Copies(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Default)]
struct Entry {
    /// What SetBandwidth said last: it outlives the copy that ran then.
    cap: Option<Option<u64>>,
    running: Option<Arc<Controls>>,
    /// What was told of the copy that runs.
    told: Option<(Carried, Progress)>,
}

/// A copy that runs as long as this lives.
pub(crate) struct Running {
    copies: Copies,
    id: String,
    pub(crate) controls: Arc<Controls>,
}

/// Mbit/s as bytes per second; 0 is no limit.
pub(crate) fn cap_of(mbps: u64) -> Option<u64> {
    (mbps != 0).then(|| mbps.saturating_mul(125_000))
}

impl Copies {
    /// Begin a copy for a migration, with this cap unless SetBandwidth said another.
    pub(crate) fn begin(&self, id: &str, cap: Option<u64>) -> Running {
        let mut copies = locked(&self.0);
        let entry = copies.entry(id.to_owned()).or_default();
        let controls = Arc::new(Controls::new(entry.cap.unwrap_or(cap)));
        entry.running = Some(controls.clone());
        Running { copies: self.clone(), id: id.to_owned(), controls }
    }

    /// From now on.
    pub(crate) fn set_cap(&self, id: &str, cap: Option<u64>) {
        let mut copies = locked(&self.0);
        let entry = copies.entry(id.to_owned()).or_default();
        entry.cap = Some(cap);
        if let Some(controls) = &entry.running {
            controls.set_cap(cap);
        }
    }

    /// How far the copy is that runs for a migration.
    pub(crate) fn progress(&self, id: &str) -> Option<(Carried, Progress)> {
        locked(&self.0).get(id)?.told.clone()
    }

    /// End a migration's copy for good.
    pub(crate) fn forget(&self, id: &str, reason: &str) {
        if let Some(controls) = locked(&self.0).remove(id).and_then(|entry| entry.running) {
            controls.cancel(reason);
        }
    }

    pub(crate) fn cancel_all(&self, reason: &str) {
        for entry in locked(&self.0).values() {
            if let Some(controls) = &entry.running {
                controls.cancel(reason);
            }
        }
    }
}

impl Running {
    /// So far is it.
    pub(crate) fn tell(&self, way: &Carried, progress: Progress) {
        if let Some(entry) = locked(&self.copies.0).get_mut(&self.id) {
            entry.told = Some((way.clone(), progress));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(entry) = locked(&self.copies.0).get_mut(&self.id) {
            (entry.running, entry.told) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_of_while_it_runs() {
        let copies = Copies::default();
        assert_eq!(copies.progress("m1"), None);
        let copy = copies.begin("m1", None);
        assert_eq!(copies.progress("m1"), None, "nothing is known yet");
        let progress = Progress { sent_bytes: 5, ..Progress::default() };
        copy.tell(&Carried::default(), progress);
        assert_eq!(copies.progress("m1"), Some((Carried::default(), progress)));
        assert_eq!(copies.progress("m2"), None);
        drop(copy);
        assert_eq!(copies.progress("m1"), None);
    }

    #[test]
    fn a_bandwidth_that_was_set_is_that_of_the_next_attempt_too() {
        let copies = Copies::default();
        let first = copies.begin("m1", cap_of(8));
        assert_eq!(first.controls.cap_bytes_per_s(), Some(1_000_000));
        copies.set_cap("m1", cap_of(16));
        assert_eq!(first.controls.cap_bytes_per_s(), Some(2_000_000));
        drop(first);
        let second = copies.begin("m1", cap_of(8));
        assert_eq!(second.controls.cap_bytes_per_s(), Some(2_000_000));
        copies.set_cap("m1", cap_of(0));
        assert_eq!(second.controls.cap_bytes_per_s(), None);
        copies.forget("m1", "over");
        assert!(second.controls.check().is_err());
        assert_eq!(copies.begin("m1", cap_of(8)).controls.cap_bytes_per_s(), Some(1_000_000));
    }
}
