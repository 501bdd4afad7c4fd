//! How a packet leaves, or why it does not.

use std::net::IpAddr;

use tidegate_dataplane::{
    packet::Mac,
    pipeline::Outcome,
    steering::{Backend, ManagedAddress, PortId},
};

use super::{Model, Receiver, is_nat, speaks_as};
use crate::{
    packet::{Body, Kind, Packet, Quote},
    world::{AGAIN, Way, family, own_on, way},
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

/// Who sent a packet, and hears of it when it goes no further.
#[derive(Clone, Copy)]
pub(super) enum Speaker<'a> {
    Client(&'a ManagedAddress),
    Vm(&'a Backend),
    Anyone,
}

/// Whoever routes counts down, and stops what has come too far: `packet` arrived, and would leave as `expected` says.
pub(super) fn one_hop_less(packet: &Packet, speaker: Speaker<'_>, expected: Expected) -> Expected {
    match expected.sent {
        Some(_) if packet.ttl <= 1 => told(packet, speaker, Kind::TimeExceeded),
        Some((packet, mac)) => {
            let sent = Some((Packet { ttl: packet.ttl - 1, ..packet }, mac));
            Expected { sent, ..expected }
        }
        None => expected,
    }
}

/// Where there is no way to the receiver, the sender of `packet` is told.
fn without_way(packet: &Packet, speaker: Speaker<'_>, expected: Expected) -> Expected {
    match expected.outcome {
        Outcome::NoRoute => told(packet, speaker, Kind::NoRoute),
        _ => expected,
    }
}

/// The sender is told: a client in the name of the address it spoke to, others in the box's. Nobody is told about errors.
fn told(packet: &Packet, speaker: Speaker<'_>, kind: Kind) -> Expected {
    let (silent, outcome) = match kind {
        Kind::NoRoute => (Outcome::NoRoute, Outcome::NoRouteAnswered),
        _ => (Outcome::TtlExpired, Outcome::TtlExpiredAnswered),
    };
    if matches!(packet.body, Body::Error(_)) {
        return dropped(silent);
    }
    let source = match speaker {
        Speaker::Client(address) => address.address,
        Speaker::Vm(_) | Speaker::Anyone => own_on(packet.port, family(packet.source)),
    };
    let (on, packet) = (packet.port, packet.clone());
    let (destination, back) = (packet.source, way(packet.source));
    let quote = Quote { kind, packet, bytes: usize::MAX, intact: true, by_box: true };
    let (port, mac) = match (speaker, back) {
        (Speaker::Vm(vm), _) => (vm.port, vm.mac),
        // Another VM, behind an address of its own.
        _ if on == AGAIN => (AGAIN, Mac([0; 6])),
        (_, Way::To(port, mac)) => (port, mac),
        _ => unreachable!("the streams' senders can be reached"),
    };
    let (source_port, destination_port, ttl, len, salt) = (0, 0, 64, 0, 0);
    let body = Body::Error(Box::new(quote));
    let told =
        Packet { port, source, source_port, destination, destination_port, ttl, body, len, salt };
    Expected { outcome, sent: Some((told, mac)), asks: None }
}

pub(super) fn to_vm(address: &ManagedAddress, vm: Backend, packet: &Packet) -> Expected {
    let outcome = match vm.slot == address.home.slot {
        true => Outcome::ToSource,
        false => Outcome::ToDestination,
    };
    let destination = speaks_as(address, &vm);
    let sent = Packet { destination, port: vm.port, ..packet.clone() };
    let out = Expected { outcome, sent: Some((sent, vm.mac)), asks: None };
    if is_nat(&vm) { one_hop_less(packet, Speaker::Client(address), out) } else { out }
}

pub(super) fn forwarded(packet: &Packet) -> Expected {
    as_it_is(packet, routed(packet.clone(), Outcome::Forwarded))
}

/// Nothing but a hop less: that comes before the question whether there is a way.
fn as_it_is(packet: &Packet, expected: Expected) -> Expected {
    if way(packet.destination) != Way::Host && packet.ttl <= 1 {
        return told(packet, Speaker::Anyone, Kind::TimeExceeded);
    }
    without_way(packet, Speaker::Anyone, one_hop_less(packet, Speaker::Anyone, expected))
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

/// What leaves a VM's side of the box for another VM comes in again, as from any client. It does so once.
impl Model {
    pub(super) fn to_client(
        &self,
        address: &ManagedAddress,
        vm: &Backend,
        packet: &Packet,
    ) -> Expected {
        let sent = Packet { source: address.address, ..packet.clone() };
        let out = self.onward(sent, Outcome::ToClient);
        let out = if is_nat(vm) { one_hop_less(packet, Speaker::Vm(vm), out) } else { out };
        without_way(packet, Speaker::Vm(vm), out)
    }

    /// As the VM sent it.
    pub(super) fn forwarded_for_vm(&self, packet: &Packet) -> Expected {
        as_it_is(packet, self.onward(packet.clone(), Outcome::Forwarded))
    }

    pub(super) fn onward(&self, packet: Packet, outcome: Outcome) -> Expected {
        let for_vm = !matches!(self.receiver(packet.destination), Receiver::Anyone);
        if for_vm && packet.port != AGAIN {
            let sent = Some((Packet { port: AGAIN, ..packet }, Mac([0; 6])));
            return Expected { outcome, sent, asks: None };
        }
        routed(packet, outcome)
    }
}
