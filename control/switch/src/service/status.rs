//! Errors as gRPC codes.

use tidegate_api::Status;

use super::request::Invalid;
use crate::{
    core::CoreError,
    dataplane::PortFailure,
    steering::{PortClash, Refused},
};

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::UnknownPort { .. } => Self::not_found(invalid.to_string()),
            _ => Self::invalid_argument(invalid.to_string()),
        }
    }
}

impl From<CoreError> for Status {
    fn from(error: CoreError) -> Self {
        let text = error.to_string();
        match error {
            CoreError::Refused(refused) => of_refused(&refused, text),
            CoreError::Dataplane(_) | CoreError::Stopped => Self::unavailable(text),
            CoreError::Port(PortFailure::Dataplane(_)) => Self::unavailable(text),
            CoreError::Port(PortFailure::Full(_)) => Self::resource_exhausted(text),
            CoreError::Port(PortFailure::Device(_)) => Self::failed_precondition(text),
            CoreError::Snapshot(_) => {
                tracing::error!(%error, "refused a request for a fault of our own");
                Self::internal(text)
            }
        }
    }
}

fn of_refused(refused: &Refused, text: String) -> Status {
    match refused {
        Refused::UnknownAddress(_) | Refused::UnknownPort { .. } => Status::not_found(text),
        Refused::AddressExists(_)
        | Refused::AddressIsLocator { .. }
        | Refused::LocatorTaken { .. }
        | Refused::PortExists(_)
        | Refused::PortAddressManaged(_)
        | Refused::PortAddressIsLocator { .. }
        | Refused::PortAddressIsNeighbour(_)
        | Refused::PortPrefixRouted(_) => Status::already_exists(text),
        Refused::Port(PortClash::NoDevice(_)) => {
            Status::invalid_argument(format!("device: {text}"))
        }
        Refused::Port(_) => Status::already_exists(text),
        Refused::OwnAddress { .. }
        | Refused::LocatorManaged(_)
        | Refused::DestinationIsHome { .. }
        | Refused::DestinationName { .. }
        | Refused::DestinationPort { .. }
        | Refused::TunnelGateway { .. }
        | Refused::TunnelUdpPort { .. } => Status::invalid_argument(text),
        Refused::MigrationInProgress { .. }
        | Refused::NotHosted { .. }
        | Refused::NotTracked { .. }
        | Refused::NoDestination { .. }
        | Refused::AlreadyCutOver { .. }
        | Refused::NotCutOver { .. }
        | Refused::NotDrained { .. }
        | Refused::SessionsStay { .. }
        | Refused::NothingToAbort { .. }
        | Refused::PortHasBackend { .. }
        | Refused::PortIsConfigured { .. } => Status::failed_precondition(text),
        Refused::NoSlot(_) | Refused::NoTunnel(_) => Status::resource_exhausted(text),
    }
}
