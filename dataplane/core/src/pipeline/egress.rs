//! The way out: to a backend, to a client or along a route.

use super::{Outcome, Punt, Verdict, rewrite, shard::Punts};
use crate::{
    packet::{Ipv4Packet, set_macs},
    steering::{Backend, ManagedAddress, Rewrite, Snapshot},
};

/// Send a client's packet to `backend`.
#[inline]
pub(super) fn to_backend(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    address: &ManagedAddress,
    backend: &Backend,
) -> Verdict {
    if let Rewrite::Nat(locator) = backend.rewrite {
        if packet.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        rewrite::hop_to(frame, packet, locator);
    }
    // Snapshot::new checked that the port exists.
    set_macs(frame, backend.mac, snapshot.ports[usize::from(backend.port.0)].mac);
    let outcome =
        if backend.slot == address.home.slot { Outcome::ToSource } else { Outcome::ToDestination };
    Verdict::Transmit(backend.port, outcome)
}

/// Send a backend's packet to its client.
#[inline]
pub(super) fn to_client(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    snapshot: &Snapshot,
    address: &ManagedAddress,
    sender: &Backend,
    punts: &mut Punts,
) -> Verdict {
    let is_nat = matches!(sender.rewrite, Rewrite::Nat(_));
    if is_nat && packet.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let verdict = next_hop(frame, packet, snapshot, Outcome::ToClient, punts);
    if is_nat && matches!(verdict, Verdict::Transmit(..)) {
        rewrite::hop_from(frame, packet, address.address);
    }
    verdict
}

/// How a packet ends that nobody beyond the box is meant to get: it is for a group or for the box itself.
#[inline]
pub(super) fn ends_here(packet: &Ipv4Packet, snapshot: &Snapshot) -> Option<Outcome> {
    if packet.destination >> 24 >= 224 || packet.destination == 0 {
        return Some(Outcome::Group);
    }
    let own = snapshot.ports.iter().any(|port| port.addresses.contains(&packet.destination));
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
        rewrite::decrement_ttl(frame, packet);
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
    let Some(hop) = snapshot.fib.find(packet.destination) else {
        return Verdict::Drop(Outcome::NoRoute);
    };
    let next = hop.via.unwrap_or(packet.destination);
    let Some(neighbour) = snapshot.neighbour(next).filter(|neighbour| neighbour.port == hop.port)
    else {
        punts.push(Punt::Resolve { port: hop.port, address: next });
        return Verdict::Drop(Outcome::NeighbourUnknown);
    };
    let Some(port) = snapshot.ports.get(usize::from(hop.port.0)) else {
        return Verdict::Drop(Outcome::NoRoute);
    };
    set_macs(frame, neighbour.mac, port.mac);
    Verdict::Transmit(hop.port, outcome)
}
