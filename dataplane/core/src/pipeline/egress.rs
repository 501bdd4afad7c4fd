//! The way out: to a backend, to a client, along a route, or to the kernel.

use super::{Outcome, Punt, Verdict, shard::Punts};
use crate::{
    packet::{Address, Field, Headers, LinkHeader, Mac, PacketBuf, count_hop},
    steering::{Family, Hop, LinkHop, Path, Port, PortId, Snapshot},
};

/// Send a client's packet to the backend at the end of `path`.
#[inline]
pub(super) fn to_backend<A: Address, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    path: &Path<A>,
) -> Verdict {
    if let Some(translation) = &path.inward {
        if headers.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        translation.apply(packet.as_mut(), headers, Field::Destination);
    }
    leave(packet, &path.link, path.outcome)
}

/// Send a packet of the backend at the end of `path` to its client, `destination`, by `hop`.
#[inline]
pub(super) fn to_client<A: Address, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    destination: A,
    hop: &Hop,
    path: &Path<A>,
    punts: &mut Punts,
) -> Verdict {
    let link = match resolved(destination, hop, punts) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    if let Some(translation) = &path.outward {
        if headers.ttl <= 1 {
            return Verdict::Drop(Outcome::TtlExpired);
        }
        translation.apply(packet.as_mut(), headers, Field::Source);
    }
    leave(packet, link, Outcome::ToClient)
}

/// Route a packet that has nothing to do with managed addresses to `destination`; it arrived on this port.
#[inline]
pub(super) fn route<A: Family, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    destination: A,
    on: (&Snapshot, PortId),
    punts: &mut Punts,
) -> Verdict {
    if destination.is_group() || destination.is_link_local() {
        return to_host(packet, on, Outcome::Group);
    }
    route_by(packet, headers, destination, on.0.route(destination), on, punts)
}

/// Route a packet to `destination` by `hop`; it arrived on this port.
#[inline]
pub(super) fn route_by<A: Address, B: PacketBuf>(
    packet: &mut B,
    headers: &Headers,
    destination: A,
    hop: &Hop,
    on: (&Snapshot, PortId),
    punts: &mut Punts,
) -> Verdict {
    if matches!(hop, Hop::Host) {
        return to_host(packet, on, Outcome::ForHost);
    }
    if headers.ttl <= 1 {
        return Verdict::Drop(Outcome::TtlExpired);
    }
    let link = match resolved(destination, hop, punts) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    count_hop::<A>(packet.as_mut(), headers);
    leave(packet, link, Outcome::Forwarded)
}

/// Hand a frame that arrived on this port to the kernel, as it arrived; `without` is how it ends where there is no kernel.
#[cold]
pub(super) fn to_host<B: PacketBuf>(
    packet: &mut B,
    (snapshot, id): (&Snapshot, PortId),
    without: Outcome,
) -> Verdict {
    let Some(port) = snapshot.port(id) else { return Verdict::Drop(without) };
    let device = snapshot.port(port.device);
    let Some(twin) = device.and_then(|device| device.twin) else { return Verdict::Drop(without) };
    tagged(packet, port, twin, Outcome::ToHost)
}

/// Send a frame with finished addresses out by the port it arrived on.
#[cold]
pub(super) fn back<B: PacketBuf>(packet: &mut B, port: &Port, outcome: Outcome) -> Verdict {
    tagged(packet, port, port.device, outcome)
}

/// Send a frame by `device`, with the tags of `port`.
fn tagged<B: PacketBuf>(packet: &mut B, port: &Port, device: PortId, outcome: Outcome) -> Verdict {
    let frame = packet.as_mut();
    let (destination, source) = (Mac::read(frame), Mac::read(&frame[6..]));
    if LinkHeader::new(destination, source, port.tags).write(packet) {
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
        Hop::Unreachable => Err(Verdict::Drop(Outcome::NoRoute)),
        Hop::Host => Err(Verdict::Drop(Outcome::ForHost)),
        Hop::Unresolved { port, via } => {
            let address = via.unwrap_or_else(|| destination.ip());
            punts.push(Punt::Resolve { port: *port, address });
            Err(Verdict::Drop(Outcome::NeighbourUnknown))
        }
    }
}

/// Give a finished packet the link's header, and send it.
#[inline]
pub(super) fn leave<B: PacketBuf>(packet: &mut B, link: &LinkHop, outcome: Outcome) -> Verdict {
    if link.header.write(packet) {
        Verdict::Transmit(link.device, outcome)
    } else {
        Verdict::Drop(Outcome::NoHeadroom)
    }
}
