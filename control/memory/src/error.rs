//! What can go wrong with guest memory.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use tidegate_region::{HeaderError, MergeType};

use crate::ObjectKind;

/// What can go wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// An operation on a file failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: `open`, `map`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not enough room for a copy of guest memory.
    #[error(
        "not enough room in {}: {needed_bytes} bytes are needed, {free_bytes} are free; \
         make room there or configure another directory", path.display()
    )]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// What is needed.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// An access outside of a mapping.
    #[error("{len_bytes} bytes at {offset} lie outside {} ({size_bytes} bytes)", path.display())]
    OutOfBounds {
        /// The mapped file.
        path: PathBuf,
        /// Start of the access.
        offset: u64,
        /// Its length.
        len_bytes: u64,
        /// Size of the mapping.
        size_bytes: u64,
    },
    /// The connection to the other host failed, or it went away in the middle.
    #[error("connection to the other host failed while {during}: {source}")]
    Connection {
        /// What was being sent or awaited.
        during: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The peer said something the protocol does not allow.
    #[error("the other host broke the copy protocol: {0}")]
    Protocol(String),
    /// The peer speaks another version.
    #[error(
        "copy protocol version {found} was asked for, {} is spoken there; update one of the two hosts",
        .supported.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
    )]
    Version {
        /// The one of the side that began.
        found: u16,
        /// Those of the side that answers.
        supported: Vec<u16>,
    },
    /// The peer refused.
    #[error("the other host refused: {0}")]
    Refused(String),
    /// The whole of what arrived is not what was sent.
    #[error(
        "what arrived is damaged: its digest is {found}, the sender's is {expected}; send it again"
    )]
    Digest {
        /// Of what arrived.
        found: String,
        /// What the sender said.
        expected: String,
    },
    /// A section arrived damaged each time it was sent.
    #[error(
        "section {section} ({len_bytes} bytes at {offset} of the {object}) arrived damaged \
         {attempts} times; check both hosts' memory and the network between them, then copy again"
    )]
    Section {
        /// Its number.
        section: u32,
        /// Its object.
        object: ObjectKind,
        /// Where it is in the object.
        offset: u64,
        /// Its length.
        len_bytes: u64,
        /// How often it was sent.
        attempts: u32,
    },
    /// Something was sent, and is not there any more.
    #[error(
        "the destination's host does not have section {section}, of the {object}, any more, and only a hash of each page \
         is kept here: abort the migration and start it again"
    )]
    Gone {
        /// The section's number.
        section: u32,
        /// Its object.
        object: ObjectKind,
    },
    /// Somebody ended the copy.
    #[error("the copy was cancelled: {0}")]
    Cancelled(String),
    /// A data path cannot be taken between these two hosts.
    #[error("the data path {path} cannot be taken: {reason}")]
    DataPath {
        /// Its name.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Certificates or keys cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// A diff or redo file is not well formed.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which.
        what: &'static str,
        /// How.
        reason: String,
    },
    /// A diff does not fit what it is for.
    #[error("the diff does not fit {object}: {reason}")]
    Mismatch {
        /// What it is for.
        object: ObjectKind,
        /// How.
        reason: String,
    },
    /// A region has a header that is not valid.
    #[error("region `{region}` cannot be merged: {error}")]
    Header {
        /// The region.
        region: String,
        /// What is wrong.
        error: HeaderError,
    },
    /// Source and destination run services that keep different things in a region.
    #[error(
        "region `{region}` has schema version {source_version} at the source and {destination_version} at the destination; \
         nothing was merged: start the destination with a service of schema version {source_version}"
    )]
    Schema {
        /// The region.
        region: String,
        /// The source's service's.
        source_version: u32,
        /// The destination's.
        destination_version: u32,
    },
    /// Both sides changed what only one may change. Nothing was applied.
    #[error(
        "{total} values were changed on both sides or otherwise than their merge type allows, nothing was \
         merged: {}", Listed(.conflicts, *.total)
    )]
    Conflicts {
        /// The first of them.
        conflicts: Vec<Conflict>,
        /// How many there are.
        total: u64,
    },
}

impl MemoryError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    pub(crate) fn connection(during: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Connection { during, source }
    }
}

/// A value that both sides changed since T0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The region.
    pub region: String,
    /// Where in it.
    pub offset: u64,
    /// At T0.
    pub base: Vec<u8>,
    /// The destination's.
    pub ours: Vec<u8>,
    /// The source's.
    pub theirs: Vec<u8>,
    /// The merge type that decided, or refused.
    pub resolution: MergeType,
    /// What is wrong with them.
    pub cause: Cause,
}

/// Why values are in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides changed the value.
    BothChanged,
    /// What both sides appended to a log does not fit; the values are its lengths.
    LogFull,
    /// A log is shorter than at T0; the values are its lengths.
    LogShortened,
    /// A log's length is more than fits, or no multiple of the width; the values are its lengths.
    LogLength,
    /// The source changed a record that was there at T0.
    LogRewritten,
}

impl Cause {
    /// What it is in a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BothChanged => "both changed",
            Self::LogFull => "log full",
            Self::LogShortened => "log shortened",
            Self::LogLength => "log length wrong",
            Self::LogRewritten => "log rewritten",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "region `{}` offset {}: T0 {}, destination {}, source {} ({}",
            self.region,
            self.offset,
            Hex(&self.base),
            Hex(&self.ours),
            Hex(&self.theirs),
            self.resolution
        )?;
        match self.cause {
            Cause::BothChanged => f.write_str(")"),
            cause => write!(f, ", {})", cause.name()),
        }
    }
}

/// Most conflicts spelled out in one message.
const LISTED: usize = 8;

struct Listed<'a>(&'a [Conflict], u64);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, conflict) in self.0.iter().take(LISTED).enumerate() {
            write!(f, "{}{conflict}", if index == 0 { "" } else { "; " })?;
        }
        match self.1.saturating_sub(LISTED.min(self.0.len()) as u64) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
