//! Memory that was mapped, and looked at, before there is a hurry. The first look at a page of a mapping is a fault, and faults take longer
//! than what is done with the pages: while a guest stands, all of its memory is compared, and digested on both sides.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tidegate_memory::{Mapping, ObjectKind};

use crate::migration::locked;

/// Mapped memory by migration.
pub(crate) struct Warm<T>(Mutex<BTreeMap<String, Arc<Vec<T>>>>);

/// A guest's memory, object by object.
pub(crate) trait Mapped {
    /// One object as it is now.
    fn mapping(&self) -> &Mapping;
}

impl Mapped for (ObjectKind, Mapping) {
    fn mapping(&self) -> &Mapping {
        &self.1
    }
}

impl<T> Default for Warm<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Mapped> Warm<T> {
    /// From now on.
    pub(crate) fn keep(&self, id: &str, memory: Vec<T>) -> Arc<Vec<T>> {
        let memory = Arc::new(memory);
        locked(&self.0).insert(id.to_owned(), memory.clone());
        memory
    }

    /// What was kept, if it is of these files: others may be in their places since.
    pub(crate) fn of(&self, id: &str, files: &[(ObjectKind, PathBuf)]) -> Option<Arc<Vec<T>>> {
        let memory = locked(&self.0).get(id)?.clone();
        let same = |(it, (_, path)): (&T, &(ObjectKind, PathBuf))| {
            let (there, here) = (fs::metadata(path), it.mapping().file().metadata());
            there.is_ok_and(|there| {
                here.is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
            })
        };
        let is_same = memory.len() == files.len() && memory.iter().zip(files).all(same);
        is_same.then_some(memory)
    }

    pub(crate) fn forget(&self, id: &str) {
        locked(&self.0).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_of_the_files_that_are_there() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ram");
        let files = vec![(ObjectKind::Ram, path.clone())];
        let warm = Warm::default();
        assert!(warm.of("m1", &files).is_none());
        let mapping = Mapping::create(&path, 8192).expect("created");
        warm.keep("m1", vec![(ObjectKind::Ram, mapping)]);
        assert!(warm.of("m1", &files).is_some() && warm.of("m2", &files).is_none());
        // The same file under another name, and another file under the same.
        let moved = dir.path().join("moved");
        fs::rename(&path, &moved).expect("renamed");
        assert!(warm.of("m1", &[(ObjectKind::Ram, moved)]).is_some());
        assert!(warm.of("m1", &files).is_none());
        fs::write(&path, [0; 8192]).expect("written");
        assert!(warm.of("m1", &files).is_none());
        warm.forget("m1");
    }
}
