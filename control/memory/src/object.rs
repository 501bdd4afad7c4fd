//! What is captured and sent: named pieces of a guest.

use std::fmt;

use crate::MemoryError;

/// Longest name of a region in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Which piece of a guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// The guest's RAM.
    Ram,
    /// What the hypervisor says about processors and devices.
    DeviceState,
    /// A region of this name.
    Region(String),
    /// Changes of regions since T0 ([`crate::diff`]).
    Diff,
    /// The same while the source runs, for a dry run: it is never merged.
    DryRun,
}

/// A piece of a guest and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which.
    pub kind: ObjectKind,
    /// Its size, never zero.
    pub size_bytes: u64,
}

impl ObjectKind {
    /// The number that stands for the kind, and the name that goes with it.
    pub(crate) fn code(&self) -> (u8, &str) {
        match self {
            Self::Ram => (1, ""),
            Self::DeviceState => (2, ""),
            Self::Region(name) => (3, name),
            Self::Diff => (4, ""),
            Self::DryRun => (5, ""),
        }
    }

    pub(crate) fn from_code(code: u8, name: &str) -> Result<Self, MemoryError> {
        let kind = match code {
            1 => Self::Ram,
            2 => Self::DeviceState,
            3 => Self::Region(checked_name(name)?.to_owned()),
            4 => Self::Diff,
            5 => Self::DryRun,
            _ => return Err(MemoryError::Protocol(format!("object kind {code} is unknown"))),
        };
        match kind {
            Self::Region(_) => Ok(kind),
            _ if name.is_empty() => Ok(kind),
            _ => Err(MemoryError::Protocol(format!("{kind} has no name, `{name}` was given"))),
        }
    }
}

/// A name that is safe as part of a file's name: letters, digits, `-`, `_`, `.`, not starting with a dot.
pub(crate) fn checked_name(name: &str) -> Result<&str, MemoryError> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('.');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if fits && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(MemoryError::Protocol(format!("`{}` is not a region's name", name.escape_debug())))
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram => f.write_str("ram"),
            Self::DeviceState => f.write_str("device state"),
            Self::Region(name) => write!(f, "region `{name}`"),
            Self::Diff => f.write_str("diff"),
            Self::DryRun => f.write_str("diff of a dry run"),
        }
    }
}
