//! The way out: to a backend, to a client or along a route.

use super::{Outcome, Punt, Verdict, shard::Punts};
use crate::{
    packet::{Field, Headers, count_hop},
    steering::{Path, Snapshot},
};

/// Send a client's packet to the backend at the end of `path`.
#[inline]
pub(super) fn to_backend(frame: &mut [u8], headers: &Headers, path: &Path) -> Verdict {
    if let Some(translation) = &path.inward {
        if headers.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        translation.apply(frame, headers, Field::Destination);
    }
    path.macs.write(frame);
    Verdict::Transmit(path.port, path.outcome)
}

/// Send a packet of the backend at the end of `path` to its client, `destination`.
#[inline]
pub(super) fn to_client(
    frame: &mut [u8],
    headers: &Headers,
    destination: u32,
    snapshot: &Snapshot,
    path: &Path,
    punts: &mut Punts,
) -> Verdict {
    if path.outward.is_some() && headers.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let verdict = next_hop(frame, destination, snapshot, Outcome::ToClient, punts);
    if let Some(translation) = &path.outward
        && matches!(verdict, Verdict::Transmit(..))
    {
        translation.apply(frame, headers, Field::Source);
    }
    verdict
}

/// How a packet to `destination` ends that nobody beyond the box is meant to get: it is for a group or for the box itself.
#[inline]
pub(super) fn ends_here(destination: u32, snapshot: &Snapshot) -> Option<Outcome> {
    if destination >> 24 >= 224 || destination == 0 {
        return Some(Outcome::Group);
    }
    snapshot.is_own(destination).then_some(Outcome::ForHost)
}

/// Route a packet that has nothing to do with managed addresses to `destination`.
#[inline]
pub(super) fn route(
    frame: &mut [u8],
    headers: &Headers,
    destination: u32,
    snapshot: &Snapshot,
    punts: &mut Punts,
) -> Verdict {
    if let Some(outcome) = ends_here(destination, snapshot) {
        return Verdict::Drop(outcome);
    }
    if headers.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let verdict = next_hop(frame, destination, snapshot, Outcome::Forwarded, punts);
    if matches!(verdict, Verdict::Transmit(..)) {
        count_hop(frame, headers);
    }
    verdict
}

#[inline]
fn next_hop(
    frame: &mut [u8],
    destination: u32,
    snapshot: &Snapshot,
    outcome: Outcome,
    punts: &mut Punts,
) -> Verdict {
    let Some(route) = snapshot.fib.find(destination) else {
        return Verdict::Drop(Outcome::NoRoute);
    };
    let next = route.via.unwrap_or(destination);
    let Some(hop) = snapshot.neighbour(next).filter(|hop| hop.port == route.port) else {
        if usize::from(route.port.0) >= snapshot.ports.len() {
            return Verdict::Drop(Outcome::NoRoute);
        }
        punts.push(Punt::Resolve { port: route.port, address: next });
        return Verdict::Drop(Outcome::NeighbourUnknown);
    };
    hop.macs.write(frame);
    Verdict::Transmit(hop.port, outcome)
}
