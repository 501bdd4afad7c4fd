//! The way out: to a backend, to a client, along a route, or to the kernel.

use super::{
    Outcome, Punt, Verdict,
    complaints::{Hearer, complain},
    shard::{Desk, Punts},
    tunnels,
};
use crate::{
    packet::{
        Address, ETHERNET_LEN, Field, Headers, LinkHeader, Mac, PacketBuf, Tags, count_hop,
        icmp::Complaint, tunnel::Carried,
    },
    steering::{Family, Hop, Link, LinkHop, Path, PortId, Snapshot},
};

/// Send a packet of a client of `address` to the backend at the end of `path`.
#[inline(always)]
pub(super) fn to_backend<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (address, path): (A, &Path<A>),
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    let link = &path.link;
    if !is_plain(packet, link) || headers.ttl <= 1 {
        return to_backend_otherwise(packet, headers, (address, path), on, desk);
    }
    let frame = packet.as_mut();
    if let Some(translation) = &path.inward {
        translation.apply(frame, headers, Field::Destination);
    }
    link.header.write_macs(frame);
    Verdict::Transmit(link.device, path.outcome)
}

#[cold]
#[inline(never)]
fn to_backend_otherwise<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (address, path): (A, &Path<A>),
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    let hearer = Hearer::ClientOf(address);
    if path.inward.is_some() && headers.ttl <= 1 {
        return complain(packet, Complaint::TimeExceeded, hearer, on, desk);
    }
    leave(packet, headers, (&path.link, path.outcome), hearer, on, desk, |frame| {
        if let Some(translation) = &path.inward {
            translation.apply(frame, headers, Field::Destination);
        }
    })
}

/// Send a packet of the backend at the end of `path` to its client, `destination`, by `hop`.
#[inline]
pub(super) fn to_client<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (destination, hop): (A, &Hop),
    path: &Path<A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    if let Hop::Link(link) = hop
        && is_plain(packet, link)
        && headers.ttl > 1
    {
        let frame = packet.as_mut();
        if let Some(translation) = &path.outward {
            translation.apply(frame, headers, Field::Source);
        }
        link.header.write_macs(frame);
        return Verdict::Transmit(link.device, Outcome::ToClient);
    }
    to_client_otherwise(packet, headers, (destination, hop), path, on, desk)
}

/// The same for all packets, and not in line.
#[cold]
#[inline(never)]
pub(super) fn to_client_otherwise<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (destination, hop): (A, &Hop),
    path: &Path<A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    let hearer = Hearer::Backend(path);
    if matches!(hop, Hop::Unreachable) {
        return complain(packet, Complaint::NoRoute, hearer, on, desk);
    }
    let link = match resolved(destination, hop, &mut desk.punts) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    if path.outward.is_some() && headers.ttl <= 1 {
        return complain(packet, Complaint::TimeExceeded, hearer, on, desk);
    }
    leave(packet, headers, (link, Outcome::ToClient), hearer, on, desk, |frame| {
        if let Some(translation) = &path.outward {
            translation.apply(frame, headers, Field::Source);
        }
    })
}

/// Route a packet that has nothing to do with managed addresses to `destination`; it arrived on this port.
#[inline]
pub(super) fn route<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    destination: A,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    if destination.is_group() || destination.is_link_local() {
        return to_host(packet, on, Outcome::Group);
    }
    route_by(packet, headers, (destination, on.0.route(destination)), Hearer::Anyone, on, desk)
}

/// A packet to `destination` whose source means something on its link only: it goes no further than to the box itself, and no
/// answer could find back from anywhere else (RFC 4291, section 2.5.6).
#[cold]
#[inline(never)]
pub(super) fn from_the_link<A: Family, B: PacketBuf>(
    packet: &mut B,
    destination: A,
    on: (&Snapshot, PortId),
) -> Verdict {
    if destination.is_group() || destination.is_link_local() {
        return to_host(packet, on, Outcome::Group);
    }
    match on.0.route(destination) {
        Hop::Host => to_host(packet, on, Outcome::ForHost),
        _ => Verdict::Drop(Outcome::LinkLocalSource),
    }
}

/// Route a packet to `destination` by `hop`; it arrived on this port.
#[inline]
pub(super) fn route_by<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (destination, hop): (A, &Hop),
    hearer: Hearer<'_, A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    if matches!(hop, Hop::Host) {
        return to_host(packet, on, Outcome::ForHost);
    }
    if headers.ttl <= 1 {
        return complain(packet, Complaint::TimeExceeded, hearer, on, desk);
    }
    if matches!(hop, Hop::Unreachable) {
        return complain(packet, Complaint::NoRoute, hearer, on, desk);
    }
    let link = match resolved(destination, hop, &mut desk.punts) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    leave(packet, headers, (link, Outcome::Forwarded), hearer, on, desk, |frame| {
        count_hop::<A>(frame, headers);
    })
}

