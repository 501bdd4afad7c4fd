//! The journal on disk: one redb file, every record committed durably before its writer goes on.
//!
//! | table | key | value |
//! |---|---|---|
//! | `about` | `"format"` | [`FORMAT`] |
//! | `records` | (migration id, sequence) | [`Record`] as JSON |

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::{
    error::Error,
    fold::Progress,
    record::{Fact, MigrationId, Record},
};

/// Version of the file's layout.
const FORMAT: u64 = 1;
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const RECORDS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("records");

/// The open journal. Cloning shares it.
#[derive(Clone)]
pub struct Journal {
    database: Arc<Database>,
    path: PathBuf,
}

impl Journal {
    /// Open `journal.redb` in `directory`, making both when they are not there.
    ///
    /// # Errors
    /// [`Error::JournalHeld`], [`Error::JournalFormat`], [`Error::Journal`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("journal.redb");
        let failed = |reason: String| Error::Journal { path: path.clone(), reason };
        std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
        let database = Database::create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Error::JournalHeld { path: path.clone() },
            other => failed(other.to_string()),
        })?;
        let journal = Self { database: Arc::new(database), path: path.clone() };
        let found = journal.format().map_err(|error| failed(error.to_string()))?;
        if found == FORMAT {
            Ok(journal)
        } else {
            Err(Error::JournalFormat { path, found, known: FORMAT })
        }
    }

    fn format(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut about = transaction.open_table(ABOUT)?;
            transaction.open_table(RECORDS)?;
            let found = about.get("format")?.map(|value| value.value());
            if found.is_none() {
                about.insert("format", FORMAT)?;
            }
            found.unwrap_or(FORMAT)
        };
        transaction.commit()?;
        Ok(found)
    }

    /// Append `facts` to a migration's records, all or none, and answer them as written.
    ///
    /// # Errors
    /// [`Error::Journal`]: nothing was written.
    pub async fn append(&self, id: &MigrationId, facts: Vec<Fact>) -> Result<Vec<Record>, Error> {
        let (journal, id) = (self.clone(), id.clone());
        // A commit waits for the disk.
        let written = tokio::task::spawn_blocking(move || journal.append_now(&id, facts)).await;
        match written {
            Ok(result) => result.map_err(|error| self.failed(&error)),
            Err(panicked) => Err(self.failed(&panicked)),
        }
    }

    fn append_now(&self, id: &MigrationId, facts: Vec<Fact>) -> Result<Vec<Record>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let mut written = Vec::with_capacity(facts.len());
        {
            let mut table = transaction.open_table(RECORDS)?;
            let next = table
                .range((id.as_str(), 0)..=(id.as_str(), u64::MAX))?
                .next_back()
                .transpose()?
                .map_or(0, |(key, _)| key.value().1 + 1);
            for (sequence, fact) in (next..).zip(facts) {
                let record = Record { sequence, unix_ms: unix_ms(), fact };
                let json = serde_json::to_vec(&record).map_err(std::io::Error::other)?;
                table.insert((id.as_str(), sequence), json.as_slice())?;
                written.push(record);
            }
        }
        transaction.commit()?;
        Ok(written)
    }

    /// A migration's records from `sequence` on, oldest first; empty when there are none.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn records(&self, id: &MigrationId, sequence: u64) -> Result<Vec<Record>, Error> {
        let read = || -> Result<Vec<Record>, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            table
                .range((id.as_str(), sequence)..=(id.as_str(), u64::MAX))?
                .map(|entry| decode(entry?.1.value()))
                .collect()
        };
        read().map_err(|error| self.failed(&error))
    }

    /// The names of all migrations, oldest first.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn migrations(&self) -> Result<Vec<MigrationId>, Error> {
        let read = || -> Result<Vec<MigrationId>, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let mut ids: Vec<MigrationId> = Vec::new();
            for entry in table.iter()? {
                let (key, _) = entry?;
                let id = key.value().0;
                if ids.last().is_none_or(|last| last.as_str() != id) {
                    ids.push(MigrationId::named(id));
                }
            }
            Ok(ids)
        };
        read().map_err(|error| self.failed(&error))
    }

    /// A migration's state.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Corrupt`], [`Error::Journal`].
    pub fn progress(&self, id: &MigrationId) -> Result<Progress, Error> {
        let records = self.records(id, 0)?;
        if records.is_empty() {
            return Err(Error::Unknown { id: id.clone() });
        }
        Progress::fold(&records).map_err(|source| Error::Corrupt { id: id.clone(), source })
    }

    fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Journal { path: self.path.clone(), reason: error.to_string() }
    }
}

fn decode(json: &[u8]) -> Result<Record, redb::Error> {
    serde_json::from_slice(json)
        .map_err(|error| redb::Error::Corrupted(format!("record is not readable: {error}")))
}

/// Wall-clock time; 0 before 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The same, finer.
#[must_use]
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fold::tests::order, record::Resumer};

    #[tokio::test]
    async fn records_survive_reopening_and_are_numbered_without_holes() {
        let directory = tempfile::tempdir().expect("directory");
        let (first, second) = (MigrationId::at(1), MigrationId::at(2));
        {
            let journal = Journal::open(directory.path()).expect("open");
            let accepted = || vec![Fact::Accepted { spec: Box::new(order()) }];
            journal.append(&second, accepted()).await.expect("append");
            journal.append(&first, accepted()).await.expect("append");
            let resumed = Fact::Resumed { by: Resumer::Restart };
            journal.append(&first, vec![resumed.clone(), resumed]).await.expect("append");
        }
        let journal = Journal::open(directory.path()).expect("reopen");
        assert_eq!(journal.migrations().expect("list"), [first.clone(), second]);
        let records = journal.records(&first, 1).expect("records");
        assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(journal.progress(&first).expect("fold").last_sequence, 2);
        let unknown = journal.progress(&MigrationId::named("m-none")).expect_err("unknown");
        assert_eq!(unknown.to_string(), "there is no migration `m-none`");
    }

    #[test]
    fn a_second_manager_is_told_who_has_it() {
        let directory = tempfile::tempdir().expect("directory");
        let _held = Journal::open(directory.path()).expect("open");
        let error = Journal::open(directory.path()).err().expect("held");
        assert!(error.to_string().contains("another tidegate-manager"), "{error}");
    }
}
