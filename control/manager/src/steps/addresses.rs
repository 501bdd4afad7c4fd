//! Steps on the switch: takeover, cutover, release.

use tidegate_api::switch::{self as proto, AddressState, Rewrite};

use super::{Work, import::import, memory};
use crate::{error::Error, pace::CALL, phase::Phase, record::Outcome, spec::FinishMode};

/// Host the address and tell the switch the destination.
pub(super) async fn takeover(work: &Work) -> Result<Outcome, Error> {
    // Nothing is changed yet: a host without room says so in time.
    memory::prepare(work).await?;
    let (peer, mut switch, found) = work.steering().await?;
    let address = work.address();
    if !found.hosted {
        let request = proto::TakeoverRequest { address: address.clone() };
        peer.answer("Takeover", CALL, switch.takeover(request)).await?;
    }
    let backend = destination(work)?;
    match &found.destination {
        Some(there) if is_same(there, &backend) => {}
        Some(there) => {
            return Err(Error::Unexpected {
                peer: peer.title().clone(),
                found: format!("{address} has another destination, `{}`, by now", there.name),
                remedy: "somebody else migrates it; abort that first",
            });
        }
        None => {
            let request = proto::SetDestinationRequest { address, destination: Some(backend) };
            peer.answer("SetDestination", CALL, switch.set_destination(request)).await?;
        }
    }
    // From here on the switch sees what begins and ends: the list is of the time before.
    let import = import(work, peer, &mut switch, &found).await?;
    Ok(Outcome::Takeover { import })
}

fn destination(work: &Work) -> Result<proto::Backend, Error> {
    let Outcome::Preflight { mac, .. } = work.outcome(Phase::Preflight)? else {
        return Err(Error::Missing { phase: Phase::Preflight });
    };
    let spec = &work.progress.spec;
    let framed = spec.encap.is_none_or(|encap| encap.kind.carries_frames());
    let rewrite = if spec.locator.is_some() { Rewrite::Nat } else { Rewrite::L2 };
    Ok(proto::Backend {
        name: spec.destination_guest.clone(),
        port: spec.port.clone().unwrap_or_default(),
        mac: if framed { mac.to_string() } else { String::new() },
        rewrite: rewrite.into(),
        locator: spec.locator.map(|ip| ip.to_string()).unwrap_or_default(),
        encap: spec.encap.map(|encap| encap.to_proto()),
    })
}

/// The switch has written out which port a tunnel's end is on.
fn is_same(there: &proto::Backend, ours: &proto::Backend) -> bool {
    let port = if ours.port.is_empty() { &there.port } else { &ours.port };
    *there == proto::Backend { port: port.clone(), ..ours.clone() }
}

/// Start the new epoch.
pub(super) async fn cutover(work: &Work) -> Result<Outcome, Error> {
    let (peer, mut switch, found) = work.steering().await?;
    if matches!(found.state(), AddressState::Draining | AddressState::Drained) {
        // Done by a manager that did not live to read the answer: what is left is the best figure there is.
        return Ok(Outcome::Cutover {
            epoch: found.epoch,
            old_sessions: found.home_sessions,
            elapsed_ns: 0,
            import: None,
        });
    }
    let import = import(work, peer, &mut switch, &found).await?;
    let policies = work.progress.spec.policies;
    let request = proto::CutoverRequest {
        address: work.address(),
        unknown_tcp: policies.unknown_tcp.to_proto().into(),
        unknown_quic: policies.unknown_quic.to_proto().into(),
        datagram_max_age_s: policies.datagram_max_age_s,
        ignore_begun_by_source: policies.ignore_begun_by_source,
    };
    let answer = peer.answer("Cutover", CALL, switch.cutover(request)).await?;
    Ok(Outcome::Cutover {
        epoch: answer.epoch,
        old_sessions: answer.old_sessions,
        elapsed_ns: answer.elapsed_ns,
        import,
    })
}

/// Give the address to the destination.
pub(super) async fn release(work: &Work) -> Result<Outcome, Error> {
    let (peer, mut switch, found) = work.steering().await?;
    let spec = &work.progress.spec;
    let home = found.home.as_ref().map(|home| home.name.as_str());
    if found.destination.is_none() && home == Some(spec.destination_guest.as_str()) {
        return Ok(Outcome::Release { forgotten_sessions: 0, kept_sessions: 0, cut_sessions: 0 });
    }
    let request = proto::ReleaseRequest {
        address: work.address(),
        keep_tracking: spec.keep_tracking,
        force: false,
        with_sessions: matches!(spec.finish, FinishMode::Mirror(_)),
    };
    let answer = peer.answer("Release", CALL, switch.release(request)).await?;
    Ok(Outcome::Release {
        forgotten_sessions: answer.forgotten_sessions,
        kept_sessions: answer.kept_sessions,
        cut_sessions: answer.cut_sessions,
    })
}
