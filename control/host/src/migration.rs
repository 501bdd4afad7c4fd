//! What this host knows about each migration it takes part in, as source, destination or both.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{HostError, budget::Keep, capture::Way, mirror::Applied, records, spec::GuestSpec};

/// One migration's record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Migration {
    pub(crate) id: String,
    /// Set on the source's host.
    pub(crate) capture: Option<Capture>,
    /// Set on the destination's host.
    pub(crate) receive: Option<Receive>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Capture {
    pub(crate) guest: String,
    pub(crate) clone: bool,
    /// Names of the regions that the finish will compare.
    pub(crate) regions: Vec<String>,
    /// Not there until T0 is taken whole: without it, the source may still be paused for it.
    pub(crate) taken: Option<Taken>,
    /// What is kept of RAM's T0, once the copy of a clone's was confirmed. Records of earlier versions have it not: all is kept.
    #[serde(default)]
    pub(crate) kept: Option<Keep>,
}

/// The report of a capture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) pause_ns: u64,
    pub(crate) ram_bytes: u64,
    pub(crate) region_bytes: u64,
    pub(crate) device_state_bytes: u64,
    /// How it was taken; records of earlier versions do not say.
    #[serde(default)]
    pub(crate) way: Option<Way>,
    #[serde(default)]
    pub(crate) why: String,
    /// Bytes of memory sent in each pass, the last while the source stood.
    #[serde(default)]
    pub(crate) pass_bytes: Vec<u64>,
    /// RAM is at the destination's host.
    #[serde(default)]
    pub(crate) straight: Option<Went>,
}

/// How RAM went while it was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Went {
    pub(crate) sent_bytes: u64,
    pub(crate) transport: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Receive {
    pub(crate) spec: GuestSpec,
    pub(crate) clone: bool,
    /// Something may have landed in the files that were made for it.
    #[serde(default)]
    pub(crate) begun: bool,
    /// Digest of what arrived.
    pub(crate) arrived: Option<String>,
    /// The destination's process was started on it: from then on the files are the guest's.
    pub(crate) started: bool,
    pub(crate) diff_arrived: bool,
    /// The destination was paused for the merge, and whether it ran before.
    pub(crate) merge_paused: Option<bool>,
    /// How long it was.
    pub(crate) merge_pause_ns: Option<u64>,
    /// T0 is kept beside what the clone runs on. Records of earlier versions have none of these.
    #[serde(default)]
    pub(crate) keep_t0: bool,
    /// It was started to become the source's image.
    #[serde(default)]
    pub(crate) awaits_image: bool,
    /// Memory is the source's, whose final device state is there.
    #[serde(default)]
    pub(crate) image_arrived: bool,
    /// Bytes of memory that were written for it.
    #[serde(default)]
    pub(crate) image_bytes: u64,
    /// The destination is the source's image.
    #[serde(default)]
    pub(crate) image_applied: Option<Applied>,
}

/// Held while one side of a migration is worked on.
pub(crate) type Turn = Arc<tokio::sync::Mutex<()>>;

/// All migrations, in memory and on disk.
pub(crate) struct Migrations {
    dir: PathBuf,
    records: Mutex<BTreeMap<String, Migration>>,
    /// One piece of work at a time for each migration and side.
    turns: Mutex<BTreeMap<(String, Side), Turn>>,
}

/// Which host's part of a migration: one host can have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Source,
    Destination,
    /// Neither: what only looks. A real diff waits for it, so that only one is on its way.
    DryRun,
}

impl Migrations {
    pub(crate) fn load(dir: PathBuf) -> Result<Self, HostError> {
        let records = records::load_all::<Migration>(&dir, records::MIGRATION)?;
        let records = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        Ok(Self { dir, records: Mutex::new(records), turns: Mutex::default() })
    }

    /// Where a migration's files are.
    pub(crate) fn dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    pub(crate) fn all(&self) -> Vec<Migration> {
        locked(&self.records).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Migration> {
        locked(&self.records).get(id).cloned()
    }

    /// Change a migration's record, which is made when it is new, and keep it.
    pub(crate) fn update(
        &self,
        id: &str,
        change: impl FnOnce(&mut Migration) -> Result<(), HostError>,
    ) -> Result<Migration, HostError> {
        let mut records = locked(&self.records);
        let mut record = records.get(id).cloned().unwrap_or_default();
        record.id = id.to_owned();
        change(&mut record)?;
        let dir = self.dir(id);
        fs::create_dir_all(&dir).map_err(HostError::file("create", &dir))?;
        records::save(&dir.join(records::MIGRATION), &record)?;
        records.insert(id.to_owned(), record.clone());
        Ok(record)
    }

    pub(crate) fn capture(&self, id: &str) -> Result<(Capture, Taken), HostError> {
        let capture = self.begun_capture(id)?;
        let taken = capture.taken.clone().ok_or_else(|| no_capture(id))?;
        Ok((capture, taken))
    }

    /// One that may still be in the middle of it.
    pub(crate) fn begun_capture(&self, id: &str) -> Result<Capture, HostError> {
        self.get(id).and_then(|migration| migration.capture).ok_or_else(|| no_capture(id))
    }

    pub(crate) fn receive(&self, id: &str) -> Result<Receive, HostError> {
        let receive = self.get(id).and_then(|migration| migration.receive);
        receive.ok_or_else(|| HostError::NotFound {
            what: "prepared destination of migration",
            name: id.to_owned(),
        })
    }

    /// Change the destination's part of a record.
    pub(crate) fn update_receive(
        &self,
        id: &str,
        change: impl FnOnce(&mut Receive),
    ) -> Result<(), HostError> {
        self.update(id, |migration| {
            let receive = migration.receive.as_mut();
            change(receive.ok_or_else(|| HostError::NotFound {
                what: "prepared destination of migration",
                name: id.to_owned(),
            })?);
            Ok(())
        })
        .map(drop)
    }

    pub(crate) fn forget(&self, id: &str) -> Result<(), HostError> {
        // The files first: a record without files would be worse than files without a record.
        let mut records = locked(&self.records);
        records::remove_dir(&self.dir(id))?;
        records.remove(id);
        locked(&self.turns).retain(|(known, _), _| known != id);
        Ok(())
    }

    /// The right to work on one side of a migration.
    pub(crate) fn turn(&self, id: &str, side: Side) -> Turn {
        locked(&self.turns).entry((id.to_owned(), side)).or_default().clone()
    }
}

fn no_capture(id: &str) -> HostError {
    HostError::NotFound { what: "capture of migration", name: id.to_owned() }
}

impl Receive {
    /// Where the received device state is.
    pub(crate) fn device_state(migration_dir: &Path) -> PathBuf {
        migration_dir.join("device-state")
    }

    /// Where the source's final device state is.
    pub(crate) fn final_device_state(migration_dir: &Path) -> PathBuf {
        migration_dir.join("final-device-state")
    }

    /// What of a twin has arrived.
    pub(crate) fn twin_ledger(migration_dir: &Path) -> PathBuf {
        migration_dir.join("twin.ledger")
    }

    /// Where the received diff of a dry run is.
    pub(crate) fn dry_run(migration_dir: &Path) -> PathBuf {
        migration_dir.join("dry-run-diff")
    }

    /// Where the received diff is.
    pub(crate) fn diff(migration_dir: &Path) -> PathBuf {
        migration_dir.join("diff")
    }
}

/// A panic while a lock is held leaves a record as it was or as it will be.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