/// Hand a frame that arrived on this port to the kernel, as it arrived; `without` is how it ends where there is no kernel.
#[cold]
pub(super) fn to_host<B: PacketBuf>(
    packet: &mut B,
    (snapshot, id): (&Snapshot, PortId),
    without: Outcome,
) -> Verdict {
    let Some(port) = snapshot.port(id) else { return Verdict::Drop(without) };
    let device = port.device().and_then(|device| snapshot.port(device));
    let Some(twin) = device.and_then(|device| device.twin) else { return Verdict::Drop(without) };
    tagged(packet, port.tags(), twin, Outcome::ToHost)
}

/// Send a frame with finished addresses, no IP packet of other than the box's own, out by the port it arrived on.
#[cold]
pub(super) fn back<B: PacketBuf>(
    packet: &mut B,
    (snapshot, id): (&Snapshot, PortId),
    outcome: Outcome,
    punts: &mut Punts,
) -> Verdict {
    match snapshot.port(id).map(|port| port.link) {
        Some(Link::Device { device, tags, .. }) => tagged(packet, tags, device, outcome),
        Some(Link::Tunnel(_)) => {
            tunnels::wrap(packet, &Carried::frame(), (snapshot, id), outcome, punts)
        }
        None => Verdict::Drop(Outcome::NotForUs),
    }
}

/// Send a frame by `device`, with these tags.
fn tagged<B: PacketBuf>(packet: &mut B, tags: Tags, device: PortId, outcome: Outcome) -> Verdict {
    let frame = packet.as_mut();
    let (destination, source) = (Mac::read(frame), Mac::read(&frame[6..]));
    if LinkHeader::new(destination, source, tags).write(packet) {
        Verdict::Transmit(device, outcome)
    } else {
        Verdict::Drop(Outcome::NoHeadroom)
    }
}

/// The link to `destination` by `hop`, or how the packet ends.
#[inline]
pub(super) fn resolved<'a, A: Address>(
    destination: A,
    hop: &'a Hop,
    punts: &mut Punts,
) -> Result<&'a LinkHop, Verdict> {
    match hop {
        Hop::Link(link) => Ok(link),
        Hop::Unreachable | Hop::Blackhole => Err(Verdict::Drop(Outcome::NoRoute)),
        Hop::Host => Err(Verdict::Drop(Outcome::ForHost)),
        Hop::Unresolved { port, via } => {
            let address = via.unwrap_or_else(|| destination.ip());
            punts.push(Punt::Resolve { port: *port, address });
            Err(Verdict::Drop(Outcome::NeighbourUnknown))
        }
    }
}

/// Whether the frame fits the link as it is, and the link wants nothing but two MACs.
#[inline]
fn is_plain<B: PacketBuf>(packet: &B, link: &LinkHop) -> bool {
    packet.as_ref().len() <= ETHERNET_LEN + usize::from(link.plain_up_to)
}

/// Send a packet by `link` after `rewrite`, if it fits there: its sender hears of the packet as it came.
#[inline]
pub(super) fn leave<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (link, outcome): (&LinkHop, Outcome),
    hearer: Hearer<'_, A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
    rewrite: impl FnOnce(&mut [u8]),
) -> Verdict {
    // The one question that nearly every packet is asked.
    if is_plain(packet, link) {
        let frame = packet.as_mut();
        rewrite(frame);
        link.header.write_macs(frame);
        return Verdict::Transmit(link.device, outcome);
    }
    leave_otherwise(packet, headers, (link, outcome), hearer, on, desk, rewrite)
}

/// The same for packets that do not fit, and for links with tags or a tunnel.
#[cold]
#[inline(never)]
fn leave_otherwise<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    (link, outcome): (&LinkHop, Outcome),
    hearer: Hearer<'_, A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
    rewrite: impl FnOnce(&mut [u8]),
) -> Verdict {
    let (snapshot, _) = on;
    let mtu = snapshot.mtu(link.port);
    if headers.total_len > mtu {
        return complain(packet, Complaint::TooBig { mtu }, hearer, on, desk);
    }
    // What a frame has behind its packet is nothing, and would not fit.
    let end = ETHERNET_LEN + usize::from(headers.total_len);
    if packet.as_ref().len() > end && !packet.truncate(end) {
        return Verdict::Drop(Outcome::TooBig);
    }
    rewrite(packet.as_mut());
    dispatch::<A, B>(packet, headers, link, outcome, snapshot, desk)
}

/// Send a finished packet that fits by whatever link.
pub(super) fn dispatch<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    link: &LinkHop,
    outcome: Outcome,
    snapshot: &Snapshot,
    desk: &mut Desk,
) -> Verdict {
    if !link.header.write(packet) {
        return Verdict::Drop(Outcome::NoHeadroom);
    }
    match snapshot.port(link.port).map(|port| port.link) {
        Some(Link::Device { device, .. }) => Verdict::Transmit(device, outcome),
        Some(Link::Tunnel(_)) => {
            let carried = Carried::packet::<A>(packet.as_ref(), headers);
            tunnels::wrap(packet, &carried, (snapshot, link.port), outcome, &mut desk.punts)
        }
        None if link.device == PortId::HAIRPIN => Verdict::Transmit(link.device, outcome),
        None => Verdict::Drop(Outcome::NoRoute),
    }
}
