//! Steps on guests: starting the destination, pausing and deleting the source.

use std::time::Duration;

use tidegate_api::host::{self as proto, Guest, GuestState, host_client::HostClient};
use tonic::transport::Channel;

use super::Work;
use crate::{
    error::Error,
    journal::unix_us,
    pace::{CALL, MEMORY_CALL},
    peers::Peer,
    preflight::state_word,
    record::Outcome,
    spec::{FinishMode, NewSessions},
};

/// Between looks at a guest.
const POLL: Duration = Duration::from_millis(100);

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

/// Start the destination, wait until it runs, and for a booting one until it says that it is ready or, when it
/// has nothing to say, until it had time to come up.
pub(super) async fn destination(work: &Work) -> Result<Outcome, Error> {
    let spec = &work.progress.spec;
    let name = &spec.destination_guest;
    let (peer, mut host) = work.destination_host().await?;
    let await_image = spec.finish == FinishMode::Mirror(NewSessions::Hold);
    let request = proto::StartDestinationRequest {
        migration_id: work.id.to_string(),
        paused: false,
        ready_text: spec.ready_text.clone().unwrap_or_default(),
        ready_timeout_s: whole_seconds(work.pace.boot),
        await_image,
    };
    // Idempotent: a host that has started it before answers with that one, and waits for what is not there yet.
    let call = host.start_destination(request);
    let mut guest = peer.answer("StartDestination", MEMORY_CALL, call).await?;
    let stopped = |found| Error::Unexpected {
        peer: peer.title().clone(),
        found,
        remedy: "look at its console on that host",
    };
    if await_image {
        // It serves nobody before it is the source's image.
        return Ok(Outcome::Destination { pid: guest.pid });
    }
    let deadline = tokio::time::Instant::now() + work.pace.boot;
    while guest.state() != GuestState::Running {
        let state = guest.state();
        if state == GuestState::Exited || tokio::time::Instant::now() >= deadline {
            let state = state_word(state);
            return Err(stopped(format!("destination `{name}` is {state} after its start")));
        }
        if state == GuestState::Paused {
            let request = proto::ContinueGuestRequest { name: name.clone() };
            guest = peer.answer("ContinueGuest", CALL, host.continue_guest(request)).await?;
        } else {
            tokio::time::sleep(POLL).await;
            guest = find(peer, &mut host, name).await?.unwrap_or_default();
        }
    }
    let boot_wait = Duration::from_secs(u64::from(spec.boot_wait_s));
    if !boot_wait.is_zero() {
        tokio::time::sleep(boot_wait).await;
        let there = find(peer, &mut host, name).await?;
        if there.is_none_or(|guest| guest.state() != GuestState::Running) {
            return Err(stopped(format!("destination `{name}` ended while it booted")));
        }
    }
    Ok(Outcome::Destination { pid: guest.pid })
}

/// Rounded up: the least that can be asked for is not nothing.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// Pause the source for good.
pub(super) async fn quiesce(work: &Work) -> Result<Outcome, Error> {
    let name = &work.progress.spec.source_guest;
    let (peer, mut host) = work.source_host().await?;
    let there = find(peer, &mut host, name).await?;
    let state = there.map(|guest| guest.state());
    let begun_us = work.progress.started.map_or(0, |(_, since_ms)| since_ms * 1000);
    let asked_unix_us = match (state, work.progress.spec.finish) {
        // By a manager that did not live to read the answer.
        (Some(GuestState::Paused), _) => begun_us,
        // One that has ended changes nothing any more, either: its regions are files, and still there.
        (Some(GuestState::Exited), FinishMode::Merge | FinishMode::None) => begun_us,
        (Some(GuestState::Exited), FinishMode::Mirror(_)) => {
            return Err(Error::Unexpected {
                peer: peer.title().clone(),
                found: format!("source `{name}` has ended, and its devices' state with it"),
                remedy: "it cannot be mirrored any more; start it again",
            });
        }
        _ => {
            let asked_unix_us = unix_us();
            let request = proto::PauseGuestRequest { name: name.clone() };
            peer.answer("PauseGuest", CALL, host.pause_guest(request)).await?;
            asked_unix_us
        }
    };
    Ok(Outcome::Quiesce { asked_unix_us })
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
