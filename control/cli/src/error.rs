//! What can go wrong, and the exit code for it.

use tidegate_api::{Status, endpoint::EndpointError};

use crate::domain::Invalid;

/// This crate's errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers.
    #[error("{source}; is {process} running? Say where with {option}")]
    Unreachable {
        /// Why.
        source: EndpointError,
        /// What should run.
        process: &'static str,
        /// The option that says where.
        option: &'static str,
    },
    /// The other side refused.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// The manager went away and did not come back.
    #[error(
        "the manager stopped answering; the migration is in its journal. Watch it again with: tidegate watch {id}"
    )]
    Lost {
        /// The migration.
        id: String,
    },
    /// An answer that makes no sense.
    #[error("the answer makes no sense: {0}; are all parts of the same version?")]
    Invalid(#[from] Invalid),
    /// A file could not be loaded.
    #[error(transparent)]
    Config(Box<tidegate_config::ConfigError>),
    /// Writing to the terminal.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<tidegate_config::ConfigError> for Error {
    fn from(error: tidegate_config::ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a migration completed.
    Done,
    /// Something went wrong; a message says what.
    Error,
    /// The command line makes no sense.
    Usage,
    /// The migration was aborted: the source owns everything.
    Aborted,
    /// The migration failed and needs an operator.
    Failed,
    /// A preflight check failed: nothing was started.
    NotPossible,
    /// Interrupted while watching; the migration goes on.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Aborted => 3,
            Self::Failed => 4,
            Self::NotPossible => 5,
            Self::Interrupted => 130,
        }
    }
}
