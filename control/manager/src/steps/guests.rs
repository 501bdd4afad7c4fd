//! Steps on guests: starting the destination, pausing and deleting the source.

use std::time::Duration;

use tidegate_api::host::{self as proto, Guest, GuestState, host_client::HostClient};
use tonic::transport::Channel;

use super::Work;
use crate::{
    error::Error,
    pace::{CALL, MEMORY_CALL},
    peers::Peer,
    preflight::state_word,
    record::Outcome,
};

/// The guest of this name; None when the host has none.
pub(super) async fn find(
    peer: &Peer,
    host: &mut HostClient<Channel>,
    name: &str,
) -> Result<Option<Guest>, Error> {
    let request = proto::GetGuestRequest { name: name.to_owned() };
    match peer.answer("GetGuest", CALL, host.get_guest(request)).await {
        Ok(guest) => Ok(Some(guest)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Start the destination and wait until it runs.
pub(super) async fn destination(work: &Work) -> Result<Outcome, Error> {
    let name = &work.progress.spec.destination_guest;
    let (peer, mut host) = work.destination_host().await?;
    // The name was free at preflight: a guest that has it now is ours, started before a restart.
    let mut guest = match find(peer, &mut host, name).await? {
        Some(guest) => guest,
        None => {
            let request =
                proto::StartDestinationRequest { migration_id: work.id.to_string(), paused: false };
            let call = host.start_destination(request);
            peer.answer("StartDestination", MEMORY_CALL, call).await?
        }
    };
    let deadline = tokio::time::Instant::now() + work.pace.boot;
    loop {
        match guest.state() {
            GuestState::Running => return Ok(Outcome::Destination { pid: guest.pid }),
            GuestState::Exited => {
                return Err(Error::Unexpected {
                    peer: peer.title().clone(),
                    found: format!("destination `{name}` ended right after its start"),
                    remedy: "look at its console on that host",
                });
            }
            state if tokio::time::Instant::now() >= deadline => {
                return Err(Error::Unexpected {
                    peer: peer.title().clone(),
                    found: format!(
                        "destination `{name}` is still {} after {} s",
                        state_word(state),
                        work.pace.boot.as_secs()
                    ),
                    remedy: "look at its console on that host",
                });
            }
            GuestState::Paused => {
                let request = proto::ContinueGuestRequest { name: name.clone() };
                guest = peer.answer("ContinueGuest", CALL, host.continue_guest(request)).await?;
            }
            GuestState::Unspecified => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                guest = find(peer, &mut host, name).await?.unwrap_or_default();
            }
        }
    }
}

/// Pause the source for good.
pub(super) async fn quiesce(work: &Work) -> Result<Outcome, Error> {
    let name = &work.progress.spec.source_guest;
    let (peer, mut host) = work.source_host().await?;
    let there = find(peer, &mut host, name).await?;
    if there.is_some_and(|guest| guest.state() == GuestState::Paused) {
        return Ok(Outcome::Quiesce);
    }
    let request = proto::PauseGuestRequest { name: name.clone() };
    peer.answer("PauseGuest", CALL, host.pause_guest(request)).await?;
    Ok(Outcome::Quiesce)
}

/// Delete the source, and let both hosts forget the migration. The service has moved by now: what cannot be
/// tidied up is reported and does not fail the migration.
pub(super) async fn cleanup(work: &Work) -> Result<Outcome, Error> {
    let spec = &work.progress.spec;
    let mut left_behind = Vec::new();
    if spec.keep_source {
        left_behind.push(format!("source `{}` kept, paused", spec.source_guest));
    } else {
        let (peer, mut host) = work.source_host().await?;
        let deleted = delete(peer, &mut host, &spec.source_guest).await;
        keep_trying_or_note(deleted, &mut left_behind)?;
    }
    keep_trying_or_note(forget(work, &spec.source_host).await, &mut left_behind)?;
    if spec.destination_host != spec.source_host {
        keep_trying_or_note(forget(work, &spec.destination_host).await, &mut left_behind)?;
    }
    Ok(Outcome::Cleanup { left_behind })
}

/// A transient error is worth another attempt of the whole step; another is only worth a line.
fn keep_trying_or_note(done: Result<(), Error>, notes: &mut Vec<String>) -> Result<(), Error> {
    match done {
        Err(error) if error.is_transient() => Err(error),
        Err(error) => {
            notes.push(error.to_string());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// End a guest and remove its files; one that is gone is fine.
pub(super) async fn delete(
    peer: &Peer,
    host: &mut HostClient<Channel>,
    name: &str,
) -> Result<(), Error> {
    let request = proto::DeleteGuestRequest { name: name.to_owned(), purge: true };
    match peer.answer("DeleteGuest", CALL, host.delete_guest(request)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Let a host drop what it holds for the migration.
pub(super) async fn forget(work: &Work, host_name: &str) -> Result<(), Error> {
    let peer = work.inventory.host(host_name)?;
    let mut host = peer.host().await?;
    let request = proto::ForgetRequest { migration_id: work.id.to_string() };
    match peer.answer("Forget", CALL, host.forget(request)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
