//! The box's own stream of a migration, at the lab's clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_api::switch::MigrationState;

/// What the box said, and when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Where the migration is.
    pub state: MigrationState,
    /// Sessions left at the source.
    pub old_sessions: u64,
}

/// Everything the box has said so far; see [`crate::api::Api::watch_drain`].
#[derive(Clone, Debug, Default)]
pub struct DrainWatch(Arc<Mutex<Vec<Told>>>);

impl DrainWatch {
    pub(crate) fn take(&self, told: Told) {
        self.all().push(told);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it said between two instants.
    #[must_use]
    pub fn between(&self, from_us: u64, to_us: u64) -> Vec<Told> {
        let within = |told: &&Told| (from_us..to_us).contains(&told.at_us);
        self.all().iter().filter(within).copied().collect()
    }

    /// When it said *drained*.
    #[must_use]
    pub fn drained_us(&self) -> Option<u64> {
        let drained = |told: &&Told| told.state == MigrationState::Drained;
        self.all().iter().find(drained).map(|told| told.at_us)
    }
}
