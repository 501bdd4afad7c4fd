//! Giving everything back to the source. Every part is idempotent; a restarted manager begins again.

use tidegate_api::{
    host::{self as host_proto, GuestState},
    switch as proto,
};

use super::{Work, guests};
use crate::{
    error::Error,
    pace::CALL,
    phase::Phase,
    spec::{FinishMode, NewSessions},
};

/// Undo what the migration's phases did, as far as they have begun. Answers what could not be tidied up.
///
/// # Errors
/// [`Error::SourceGone`] when sessions depend on the destination by now and the source does not run;
/// the source could not be continued, or the switch did not give the address back to it.
pub async fn undo(work: &Work) -> Result<Vec<String>, Error> {
    let progress = &work.progress;
    let spec = &progress.spec;
    let mut left_behind = Vec::new();
    needs_source(work).await?;
    // A capture that still goes on has the source's monitor.
    if progress.has_begun(Phase::Capture) && progress.done(Phase::Capture).is_none() {
        guests::forget(work, &spec.source_host).await?;
    }
    // The source first, so that it answers when its packets come back.
    if progress.has_begun(Phase::Capture) {
        left_behind.extend(continue_source(work).await?);
    }
    if progress.has_begun(Phase::Takeover) {
        give_back(work).await?;
    }
    if progress.has_begun(Phase::Destination) {
        note(delete_destination(work).await, &mut left_behind);
    }
    // The takeover has the destination's host make room first.
    if progress.has_begun(Phase::Takeover) {
        note(guests::forget(work, &spec.source_host).await, &mut left_behind);
    }
    if progress.has_begun(Phase::Takeover) && spec.destination_host != spec.source_host {
        note(guests::forget(work, &spec.destination_host).await, &mut left_behind);
    }
    Ok(left_behind)
}

/// From the cutover on, also one whose answer was lost, the destination has sessions of its own: only a source that
/// is there is worth their end.
///
/// # Errors
/// [`Error::SourceGone`], or what its host says.
pub async fn needs_source(work: &Work) -> Result<(), Error> {
    let from = match work.progress.spec.finish {
        // It has no sessions yet, but may be all that is left of the source.
        FinishMode::Mirror(NewSessions::Hold) => Phase::Quiesce,
        _ => Phase::Cutover,
    };
    if !work.progress.has_begun(from) {
        return Ok(());
    }
    let guest = &work.progress.spec.source_guest;
    let (peer, mut host) = work.source_host().await?;
    let there = guests::find(peer, &mut host, guest).await?;
    if there.is_some_and(|it| matches!(it.state(), GuestState::Running | GuestState::Paused)) {
        return Ok(());
    }
    Err(Error::SourceGone { guest: guest.clone(), peer: peer.title().clone() })
}

/// What hangs on a dead destination host must not keep the source from being whole again: it is noted.
fn note(done: Result<(), Error>, left_behind: &mut Vec<String>) {
    if let Err(error) = done {
        left_behind.push(error.to_string());
    }
}

/// Answers a line when the source cannot be continued because it is gone.
async fn continue_source(work: &Work) -> Result<Option<String>, Error> {
    let name = &work.progress.spec.source_guest;
    let (peer, mut host) = work.source_host().await?;
    match guests::find(peer, &mut host, name).await? {
        Some(guest) if guest.state() == GuestState::Running => Ok(None),
        Some(guest) if guest.state() == GuestState::Paused => {
            let request = host_proto::ContinueGuestRequest { name: name.clone() };
            peer.answer("ContinueGuest", CALL, host.continue_guest(request)).await?;
            Ok(None)
        }
        // Not our doing, and nothing to be done about it here: the address still goes back to it.
        _ => {
            Ok(Some(format!("source `{name}` does not run any more on {}; start it", peer.title())))
        }
    }
}

async fn give_back(work: &Work) -> Result<(), Error> {
    let (peer, mut switch, found) = match work.steering().await {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    match &found.destination {
        // Nothing was done yet, or it is undone already.
        None if !found.hosted => return Ok(()),
        // Somebody else's migration by now.
        Some(other) if other.name != work.progress.spec.destination_guest => return Ok(()),
        _ => {}
    }
    let request = proto::AbortRequest { address: work.address() };
    peer.answer("Abort", CALL, switch.abort(request)).await?;
    Ok(())
}

async fn delete_destination(work: &Work) -> Result<(), Error> {
    let (peer, mut host) = work.destination_host().await?;
    guests::delete(peer, &mut host, &work.progress.spec.destination_guest).await
}
