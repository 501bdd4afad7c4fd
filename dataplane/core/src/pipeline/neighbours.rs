//! ARP and neighbour discovery: hosted addresses are answered for; the rest is the kernel's, or learned where there is none.

use super::{Outcome, Punt, Verdict, egress, shard::Punts};
use crate::{
    packet::{
        Address as _, ETHERNET_LEN, Mac, PacketBuf, arp,
        neighbour::{self, Advertisement, Message, Speaker},
        protocol,
    },
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
    let told = Told { address: asked.sender, mac: asked.sender_mac, overrides: true };
    note((snapshot, port_id), port, told, punts);
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

/// Answer, note or hand on what is not to be routed: an ICMPv6 message for the link, or an IPv6 packet to a group.
pub(super) fn ipv6_of_the_link<B: PacketBuf>(
    on: (&Snapshot, PortId),
    port: &Port,
    packet: &mut B,
    punts: &mut Punts,
) -> Verdict {
    let (snapshot, _) = on;
    let message = neighbour::read(packet.as_ref());
    let is_alone = is_alone(snapshot, port);
    if let Some(Message::Solicitation(asked)) = message {
        let is_own = is_alone && port.addresses.contains(&asked.target.ip());
        if is_own || hosts(snapshot, port, asked.target) {
            // Link-local ones get packets as routers only, and are asked when they are needed.
            let is_of_use = is_alone && !asked.source.is_link_local();
            if let Some(mac) = asked.source_mac.filter(|_| is_of_use) {
                note(on, port, Told { address: asked.source, mac, overrides: true }, punts);
            }
            let speaker = if is_own { Speaker::Router } else { Speaker::Host };
            return if neighbour::answer_in_place(packet, &asked, port.mac, speaker) {
                answered(packet, on, punts)
            } else {
                Verdict::Drop(Outcome::NoHeadroom)
            };
        }
    }
    let is_about_neighbours =
        is_of_the_link(packet.as_ref()) && neighbour::is_about_neighbours(packet.as_ref());
    if !is_alone || !is_about_neighbours {
        return egress::to_host(packet, on, Outcome::Group);
    }
    let Some(message) = message else { return Verdict::Drop(Outcome::BadNeighbour) };
    if let Message::Advertisement(Advertisement { target, target_mac: Some(mac), overrides }) =
        message
    {
        note(on, port, Told { address: target, mac, overrides }, punts);
    }
    Verdict::Drop(Outcome::NeighbourSeen)
}

/// What a neighbour says of itself.
struct Told<A> {
    address: A,
    mac: Mac,
    overrides: bool,
}

/// Tell the control core of a neighbour, if the snapshot does not know it like that.
fn note<A: Family>(
    (snapshot, port_id): (&Snapshot, PortId),
    port: &Port,
    Told { address, mac, overrides }: Told<A>,
    punts: &mut Punts,
) {
    // Several ports may share a prefix, so the route need not lead to this one; the control core checks the link.
    let is_news = match snapshot.route(address) {
        Hop::Link(link) if link.port == port_id && link.header.destination() == mac => false,
        // Routes say nothing of what each link has an own of.
        _ if address.is_link_local() => !port.addresses.contains(&address.ip()),
        Hop::Link(_) => true,
        Hop::Unresolved { via, .. } => via.is_none(),
        Hop::Host | Hop::Unreachable | Hop::Blackhole => false,
    };
    if is_news && !mac.is_group() && snapshot.plane::<A>().managed(address).is_none() {
        punts.push(Punt::Neighbour { port: port_id, address: address.ip(), mac, overrides });
    }
}

/// Whether the box answers for `address` on `port`.
fn hosts<A: Family>(snapshot: &Snapshot, port: &Port, address: A) -> bool {
    let hosted = || snapshot.plane::<A>().managed(address).is_some_and(|service| service.hosted);
    port.role == PortRole::Uplink && hosted()
}

/// Whether no kernel speaks for the box on the port's link, and there is a link: not in a tunnel of packets without frames.
fn is_alone(snapshot: &Snapshot, port: &Port) -> bool {
    let has_link = match port.link {
        Link::Device { .. } => true,
        Link::Tunnel(tunnel) => tunnel.encap.carries_frames(),
    };
    has_link && !has_twin(snapshot, port)
}

fn has_twin(snapshot: &Snapshot, port: &Port) -> bool {
    let device = port.device().and_then(|device| snapshot.port(device));
    device.is_some_and(|device| device.twin.is_some())
}

/// Send the answer that `packet` has become back where the question came from.
fn answered<B: PacketBuf>(packet: &mut B, on: (&Snapshot, PortId), punts: &mut Punts) -> Verdict {
    egress::back(packet, on, Outcome::NeighbourAnswered, punts)
}
