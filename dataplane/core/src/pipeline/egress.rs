//! The way out: to a backend, to a client or along a route.

use super::{Outcome, Punt, Verdict, shard::Punts};
use crate::{
    packet::{Field, Ipv4Packet, count_hop},
    steering::{Path, Snapshot},
};

/// Send a client's packet to the backend at the end of `path`.
#[inline]
pub(super) fn to_backend(frame: &mut [u8], packet: &Ipv4Packet, path: &Path) -> Verdict {
    if let Some(translation) = &path.inward {
        if packet.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        translation.apply(frame, packet, Field::Destination);
    }
    path.macs.write(frame);
    Verdict::Transmit(path.port, path.outcome)
}

/// Send a packet of the backend at the end of `path` to its client.
#[inline]
pub(super) fn to_client(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    path: &Path,
    punts: &mut Punts,
) -> Verdict {
    if path.outward.is_some() && packet.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let verdict = next_hop(frame, packet, snapshot, Outcome::ToClient, punts);
    if let Some(translation) = &path.outward
        && matches!(verdict, Verdict::Transmit(..))
    {
        translation.apply(frame, packet, Field::Source);
    }
    verdict
}

/// How a packet ends that nobody beyond the box is meant to get: it is for a group or for the box itself.
#[inline]
pub(super) fn ends_here(packet: &Ipv4Packet, snapshot: &Snapshot) -> Option<Outcome> {
    if packet.destination() >> 24 >= 224 || packet.destination() == 0 {
        return Some(Outcome::Group);
    }
    let own = snapshot.ports.iter().any(|port| port.addresses.contains(&packet.destination()));
    own.then_some(Outcome::ForHost)
}

/// Route a packet that has nothing to do with managed addresses.
#[inline]
pub(super) fn route(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    punts: &mut Punts,
) -> Verdict {
    if let Some(outcome) = ends_here(packet, snapshot) {
        return Verdict::Drop(outcome);
    }
    if packet.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let verdict = next_hop(frame, packet, snapshot, Outcome::Forwarded, punts);
    if matches!(verdict, Verdict::Transmit(..)) {
        count_hop(frame, packet);
    }
    verdict
}

#[inline]
fn next_hop(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    outcome: Outcome,
    punts: &mut Punts,
) -> Verdict {
    let Some(route) = snapshot.fib.find(packet.destination()) else {
        return Verdict::Drop(Outcome::NoRoute);
    };
    let next = route.via.unwrap_or(packet.destination());
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
