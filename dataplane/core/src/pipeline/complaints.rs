//! Telling the sender of a packet why it goes no further: the packet becomes the ICMP error about it.

use super::{Outcome, Verdict, egress, shard::Desk};
use crate::{
    packet::{
        Packet, PacketBuf,
        icmp::{self, Complaint},
    },
    steering::{Family, Hop, LinkHop, Path, PortId, Snapshot},
};

/// Who sent a packet, and hears of it when it cannot be sent on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hearer<'a, A> {
    /// A client of this managed address, which the box speaks for.
    ClientOf(A),
    /// The backend at the end of this path.
    Backend(&'a Path<A>),
    /// Whoever has the source address.
    Anyone,
}

/// Send the packet back as the error about it, or drop it where that must not or cannot be.
#[cold]
#[inline(never)]
pub(super) fn complain<A: Family, B: PacketBuf>(
    packet: &mut B,
    complaint: Complaint,
    hearer: Hearer<'_, A>,
    on: (&Snapshot, PortId),
    desk: &mut Desk,
) -> Verdict {
    let (dropped, answered) = match complaint {
        Complaint::TooBig { .. } => (Outcome::TooBig, Outcome::TooBigAnswered),
        Complaint::TimeExceeded => (Outcome::TtlExpired, Outcome::TtlExpiredAnswered),
        Complaint::NoRoute => (Outcome::NoRoute, Outcome::NoRouteAnswered),
    };
    // It was parsed before; what is needed here was not kept.
    let Ok(parsed) = A::parse(packet.as_ref()) else { return Verdict::Drop(dropped) };
    let back = way_back(packet, &parsed, hearer, on, desk);
    let limit = match complaint {
        Complaint::TooBig { .. } => &mut desk.too_big,
        Complaint::TimeExceeded | Complaint::NoRoute => &mut desk.complaints,
    };
    let Some((link, name)) = back.filter(|_| limit.take(desk.now_ms)) else {
        return Verdict::Drop(dropped);
    };
    let (snapshot, _) = on;
    let most = snapshot.mtu(link.port);
    let ends = (name, parsed.source());
    if !icmp::complain(packet, parsed.headers.total_len, complaint, ends, most) {
        return Verdict::Drop(Outcome::NoHeadroom);
    }
    match A::parse(packet.as_ref()) {
        Ok(error) => {
            egress::dispatch::<A, B>(packet, &error.headers, link, answered, snapshot, desk)
        }
        Err(_) => Verdict::Drop(dropped),
    }
}

/// By which link, and under which address of the box, the sender of a packet is told; `None` when it must not be.
fn way_back<'a, A: Family, B: PacketBuf>(
    packet: &B,
    parsed: &Packet<A>,
    hearer: Hearer<'a, A>,
    (snapshot, id): (&'a Snapshot, PortId),
    desk: &mut Desk,
) -> Option<(&'a LinkHop, A)> {
    if !icmp::may_complain(packet.as_ref(), parsed) {
        return None;
    }
    let link = match hearer {
        Hearer::Backend(path) => &path.link,
        Hearer::ClientOf(_) | Hearer::Anyone => {
            let source = parsed.source();
            let hop = match id {
                PortId::HAIRPIN if snapshot.plane::<A>().serves(source) => &Hop::HAIRPIN,
                _ => snapshot.route(source),
            };
            egress::resolved(source, hop, &mut desk.punts).ok()?
        }
    };
    let name = match hearer {
        Hearer::ClientOf(address) => address,
        Hearer::Backend(_) | Hearer::Anyone => snapshot.own_address(id)?,
    };
    Some((link, name))
}
