//! A source's memory beside what the destination has of it.

use std::path::{Path, PathBuf};

use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind,
    ahead::{Ahead, Going},
    image_diff::{self, Figures},
    image_digest,
    kept::Kept,
    scan::Compared,
};

use crate::warm::Mapped;

/// One object of it.
pub(crate) struct Beside {
    pub(crate) kind: ObjectKind,
    /// As it is.
    pub(crate) now: Mapping,
    /// As of T0, or as it went ahead since.
    pub(crate) twin: Kept,
}

impl Mapped for Beside {
    fn mapping(&self) -> &Mapping {
        &self.now
    }
}

/// Map files and what the twin's directory has of them.
pub(crate) fn open(
    dir: &Path,
    files: Vec<(ObjectKind, PathBuf)>,
) -> Result<Vec<Beside>, MemoryError> {
    let open = |(kind, path): (ObjectKind, PathBuf)| {
        let twin = Kept::open(dir, &kind)?;
        Ok(Beside { kind, now: Mapping::open(&path)?, twin })
    };
    files.into_iter().map(open).collect()
}

/// As comparisons take it.
pub(crate) fn compared(memory: &[Beside]) -> Vec<Compared<'_>> {
    let compared = memory.iter().map(|Beside { kind, now, twin }| Compared {
        object: Object { kind: kind.clone(), size_bytes: now.size_bytes() },
        twin: twin.twin(),
        now,
    });
    compared.collect()
}

/// The digest of all of it as it is.
pub(crate) fn digest(memory: &[Beside]) -> Result<String, MemoryError> {
    let memory: Vec<_> = memory.iter().map(|it| (it.kind.clone(), &it.now)).collect();
    image_digest::digest(&memory)
}

/// What of each object is to go, and went.
pub(crate) fn ahead(
    dir: &Path,
    memory: &[Beside],
    going: Going,
) -> Result<Vec<Ahead>, MemoryError> {
    let open = |it: &Beside| Ahead::open(dir, &it.kind, it.now.size_bytes(), going);
    memory.iter().map(open).collect()
}

/// What an image would have of each object now: its diff is made, and thrown away.
pub(crate) fn survey(dir: &Path, memory: &[Beside]) -> Result<Vec<Figures>, MemoryError> {
    let ahead = ahead(dir, memory, Going::Nowhere)?;
    image_diff::write_beside(std::io::sink(), &compared(memory), &ahead)
}
