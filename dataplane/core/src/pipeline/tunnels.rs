//! Into tunnels and out of them.

use super::{Outcome, Punt, Verdict, shard::Punts};
use crate::{
    packet::{
        ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, PacketBuf, be16,
        tunnel::{Carried, Inside, carry_out},
    },
    steering::{AtEnd, Family, Link, PortId, Snapshot, Underlay},
};

/// Put a packet, finished but for what is around it and without padding, into the tunnel of `port`.
pub(super) fn wrap<B: PacketBuf>(
    packet: &mut B,
    carried: &Carried,
    (snapshot, port): (&Snapshot, PortId),
    outcome: Outcome,
    punts: &mut Punts,
) -> Verdict {
    match snapshot.tunnels().underlay(port) {
        Underlay::Ready { outer, device, .. } => {
            if outer.wrap(packet, carried) {
                Verdict::Transmit(*device, outcome)
            } else {
                Verdict::Drop(Outcome::NoHeadroom)
            }
        }
        &Underlay::Unresolved { port, address } => {
            punts.push(Punt::Resolve { port, address });
            Verdict::Drop(Outcome::NeighbourUnknown)
        }
        Underlay::Unreachable => Verdict::Drop(Outcome::NoRoute),
    }
}

/// What a packet to the box's end of a tunnel is.
pub(super) enum Unwrapped {
    /// What was inside is in its place; it arrived on this port.
    Arrived(PortId),
    /// Of a tunnel, and ends so.
    Ended(Outcome),
    /// Not of a tunnel.
    NotOurs,
}

/// Take out what is inside a packet to the box's end of a tunnel.
#[inline(never)]
pub(super) fn unwrap<A: Family, B: PacketBuf>(
    packet: &mut B,
    parsed: &Packet<A>,
    (snapshot, id): (&Snapshot, PortId),
) -> Unwrapped {
    // Tunnels are not nested: what came out of one goes into none.
    if matches!(snapshot.port(id).map(|port| port.link), Some(Link::Tunnel(_))) {
        return Unwrapped::NotOurs;
    }
    let frame = packet.as_ref();
    let (through, encap) = match snapshot.tunnels().at_end(frame, parsed) {
        AtEnd::Through(port, encap) => (port, encap),
        AtEnd::Fragment => return Unwrapped::Ended(Outcome::TunnelFragment),
        AtEnd::Other => return Unwrapped::NotOurs,
    };
    let outer_class = A::traffic_class(&frame[ETHERNET_LEN..]);
    let inside = Inside::find(frame, parsed, encap).ok();
    let taken_out = inside.zip(snapshot.port(through)).is_some_and(|(inside, port)| {
        // The link header of what is inside leads to the port, unless it has one of its own.
        inside.take_out(packet, port.mac)
    });
    if !taken_out {
        return Unwrapped::Ended(Outcome::TunnelUnreadable);
    }
    let frame = packet.as_mut();
    let carried = match be16(frame, 12) {
        ETHERTYPE_IPV4 => carry_out::<u32>(frame, outer_class),
        ETHERTYPE_IPV6 => carry_out::<u128>(frame, outer_class),
        _ => Ok(()),
    };
    match carried {
        Ok(()) => Unwrapped::Arrived(through),
        Err(_) => Unwrapped::Ended(Outcome::TunnelCongested),
    }
}
