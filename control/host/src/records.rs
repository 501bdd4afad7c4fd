//! Records of guests and migrations as JSON files that appear whole.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::HostError;

/// A guest's record in its directory.
pub(crate) const GUEST: &str = "guest.json";
/// A migration's record in its directory.
pub(crate) const MIGRATION: &str = "migration.json";

/// Replace a record; it survives a crash at any moment, old or new.
pub(crate) fn save(path: &Path, record: &impl Serialize) -> Result<(), HostError> {
    let aside = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(HostError::file("write", path))
}

/// Every record named `name` in the directories below `dir`.
pub(crate) fn load_all<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Vec<T>, HostError> {
    fs::create_dir_all(dir).map_err(HostError::file("create", dir))?;
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).map_err(HostError::file("list", dir))? {
        let path = entry.map_err(HostError::file("list", dir))?.path().join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let record = serde_json::from_slice(&bytes).map_err(io::Error::from);
                records.push(record.map_err(HostError::file("understand", &path))?);
            }
            // A directory from before its record, or not one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(HostError::file("read", &path)(error)),
        }
    }
    Ok(records)
}

/// Remove a directory with all in it; not there is fine.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), HostError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HostError::file("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Remove a file; not there is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HostError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
