//! How a packet leaves, or why it does not.

use std::net::IpAddr;

use tidegate_dataplane::{
    packet::Mac,
    pipeline::Outcome,
    steering::{Backend, ManagedAddress, PortId},
};

use super::{is_nat, speaks_as};
use crate::{
    packet::Packet,
    world::{Way, way},
};

/// What should become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) outcome: Outcome,
    /// The packet as it leaves, and the station it is sent to.
    pub(crate) sent: Option<(Packet, Mac)>,
    /// The neighbour whose MAC is missing.
    pub(crate) asks: Option<(PortId, IpAddr)>,
}

pub(super) fn dropped(outcome: Outcome) -> Expected {
    Expected { outcome, sent: None, asks: None }
}

/// What routes counts down, and stops what has come too far.
pub(super) fn one_hop_less(expected: Expected) -> Expected {
    match expected.sent {
        Some((packet, _)) if packet.ttl <= 1 => dropped(Outcome::TtlExpired),
        Some((packet, mac)) => {
            let sent = Some((Packet { ttl: packet.ttl - 1, ..packet }, mac));
            Expected { sent, ..expected }
        }
        None => expected,
    }
}

pub(super) fn to_vm(address: &ManagedAddress, vm: Backend, packet: &Packet) -> Expected {
    let outcome = match vm.slot == address.home.slot {
        true => Outcome::ToSource,
        false => Outcome::ToDestination,
    };
    let destination = speaks_as(address, &vm);
    let sent = Packet { destination, port: vm.port, ..packet.clone() };
    let out = Expected { outcome, sent: Some((sent, vm.mac)), asks: None };
    if is_nat(&vm) { one_hop_less(out) } else { out }
}

pub(super) fn to_client(address: &ManagedAddress, vm: &Backend, packet: &Packet) -> Expected {
    let sent = Packet { source: address.address, ..packet.clone() };
    let out = routed(sent, Outcome::ToClient);
    if is_nat(vm) { one_hop_less(out) } else { out }
}

pub(super) fn forwarded(packet: &Packet) -> Expected {
    if way(packet.destination) != Way::Host && packet.ttl <= 1 {
        return dropped(Outcome::TtlExpired);
    }
    one_hop_less(routed(packet.clone(), Outcome::Forwarded))
}

/// Out by the route to its destination.
pub(super) fn routed(packet: Packet, outcome: Outcome) -> Expected {
    match way(packet.destination) {
        Way::To(port, mac) => {
            Expected { outcome, sent: Some((Packet { port, ..packet }, mac)), asks: None }
        }
        Way::Unresolved(port, neighbour) => {
            let asks = Some((port, neighbour));
            Expected { asks, ..dropped(Outcome::NeighbourUnknown) }
        }
        Way::Host => dropped(Outcome::ForHost),
        Way::Nowhere => dropped(Outcome::NoRoute),
    }
}
