//! Migrations as their watchers see them.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::sync::watch;

use super::{Core, CoreError};
use crate::steering::Address;

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// The destination is known.
    Preparing,
    /// Cut over; old sessions are left.
    Draining,
    /// The last old session is gone.
    Drained,
    /// The destination is the home.
    Released,
    /// The source has everything back.
    Aborted,
}

impl MigrationState {
    /// Whether nothing follows that a watcher waits for.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Drained | Self::Released | Self::Aborted)
    }
}

/// A migration at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub state: MigrationState,
    /// The address's epoch.
    pub epoch: u32,
    /// Live sessions left at the source.
    pub old_sessions: u64,
    /// Live sessions at the destination.
    pub new_sessions: u64,
}

/// The migrations in progress. Watchers hold receivers of the latest value, so that none can hold the core up.
#[derive(Default)]
pub(super) struct Migrations {
    by_address: BTreeMap<IpAddr, watch::Sender<Progress>>,
}

impl Migrations {
    pub(super) fn begin(&mut self, address: IpAddr, progress: Progress) {
        self.by_address.insert(address, watch::Sender::new(progress));
    }

    pub(super) fn update(&mut self, address: IpAddr, progress: Progress) {
        if let Some(sender) = self.by_address.get(&address) {
            sender.send_if_modified(|current| {
                let changed = *current != progress;
                *current = progress;
                changed
            });
        }
    }

    pub(super) fn follow(
        &mut self,
        address: IpAddr,
        progress: Progress,
    ) -> watch::Receiver<Progress> {
        self.update(address, progress);
        self.by_address.entry(address).or_insert_with(|| watch::Sender::new(progress)).subscribe()
    }

    pub(super) fn end(&mut self, address: IpAddr, progress: Progress) {
        self.update(address, progress);
        self.by_address.remove(&address);
    }
}

impl Core {
    pub(super) fn progress(
        &self,
        address: IpAddr,
        state: MigrationState,
    ) -> Result<Progress, CoreError> {
        let record = self.steering.get(address)?;
        let destination = record.destination.as_ref();
        Ok(Progress {
            state,
            epoch: record.epoch,
            old_sessions: self.left_at_source(record),
            new_sessions: destination.map_or(0, |target| self.live(target.placed.slot)),
        })
    }

    /// Sessions of the home that a drain waits for.
    fn left_at_source(&self, record: &Address) -> u64 {
        let policy = record.destination.as_ref().and_then(|target| target.cut_over);
        if policy.is_some_and(|policy| policy.ignores_begun_by_source) {
            self.live_begun_by_clients(record.home.slot)
        } else {
            self.live(record.home.slot)
        }
    }

    /// Count what is left of each drain. Returns whether there is one.
    pub(super) fn watch_drains(&mut self) -> bool {
        let addresses: Vec<IpAddr> = self.migrations.by_address.keys().copied().collect();
        let mut draining = false;
        for address in addresses {
            let Ok(record) = self.steering.get(address) else { continue };
            let is_draining = record
                .destination
                .as_ref()
                .is_some_and(|target| target.cut_over.is_some() && !target.drained);
            if !is_draining {
                continue;
            }
            let Ok(mut progress) = self.progress(address, MigrationState::Draining) else {
                continue;
            };
            if progress.old_sessions == 0 {
                self.steering.observe_drained(address);
                progress.state = MigrationState::Drained;
                tracing::info!(%address, epoch = progress.epoch, "drained");
            } else {
                draining = true;
            }
            self.migrations.update(address, progress);
        }
        draining
    }
}
