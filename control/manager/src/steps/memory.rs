//! Steps on the guests' memory: capture, copy, diff, merge.

use std::convert::Infallible;

use tidegate_api::host::{self as proto, host_client::HostClient};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::Work;
use crate::{
    error::Error,
    hold, link,
    live::{self, Advance},
    pace::{CALL, COPY_LOOK, COPY_SILENCE, MEMORY_CALL, Pace},
    peers::Peer,
    phase::Phase,
    record::{Outcome, Straight},
    spec::{CaptureWay, DestinationKind, FinishMode, NewSessions, Spec},
};

/// T0.
pub(super) async fn capture(work: &Work) -> Result<Outcome, Error> {
    let Outcome::Preflight { regions, twin_bytes, .. } = work.outcome(Phase::Preflight)? else {
        return Err(Error::Missing { phase: Phase::Preflight });
    };
    let clone = work.progress.spec.kind == DestinationKind::Clone;
    // Where the source is behind a link of the switch; a tunnel's other end is another switch's.
    let (switch, _, found) = work.steering().await?;
    let port = found.home.filter(|home| home.encap.is_none()).map(|home| home.port);
    if let (true, Some(port)) = (clone, &port) {
        // The switch, or the source's connection to it, may have begun anew since the preflight.
        link::wait_until_up(switch, port, work.pace.link).await?;
    }
    let mut straight = None;
    if clone {
        // Again, for a destination's host that has forgotten it.
        let prepared = prepare(work).await?;
        let data_endpoint = prepared.data_endpoint;
        let carriage = work.progress.spec.carriage;
        let to = proto::Straight {
            data_endpoint,
            bandwidth_mbps: carriage.bandwidth_mbps.unwrap_or_default(),
            transport: carriage.transport_name(),
        };
        straight = prepared.straight.then_some(to);
    }
    let (peer, mut host) = work.source_host().await?;
    let request = proto::CaptureRequest {
        migration_id: work.id.to_string(),
        guest: work.progress.spec.source_guest.clone(),
        clone,
        regions: regions.clone(),
        clone_use: clone_use(&work.progress.spec).into(),
        way: work.progress.spec.capture.to_proto().into(),
        audit: false,
        straight,
    };
    let goes_straight = request.straight.is_some();
    let mut looks = host.clone();
    let call = captured(peer, &mut host, request, work.pace, *twin_bytes);
    let call = async {
        tokio::select! {
            report = call => report,
            never = tell(work, peer, &mut looks), if goes_straight => match never {},
        }
    };
    let (report, held_packets) = match &port {
        Some(port) => hold::while_held(switch, port, work.pace.hold_again, call).await,
        None => (call.await, None),
    };
    let report = report?;
    let went = Straight { sent_bytes: report.sent_bytes, transport: report.transport.clone() };
    Ok(Outcome::Capture {
        straight: report.straight.then_some(went),
        way: CaptureWay::from_proto(report.way()),
        why: report.why,
        pass_bytes: report.pass_bytes,
        held_packets,
        pause_ns: report.pause_ns,
        ram_bytes: report.ram_bytes,
        region_bytes: report.region_bytes,
        device_state_bytes: report.device_state_bytes,
    })
}

/// Where RAM goes straight, a capture takes as long as its copy: while the host is there, it is asked again for as long as
/// that may take.
async fn captured(
    peer: &Peer,
    host: &mut HostClient<Channel>,
    request: proto::CaptureRequest,
    pace: Pace,
    twin_bytes: u64,
) -> Result<proto::CaptureReport, Error> {
    let longest = request.straight.as_ref().map(|to| pace.straight(twin_bytes, to.bandwidth_mbps));
    let begun = Instant::now();
    loop {
        let asked = peer.answer("Capture", pace.capture, host.capture(request.clone())).await;
        match (asked, longest) {
            (Err(Error::TimedOut { peer, call, .. }), Some(longest))
                if begun.elapsed() >= longest =>
            {
                return Err(Error::TimedOut { peer, call, after: begun.elapsed() });
            }
            (Err(Error::TimedOut { .. }), Some(_)) => {
                let there = host.get_status(proto::GetStatusRequest {});
                peer.answer("GetStatus", CALL, there).await?;
            }
            (asked, _) => return asked,
        }
    }
}

