//! Errors as gRPC codes.

use tidegate_api::Status;

use super::request::Invalid;
use crate::{core::CoreError, steering::Refused};

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::UnknownPort { .. } => Self::not_found(invalid.to_string()),
            _ => Self::invalid_argument(invalid.to_string()),
        }
    }
}

/// The status of a core's error.
pub(super) fn of(error: CoreError) -> Status {
    let text = error.to_string();
    match error {
        CoreError::Refused(refused) => of_refused(&refused, text),
        CoreError::Dataplane(_) | CoreError::Stopped => Status::unavailable(text),
        CoreError::Snapshot(_) => {
            tracing::error!(%error, "refused a request for a fault of our own");
            Status::internal(text)
        }
    }
}

fn of_refused(refused: &Refused, text: String) -> Status {
    match refused {
        Refused::UnknownAddress(_) => Status::not_found(text),
        Refused::AddressExists(_)
        | Refused::AddressIsLocator { .. }
        | Refused::LocatorTaken { .. } => Status::already_exists(text),
        Refused::OwnAddress { .. }
        | Refused::LocatorManaged(_)
        | Refused::DestinationIsHome { .. }
        | Refused::DestinationName { .. }
        | Refused::DestinationPort { .. } => Status::invalid_argument(text),
        Refused::MigrationInProgress { .. }
        | Refused::NotHosted { .. }
        | Refused::NotTracked { .. }
        | Refused::NoDestination { .. }
        | Refused::AlreadyCutOver { .. }
        | Refused::NotCutOver { .. }
        | Refused::NotDrained { .. }
        | Refused::NothingToAbort { .. } => Status::failed_precondition(text),
        Refused::NoSlot(_) => Status::resource_exhausted(text),
    }
}
