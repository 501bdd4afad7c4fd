//! What can go wrong on a host, and how a caller is told.

use std::{io, path::PathBuf};

use tidegate_api::{Code, Status, endpoint::EndpointError};
use tidegate_memory::MemoryError;

/// What can go wrong on a host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A field of a request is not valid.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// Guest, capture or migration that is not there.
    #[error("{what} `{name}` is not known to this host")]
    NotFound {
        /// `guest`, `migration`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A guest of that name is there already.
    #[error("guest `{0}` exists already; delete it first or take another name")]
    Exists(String),
    /// Something is missing; the text says what and the remedy.
    #[error("{0}")]
    Precondition(String),
    /// The hypervisor did not start, or ended.
    #[error("QEMU of guest `{guest}` {what}; its last words ({log}):\n{tail}", log = log.display())]
    Qemu {
        /// The guest.
        guest: String,
        /// What it did.
        what: String,
        /// Where it writes.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// A guest that booted did not say in time that it is ready.
    #[error(
        "guest `{guest}` did not print `{text}` within {after_s} s; its console ends ({console}):\n{tail}",
        console = console.display()
    )]
    NotReady {
        /// The guest.
        guest: String,
        /// What it was to print.
        text: String,
        /// The limit.
        after_s: u64,
        /// Its console's file.
        console: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// The hypervisor refused a command.
    #[error("QEMU refused `{command}`: {description} ({class})")]
    Refused {
        /// The QMP command.
        command: String,
        /// QMP's error class.
        class: String,
        /// QMP's description.
        description: String,
    },
    /// The hypervisor's monitor does not answer as it should.
    #[error("QEMU's monitor {}: {reason}", path.display())]
    Monitor {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The state that the hypervisor sends is not as it should be.
    #[error(
        "the state that QEMU of guest `{guest}` sent is not understood, at byte {at_bytes}: {reason}"
    )]
    Stream {
        /// The guest.
        guest: String,
        /// Where.
        at_bytes: u64,
        /// What is wrong.
        reason: String,
    },
    /// The agent in a guest does not answer as it should.
    #[error("the guest agent of `{guest}` cannot say which sockets there are: {reason}")]
    Agent {
        /// The guest.
        guest: String,
        /// What happened.
        reason: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing can listen there.
    #[error("cannot listen on {address} for memory from other hosts: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Another host does not answer.
    #[error(
        "cannot reach the destination's host at {address}: {source}; is it running, is the way open?"
    )]
    Unreachable {
        /// Its data endpoint.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// RAM did not get to the destination's host while it was captured.
    #[error(
        "the RAM of guest `{guest}` did not get to the destination's host at {address} while it was captured: {source}. The source \
         goes on and nothing is lost; see to the destination's host and the way to it, then capture again"
    )]
    Straight {
        /// The guest.
        guest: String,
        /// Where its RAM went.
        address: String,
        /// Why.
        source: MemoryError,
    },
    /// A destination that is not the source's image although all was applied.
    #[error(
        "destination `{guest}` is not the source's image: its memory has digest {found}, the source's {expected}; it \
         is not started. Abort the migration: the source goes on"
    )]
    NotAnImage {
        /// The destination.
        guest: String,
        /// Of what is there.
        found: String,
        /// Of the source.
        expected: String,
    },
    /// Capture, copy, diff or merge failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The gRPC endpoint failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// This program is being ended.
    #[error("the host is stopping and begins nothing; ask again when it was started again")]
    Stopping,
    /// A defect of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

impl HostError {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn guest_not_found(name: &str) -> Self {
        Self::NotFound { what: "guest", name: name.to_owned() }
    }
}

fn code_of(error: &MemoryError) -> Code {
    match error {
        MemoryError::Mismatch { .. }
        | MemoryError::Schema { .. }
        | MemoryError::Header { .. }
        | MemoryError::Refused(_)
        | MemoryError::Gone { .. }
        | MemoryError::DataPath { .. }
        | MemoryError::Version { .. }
        | MemoryError::Tls(_) => Code::FailedPrecondition,
        // Nothing was merged, and merging again would end the same: the migration can be given up.
        MemoryError::Conflicts { .. } => Code::Aborted,
        MemoryError::NoSpace { .. } => Code::ResourceExhausted,
        MemoryError::Connection { .. } => Code::Unavailable,
        MemoryError::Digest { .. } => Code::DataLoss,
        _ => Code::Internal,
    }
}

impl From<HostError> for Status {
    fn from(error: HostError) -> Self {
        let code = match &error {
            HostError::Invalid { .. } => Code::InvalidArgument,
            HostError::NotFound { .. } => Code::NotFound,
            HostError::Exists(_) => Code::AlreadyExists,
            HostError::Memory(source) | HostError::Straight { source, .. } => code_of(source),
            HostError::NotReady { .. } => Code::DeadlineExceeded,
            HostError::Unreachable { .. } | HostError::Stopping => Code::Unavailable,
            HostError::NotAnImage { .. } => Code::DataLoss,
            HostError::Precondition(_)
            | HostError::Qemu { .. }
            | HostError::Refused { .. }
            | HostError::Monitor { .. }
            | HostError::Stream { .. }
            | HostError::Agent { .. } => Code::FailedPrecondition,
            HostError::File { .. }
            | HostError::Listen { .. }
            | HostError::Endpoint(_)
            | HostError::Internal(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