/// Tell watchers how far RAM is that goes straight, for as long as this is waited for.
async fn tell(work: &Work, peer: &Peer, host: &mut HostClient<Channel>) -> Infallible {
    loop {
        sleep(COPY_LOOK).await;
        let call = host.get_copy(proto::GetCopyRequest { migration_id: work.id.to_string() });
        // Whoever does not answer is found out by the capture; a host of an earlier version does not know this call.
        if let Ok(proto::GetCopyResponse { progress: Some(progress) }) =
            peer.answer("GetCopy", CALL, call).await
        {
            live::advance(&work.live, Advance::Capture((&progress).into()));
        }
    }
}

/// Have the destination's host make room for the guest; where it takes memory.
pub(super) async fn prepare(work: &Work) -> Result<proto::PrepareReceiveResponse, Error> {
    let Outcome::Preflight { destination, .. } = work.outcome(Phase::Preflight)? else {
        return Err(Error::Missing { phase: Phase::Preflight });
    };
    let spec = &work.progress.spec;
    let (receiver, mut host) = work.destination_host().await?;
    let request = proto::PrepareReceiveRequest {
        migration_id: work.id.to_string(),
        spec: Some(destination.to_proto()),
        clone: spec.kind == DestinationKind::Clone,
        // What a clone changes while it serves must be undone before it becomes the source's image.
        keep_t0: spec.finish == FinishMode::Mirror(NewSessions::Cut),
    };
    let call = host.prepare_receive(request);
    receiver.answer("PrepareReceive", MEMORY_CALL, call).await
}

/// Whether the clone runs while the source does.
pub(crate) fn clone_use(order: &Spec) -> proto::CloneUse {
    match order.finish {
        FinishMode::Mirror(NewSessions::Hold) => proto::CloneUse::Instead,
        _ => proto::CloneUse::Beside,
    }
}

/// Send the twin to the destination's host.
pub(super) async fn copy(work: &Work) -> Result<Outcome, Error> {
    // Again, for a destination's host that has forgotten it, and for migrations that an earlier version began.
    let data_endpoint = prepare(work).await?.data_endpoint;
    let (sender, mut host) = work.source_host().await?;
    let carriage = work.progress.spec.carriage;
    let request = proto::SendTwinRequest {
        migration_id: work.id.to_string(),
        data_endpoint,
        bandwidth_mbps: carriage.bandwidth_mbps.unwrap_or_default(),
        transport: carriage.transport_name(),
    };
    let mut stream = sender.answer("SendTwin", CALL, host.send_twin(request)).await?;
    loop {
        let message = tokio::time::timeout(COPY_SILENCE, stream.message()).await;
        let timed_out = |_| Error::TimedOut {
            peer: sender.title().clone(),
            call: "SendTwin",
            after: COPY_SILENCE,
        };
        let progress = message
            .map_err(timed_out)?
            .map_err(|status| sender.refusal("SendTwin", &status))?
            .ok_or_else(|| Error::Broken {
                peer: sender.title().clone(),
                call: "SendTwin",
                reason: "it ended before the receiver had confirmed".to_owned(),
            })?;
        live::advance(&work.live, Advance::Copy((&progress).into()));
        if progress.done {
            return Ok(Outcome::Copy {
                sent_bytes: progress.sent_bytes,
                covered_bytes: progress.covered_bytes,
                digest: progress.digest,
                transport: format!("{} ({})", progress.transport, progress.transport_reason),
            });
        }
    }
}

/// Send what the source changed since T0.
pub(super) async fn diff(work: &Work) -> Result<Outcome, Error> {
    let data_endpoint = work.data_endpoint().await?;
    let (peer, mut host) = work.source_host().await?;
    let carriage = work.progress.spec.carriage;
    let request = proto::SendDiffRequest {
        migration_id: work.id.to_string(),
        data_endpoint,
        bandwidth_mbps: carriage.last_mbps(),
        transport: carriage.transport_name(),
    };
    let report = peer.answer("SendDiff", MEMORY_CALL, host.send_diff(request)).await?;
    Ok(Outcome::Diff {
        compared_bytes: report.compared_bytes,
        changed_bytes: report.changed_bytes,
        sent_bytes: report.sent_bytes,
        runs: report.runs,
    })
}

/// Merge it into the destination.
pub(super) async fn merge(work: &Work) -> Result<Outcome, Error> {
    let (peer, mut host) = work.destination_host().await?;
    let request = proto::MergeRequest { migration_id: work.id.to_string() };
    let report = peer.answer("Merge", MEMORY_CALL, host.merge(request)).await?;
    Ok(Outcome::Merge {
        merged_bytes: report.merged_bytes,
        pause_ns: report.pause_ns,
        conflicts: report.conflict_count,
    })
}
