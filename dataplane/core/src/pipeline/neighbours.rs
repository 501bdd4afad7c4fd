//! ARP and neighbour discovery: hosted addresses are answered for; the rest is the kernel's, or learned where there is none.

use super::{Outcome, Punt, Verdict, egress, shard::Punts};
use crate::{
    packet::{Address as _, ETHERNET_LEN, PacketBuf, arp, neighbour, protocol},
    steering::{Family, Hop, Link, Port, PortId, PortRole, Snapshot},
};

/// Answer, note or hand on an ARP frame that arrived on `port`.
pub(super) fn arp<B: PacketBuf>(
    (snapshot, port_id): (&Snapshot, PortId),
    port: &Port,
    packet: &mut B,
    punts: &mut Punts,
) -> Verdict {
    let frame = packet.as_mut();
    let Some(asked) = arp::read(frame) else { return Verdict::Drop(Outcome::BadArp) };
    if asked.request && hosts(snapshot, port, asked.target) {
        arp::answer_in_place(frame, port.mac);
        return answered(packet, (snapshot, port_id), punts);
    }
    if has_twin(snapshot, port) {
        return egress::to_host(packet, (snapshot, port_id), Outcome::ArpSeen);
    }
    let (sender, mac) = (asked.sender, asked.sender_mac);
    // Several ports may share a prefix, so the route need not lead to this one; the control core checks the link.
    let is_news = match snapshot.route(sender) {
        Hop::Link(link) => link.port != port_id || link.header.destination() != mac,
        Hop::Unresolved { via, .. } => via.is_none(),
        Hop::Host | Hop::Unreachable => false,
    };
    if is_news && !mac.is_group() && snapshot.plane::<u32>().managed(sender).is_none() {
        punts.push(Punt::Neighbour { port: port_id, address: sender.ip(), mac });
    }
    if asked.request && port.addresses.contains(&asked.target.ip()) {
        arp::answer_in_place(packet.as_mut(), port.mac);
        return answered(packet, (snapshot, port_id), punts);
    }
    Verdict::Drop(Outcome::ArpSeen)
}

/// Whether this IPv6 frame is an ICMPv6 message that routers do not forward: neighbour discovery (RFC 4861).
pub(super) fn is_of_the_link(frame: &[u8]) -> bool {
    const NEXT_HEADER: usize = ETHERNET_LEN + 6;
    const TYPE: usize = ETHERNET_LEN + 40;
    frame.get(NEXT_HEADER) == Some(&protocol::ICMPV6) && matches!(frame.get(TYPE), Some(133..=137))
}

/// Answer or hand on what is not to be routed: an ICMPv6 message for the link, or an IPv6 packet to a group.
pub(super) fn ipv6_of_the_link<B: PacketBuf>(
    (snapshot, port_id): (&Snapshot, PortId),
    port: &Port,
    packet: &mut B,
    punts: &mut Punts,
) -> Verdict {
    if let Some(asked) = neighbour::read_solicitation(packet.as_ref())
        && (hosts(snapshot, port, asked.target) || is_own(port, asked.target))
    {
        return if neighbour::answer_in_place(packet, &asked, port.mac) {
            answered(packet, (snapshot, port_id), punts)
        } else {
            Verdict::Drop(Outcome::NoHeadroom)
        };
    }
    egress::to_host(packet, (snapshot, port_id), Outcome::Group)
}

/// Whether the box answers for `address` on `port`.
fn hosts<A: Family>(snapshot: &Snapshot, port: &Port, address: A) -> bool {
    let hosted = || snapshot.plane::<A>().managed(address).is_some_and(|service| service.hosted);
    port.role == PortRole::Uplink && hosted()
}

/// Whether `address` is the port's own and no kernel can answer for it: that of a tunnel that has a link inside.
fn is_own<A: Family>(port: &Port, address: A) -> bool {
    let Link::Tunnel(tunnel) = port.link else { return false };
    tunnel.encap.carries_frames() && port.addresses.contains(&address.ip())
}

fn has_twin(snapshot: &Snapshot, port: &Port) -> bool {
    let device = port.device().and_then(|device| snapshot.port(device));
    device.is_some_and(|device| device.twin.is_some())
}

/// Send the answer that `packet` has become back where the question came from.
fn answered<B: PacketBuf>(packet: &mut B, on: (&Snapshot, PortId), punts: &mut Punts) -> Verdict {
    egress::back(packet, on, Outcome::NeighbourAnswered, punts)
}
