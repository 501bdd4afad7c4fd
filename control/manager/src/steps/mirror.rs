//! Steps that make the destination the source's image, and have it go on as the source.

use tidegate_api::host::{self as proto, GuestState};
use tokio::time::{Instant, timeout};

use super::{Work, guests::find};
use crate::{
    error::Error,
    guest::Disk,
    journal::unix_us,
    live::{self, Advance, Carried},
    pace::{CALL, COPY_SILENCE, MEMORY_CALL},
    phase::Phase,
    preflight::state_word,
    record::Outcome,
};

/// Send what the source changed since T0 while it runs, so that less is left for the time in which neither side runs.
pub(super) async fn ahead(work: &Work) -> Result<Outcome, Error> {
    const ASKED: &str = "SendAhead";
    let data_endpoint = work.data_endpoint().await?;
    let (peer, mut host) = work.source_host().await?;
    let request = proto::SendAheadRequest {
        migration_id: work.id.to_string(),
        data_endpoint,
        bandwidth_mbps: work.progress.spec.carriage.bandwidth_mbps,
    };
    let mut stream = peer.answer(ASKED, CALL, host.send_ahead(request)).await?;
    let (mut before, mut told_at) = (0, Instant::now());
    loop {
        let message = timeout(COPY_SILENCE, stream.message()).await;
        let timed_out =
            |_| Error::TimedOut { peer: peer.title().clone(), call: ASKED, after: COPY_SILENCE };
        let message = message.map_err(timed_out)?.map_err(|status| peer.refusal(ASKED, &status))?;
        match message {
            Some(proto::AheadProgress { done: true, pass_bytes, why, .. }) => {
                return Ok(Outcome::Ahead { pass_bytes, why });
            }
            Some(proto::AheadProgress { sent_bytes, differing_bytes, .. }) => {
                let rate_bytes_per_s = per_second(sent_bytes - sent_bytes.min(before), told_at);
                (before, told_at) = (sent_bytes, Instant::now());
                let carried = Carried {
                    sent_bytes,
                    // Packed, they are fewer; with what is around them, they may be more.
                    covered_bytes: sent_bytes.min(differing_bytes),
                    total_bytes: differing_bytes,
                    rate_bytes_per_s,
                };
                live::advance(&work.live, Advance::Ahead(carried));
            }
            None => {
                return Err(Error::Broken {
                    peer: peer.title().clone(),
                    call: ASKED,
                    reason: "it ended before everything was sent".to_owned(),
                });
            }
        }
    }
}

fn per_second(bytes: u64, since: Instant) -> u64 {
    (bytes as f64 / since.elapsed().as_secs_f64().max(1e-3)) as u64
}

/// Send what the source changed since T0, and its final device state.
pub(super) async fn diff(work: &Work) -> Result<Outcome, Error> {
    let data_endpoint = work.data_endpoint().await?;
    let (peer, mut host) = work.source_host().await?;
    let carriage = work.progress.spec.carriage;
    let request = proto::SendImageRequest {
        migration_id: work.id.to_string(),
        data_endpoint,
        bandwidth_mbps: carriage.last_mbps(),
    };
    let report = peer.answer("SendImage", MEMORY_CALL, host.send_image(request)).await?;
    Ok(Outcome::Image {
        compared_bytes: report.compared_bytes,
        changed_bytes: report.changed_bytes,
        sent_bytes: report.sent_bytes,
        device_state_bytes: report.device_state_bytes,
        digest: report.digest,
        disks: report.disks.iter().map(Disk::from_proto).collect(),
    })
}

/// Make the destination the source's image; it stays paused.
pub(super) async fn mirror(work: &Work) -> Result<Outcome, Error> {
    let Outcome::Image { digest, disks, .. } = work.outcome(Phase::Diff)? else {
        return Err(Error::Missing { phase: Phase::Diff });
    };
    let Outcome::Preflight { generation_id, identity, .. } = work.outcome(Phase::Preflight)? else {
        return Err(Error::Missing { phase: Phase::Preflight });
    };
    let (peer, mut host) = work.destination_host().await?;
    let request = proto::ApplyImageRequest {
        migration_id: work.id.to_string(),
        digest: digest.clone(),
        generation_id: generation_id.clone(),
        identity: identity.clone(),
        disks: disks.iter().map(Disk::to_proto).collect(),
    };
    let applied = peer.answer("ApplyImage", MEMORY_CALL, host.apply_image(request)).await?;
    if applied.digest != *digest {
        return Err(Error::Unexpected {
            peer: peer.title().clone(),
            found: format!("its image has digest {}, the source {digest}", applied.digest),
            remedy: "see that both hosts are of the same version",
        });
    }
    Ok(Outcome::Mirror { applied_bytes: applied.applied_bytes, digest: applied.digest })
}

/// Have the destination go on as the source.
pub(super) async fn go_on(work: &Work) -> Result<Outcome, Error> {
    let name = &work.progress.spec.destination_guest;
    let (peer, mut host) = work.destination_host().await?;
    let there = find(peer, &mut host, name).await?;
    let state = there.map_or(GuestState::Exited, |guest| guest.state());
    match state {
        // By a manager that did not live to read the answer.
        GuestState::Running => {}
        GuestState::Paused => {
            let request = proto::ContinueGuestRequest { name: name.clone() };
            let guest = peer.answer("ContinueGuest", CALL, host.continue_guest(request)).await?;
            if guest.state() != GuestState::Running {
                let state = state_word(guest.state());
                return Err(gone(work, format!("`{name}` is {state} after it was continued")));
            }
        }
        other => return Err(gone(work, format!("`{name}` is {}", state_word(other)))),
    }
    let asked = work.progress.done(Phase::Quiesce).map(|done| &done.outcome);
    let pause_ns = match asked {
        Some(Outcome::Quiesce { asked_unix_us: asked @ 1.. }) => {
            unix_us().saturating_sub(*asked).saturating_mul(1000)
        }
        _ => 0,
    };
    Ok(Outcome::Continue { pause_ns })
}

/// Whatever a destination did that is not there any more, no client has heard of it: the switch gives it no session before
/// the release. But it may have written to the source's disks.
fn gone(work: &Work, reason: String) -> Error {
    let peer = work.inventory.host(&work.progress.spec.destination_host);
    let writes = match work.outcome(Phase::Preflight) {
        Ok(Outcome::Preflight { destination, .. }) => destination.writes_shared_disks(),
        _ => false,
    };
    match peer {
        Ok(peer) if writes && !work.is_first => Error::Unexpected {
            peer: peer.title().clone(),
            found: format!("{reason}, and it may have written to the source's disks"),
            remedy: "compare the disks before the source is continued by hand",
        },
        _ => Error::NotContinued { reason },
    }
}
