//! Everything that can go wrong, in an operator's words.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use tidegate_api::{Code, endpoint::EndpointError};

use crate::{
    fold::FoldError, phase::Phase, record::MigrationId, sessions::ListError, spec::InvalidSpec,
};

/// A switch or a host, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// `switch` or `host`.
    pub role: &'static str,
    /// Its name in the inventory.
    pub name: String,
    /// Where it is expected.
    pub endpoint: String,
}

impl PeerName {
    fn process(&self) -> &'static str {
        if self.role == "switch" { "tidegated" } else { "tidegate-hostd" }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.role, self.name)
    }
}

/// This crate's errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order cannot be understood.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// Nothing answers at a peer's endpoint.
    #[error("{peer} cannot be reached at {}: {reason}; see that {} runs there", peer.endpoint, peer.process())]
    Unreachable {
        /// Who.
        peer: PeerName,
        /// Why.
        reason: String,
    },
    /// The connection broke during a call.
    #[error("{peer} stopped answering during {call}: {reason}")]
    Broken {
        /// Who.
        peer: PeerName,
        /// During what.
        call: &'static str,
        /// Why.
        reason: String,
    },
    /// A peer answered with an error.
    #[error("{peer} refused {call}: {message}")]
    Refused {
        /// Who.
        peer: PeerName,
        /// What.
        call: &'static str,
        /// Its kind of refusal.
        code: Code,
        /// In its words.
        message: String,
    },
    /// There is nothing to compare with yet.
    #[error(
        "migration {id} has not captured its source yet; ask again when its phase `capture` is over"
    )]
    NoT0 {
        /// Which.
        id: MigrationId,
    },
    /// A peer did not answer in time.
    #[error("{peer} did not answer {call} within {} s", after.as_secs())]
    TimedOut {
        /// Who.
        peer: PeerName,
        /// What.
        call: &'static str,
        /// The limit.
        after: Duration,
    },
    /// Memory does not get over.
    #[error(
        "{last}; asked {attempts} times in {} s, and no more has arrived. See that the hosts reach each other, then migrate again",
        waited.as_secs()
    )]
    StaysBroken {
        /// Since more arrived last.
        attempts: u32,
        /// Since the first of them broke.
        waited: Duration,
        /// What the last one ended with.
        last: Box<Error>,
    },
    /// A peer is in a state that does not fit the journal.
    #[error("{peer}: {found}; {remedy}")]
    Unexpected {
        /// Who.
        peer: PeerName,
        /// What was found.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A clone takes over how its source is connected, and the source is not.
    #[error(
        "port `{port}` of {peer} has no link, waited {} s: the source is not connected there, and a clone of it would \
         stay silent; see that the source's network card and that port meet at one socket",
        waited.as_secs()
    )]
    LinkDown {
        /// The switch.
        peer: PeerName,
        /// The source's port.
        port: String,
        /// The limit.
        waited: Duration,
    },
    /// The source's memory goes on changing.
    #[error(
        "the source's memory did not stop changing: {changed_pages} page(s) of {watched_pages} in the last look, watched for \
         {watched_ms} ms. Let it come to rest, allow more time, or pause it all the same (unsettled STOP)"
    )]
    Unsettled {
        /// In the last look.
        changed_pages: u64,
        /// Of so many.
        watched_pages: u64,
        /// For how long.
        watched_ms: u64,
    },
    /// The destination does not go on as the source, and never did.
    #[error("the destination was not continued: {reason}")]
    NotContinued {
        /// Why.
        reason: String,
    },
    /// There is no source any more to give everything back to.
    #[error(
        "source `{guest}` does not run any more on {peer}: nothing is given back to it, and the destination is kept with its sessions"
    )]
    SourceGone {
        /// The source.
        guest: String,
        /// Its host.
        peer: PeerName,
    },
    /// Old sessions were left when the time allowed was over.
    #[error(
        "{old_sessions} old session(s) were left when the drain deadline of {deadline_s} s passed; nothing was cut. Allow more time, or none"
    )]
    Deadline {
        /// Left.
        old_sessions: u64,
        /// The limit.
        deadline_s: u32,
    },
    /// A preflight check failed.
    #[error("{check}: {detail}")]
    Preflight {
        /// Its name.
        check: &'static str,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The file with the source's sessions.
    #[error(transparent)]
    SessionList(#[from] ListError),
    /// The journal lacks what a step needs: an earlier phase's figures.
    #[error("the journal has no figures of phase {phase}; this is a defect of the manager")]
    Missing {
        /// Which.
        phase: Phase,
    },
    /// Another migration of the same address runs.
    #[error("{address} is being migrated already: migration {id}; watch it, or abort it first")]
    Busy {
        /// The address.
        address: IpAddr,
        /// The other one, or words when it has no name yet.
        id: String,
    },
    /// No such migration.
    #[error("there is no migration `{id}`")]
    Unknown {
        /// What was asked for.
        id: MigrationId,
    },
    /// Abort comes too late.
    #[error(
        "migration {id} can no longer be aborted: its phase {phase} has begun and will be carried through"
    )]
    TooLate {
        /// Which.
        id: MigrationId,
        /// Where it is.
        phase: Phase,
    },
    /// The migration is over.
    #[error("migration {id} is over: it {how}")]
    Over {
        /// Which.
        id: MigrationId,
        /// In one word.
        how: &'static str,
    },
    /// Only a failed migration can be resumed.
    #[error("migration {id} {how}; only one that failed can be resumed")]
    NotFailed {
        /// Which.
        id: MigrationId,
        /// What it is doing.
        how: &'static str,
    },
    /// The manager is being stopped.
    #[error("the manager is stopping; the migration goes on when it is started again")]
    Stopping,
    /// Another process has the journal open.
    #[error("journal {} is in use: another tidegate-manager runs with the same state_dir", path.display())]
    JournalHeld {
        /// The file.
        path: PathBuf,
    },
    /// The journal's format is not this version's.
    #[error("journal {} has format {found}, this version reads {known}", path.display())]
    JournalFormat {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What is understood.
        known: u64,
    },
    /// The journal cannot be read or written.
    #[error("journal {}: {reason}; see that its disk is there and has room", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A migration's records do not make sense.
    #[error("journal of migration {id}: {source}")]
    Corrupt {
        /// Which.
        id: MigrationId,
        /// Why.
        source: FoldError,
    },
    /// The configuration file.
    #[error(transparent)]
    Config(Box<tidegate_config::ConfigError>),
    /// Listening for clients.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl From<tidegate_config::ConfigError> for Error {
    fn from(error: tidegate_config::ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl Error {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::TimedOut { .. } => true,
            Self::Refused { code, .. } => {
                matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
            }
            _ => false,
        }
    }

    /// Whether a peer said that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }
}
