//! The box tells senders why a packet goes no further: time exceeded (RFC 1812, section 4.3.3.4; RFC 4443, section 3.3) and
//! too big (RFC 1191, RFC 8201), no route (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpHeaders, icmpv4::DestUnreachableHeader,
    icmpv6::DestUnreachableCode,
};
use tidegate_dataplane::{pipeline::Outcome, steering::ManagedAddress};

use crate::{
    OVER_IPV6,
    switch_box::{
        Ended, SwitchBox, assert_moved,
        carrier::{MTU, TUNNELS, VLAN, onto_wire, overhead},
        traffic::{Body, Flow, Packet, SYN, SYN_ACK, UNREACHABLE, tcp},
        world::{
            BOX, BOX_INSIDE, BYSTANDER, CLIENT, FAR_CLIENT, Mode, OTHER_PORT, ROUTER, SERVICE,
            SILENT, SWALLOWED, UNROUTED, UPLINK, Vm, host_mac, ip,
        },
    },
};

static ZEROS: [u8; 2000] = [0; 2000];
const IP_LEN: u16 = if OVER_IPV6 { 40 } else { 20 };
/// The longest error, and what of it is quoted.
const MOST: usize = if OVER_IPV6 { 1280 } else { 576 };
pub(crate) const MOST_QUOTED: usize = MOST - IP_LEN as usize - 8;

/// A UDP packet of `len` bytes, IP header included.
pub(crate) fn long(packet: Packet, len: u16) -> Packet {
    packet.with_payload(&ZEROS[..usize::from(len - IP_LEN - 8)])
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    TooBig(u16),
    TimeExceeded,
    NoRoute,
}

/// The error that `ended` left: from, to, what it says, and what it quotes.
#[track_caller]
pub(crate) fn error(ended: &Ended) -> (u32, u32, About, Vec<u8>) {
    let seen = ended.seen();
    let (_, frame) = ended.sent.as_ref().expect("sent");
    assert!(frame.len() - 14 <= MOST);
    let (ip, payload) = IpHeaders::from_slice(&frame[14..]).expect("IP");
    let about = if OVER_IPV6 {
        assert_eq!(ip.ipv6().expect("IPv6").0.traffic_class, 0xc0);
        match Icmpv6Header::from_slice(payload.payload).expect("ICMPv6").0.icmp_type {
            Icmpv6Type::PacketTooBig { mtu } => About::TooBig(mtu as u16),
            Icmpv6Type::TimeExceeded(_) => About::TimeExceeded,
            Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute) => About::NoRoute,
            other => panic!("{other:?}"),
        }
    } else {
        let ip = ip.ipv4().expect("IPv4").0;
        assert!(ip.dont_fragment && ip.dscp.value() == 0x30);
        match Icmpv4Header::from_slice(payload.payload).expect("ICMP").0.icmp_type {
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu,
            }) => About::TooBig(next_hop_mtu),
            Icmpv4Type::TimeExceeded(_) => About::TimeExceeded,
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network) => About::NoRoute,
            other => panic!("{other:?}"),
        }
    };
    (seen.source, seen.destination, about, seen.payload)
}

/// Feed `packet`; the error about it goes to its sender, quotes it as it was, and comes `from` there.
#[track_caller]
fn assert_complains(switch_box: &mut SwitchBox, packet: &Packet, from: u32, about: About) -> Ended {
    let frame = packet.frame();
    let ended = switch_box.one(packet);
    let (source, destination, said, quoted) = error(&ended);
    assert_eq!((source, destination, said), (from, packet.source, about));
    assert_eq!(quoted, frame[14..][..MOST_QUOTED.min(frame.len() - 14)]);
    assert_eq!(ended.seen().port, packet.port, "back where it came from");
    ended
}

/// RFC 5508, REQ-10.
#[test]
fn time_to_live_ends() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    for ttl in [0, 1] {
        for body in [Body::Udp, tcp(SYN), Body::EchoRequest, Body::FirstFragment] {
            let packet = Flow::new(CLIENT, 7).to(BYSTANDER, body).with_ttl(ttl);
            assert_complains(&mut switch_box, &packet, BOX, About::TimeExceeded);
        }
    }
    let packet = Flow::new(FAR_CLIENT, 7).to(BYSTANDER, Body::Udp).with_ttl(1);
    let ended = assert_complains(&mut switch_box, &packet, BOX, About::TimeExceeded);
    assert_eq!(ended.seen().to_mac, host_mac(ROUTER));
    let packet = Flow::new(BYSTANDER, 7).to(CLIENT, Body::Udp).with_ttl(1).on(OTHER_PORT);
    assert_complains(&mut switch_box, &packet, BOX_INSIDE, About::TimeExceeded);
    assert_moved!(switch_box, TtlExpiredAnswered 10);
}

/// RFC 5508, REQ-10; RFC 1812, section 5.2.7.1; RFC 4443, section 3.1.
#[test]
fn there_is_no_route() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    for body in [Body::Udp, tcp(SYN), Body::EchoRequest, Body::Protocol(50), Body::FirstFragment] {
        let packet = Flow::new(CLIENT, 7).to(UNROUTED, body);
        assert_complains(&mut switch_box, &packet, BOX, About::NoRoute);
    }
    let packet = Flow::new(BYSTANDER, 7).to(UNROUTED, Body::Udp).on(OTHER_PORT);
    assert_complains(&mut switch_box, &packet, BOX_INSIDE, About::NoRoute);
    assert_moved!(switch_box, NoRouteAnswered 6);
    // What has no hop left hears of that first.
    let packet = Flow::new(CLIENT, 7).to(UNROUTED, Body::Udp).with_ttl(1);
    assert_complains(&mut switch_box, &packet, BOX, About::TimeExceeded);
    assert_eq!(switch_box.take_punts(), []);
}

/// Its own session or another's: a VM hears in the box's name that there is no way to a client.
#[test]
fn there_is_no_route_to_a_client() {
    for mode in [Mode::L2, Mode::Nat] {
        let vm = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(1, vm);
        for body in [Body::Udp, tcp(SYN_ACK), tcp(SYN)] {
            let packet = Flow::new(UNROUTED, 7).sent_by(vm, body);
            assert_complains(&mut switch_box, &packet, BOX, About::NoRoute);
        }
        let untracked = ManagedAddress { tracked: false, ..switch_box.address };
        switch_box.install(untracked, &[]);
        let packet = Flow::new(UNROUTED, 7).sent_by(vm, Body::Udp);
        assert_complains(&mut switch_box, &packet, BOX, About::NoRoute);
        assert_moved!(switch_box, NoRouteAnswered 4);
    }
}

/// A route that leads nowhere without a word.
#[test]
fn nobody_hears_of_a_blackhole() {
    let vm = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::new(1, vm);
    switch_box.feed(&[
        Flow::new(CLIENT, 7).to(SWALLOWED, Body::Udp),
        Flow::new(SWALLOWED, 7).sent_by(vm, Body::Udp),
    ]);
    assert_moved!(switch_box, NoRoute 2);
}

#[test]
fn to_clients_in_the_managed_addresss_name_and_to_vms_in_the_boxs() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, vm);
    let flow = Flow::new(CLIENT, 7);
    let there = flow.to_service(Body::Udp).with_ttl(1);
    assert_complains(&mut switch_box, &there, SERVICE, About::TimeExceeded);
    // The VM's port has no address of the box.
    let back = flow.sent_by(vm, Body::Udp).with_ttl(1);
    assert_complains(&mut switch_box, &back, BOX, About::TimeExceeded);
    let there = long(flow.to_service(Body::Udp), MTU + 1);
    assert_complains(&mut switch_box, &there, SERVICE, About::TooBig(MTU));
    let back = long(flow.sent_by(vm, Body::Udp), MTU + 1);
    assert_complains(&mut switch_box, &back, BOX, About::TooBig(MTU));
    assert_moved!(switch_box, TtlExpiredAnswered 2, TooBigAnswered 2);
}

#[test]
fn a_guest_that_owns_the_address_is_told_on_its_own_link() {
    for port in [VLAN].into_iter().chain(TUNNELS) {
        let vm = Vm::behind(port, 1, Mode::L2);
        let mut switch_box = SwitchBox::new(1, vm);
        let packet = long(Flow::new(CLIENT, 7).sent_by(vm, Body::Udp), MTU + 1);
        let ended = switch_box.one(&packet);
        let (_, to, about, _) = error(&ended);
        assert_eq!((to, about), (SERVICE, About::TooBig(MTU)));
        assert_eq!((ended.seen().port, ended.seen().to_mac), (port, vm.backend.mac));
        assert_moved!(switch_box, TooBigAnswered 1);
    }
}

/// RFC 4787, REQ-13.
#[test]
fn what_fits_and_what_does_not() {
    for mode in [Mode::Nat, Mode::L2] {
        for port in TUNNELS {
            let vm = Vm::behind(port, 1, mode);
            let mut switch_box = SwitchBox::new(1, vm);
            let packet = Flow::new(FAR_CLIENT, 7).to_service(Body::Udp);
            let mtu = MTU - overhead(port);
            let ended = switch_box.one(&long(packet.clone(), mtu));
            assert_eq!(ended.seen().payload.len(), usize::from(mtu - IP_LEN - 8));
            let (_, wire) = ended.wire.expect("sent");
            assert_eq!(wire.len(), 14 + usize::from(MTU), "the link is full");
            let too_big = long(packet, mtu + 1);
            assert_complains(&mut switch_box, &too_big, SERVICE, About::TooBig(mtu));
            assert_moved!(switch_box, ToSource 1, TooBigAnswered 1);
        }
    }
}

/// RFC 4787, REQ-13.
#[test]
fn links_without_tunnels_have_an_mtu_too() {
    for port in [Vm::old(1, Mode::L2), Vm::behind(VLAN, 1, Mode::L2)] {
        let mut switch_box = SwitchBox::new(1, port);
        let flow = Flow::new(CLIENT, 7);
        assert_eq!(switch_box.one(&long(flow.to_service(Body::Udp), MTU)).seen().port, {
            port.backend.port
        });
        let too_big = long(flow.to_service(Body::Udp), MTU + 1);
        assert_complains(&mut switch_box, &too_big, SERVICE, About::TooBig(MTU));
        assert_eq!(switch_box.one(&long(flow.to(BYSTANDER, Body::Udp), MTU)).seen().ttl, 63);
        let too_big = long(flow.to(BYSTANDER, Body::Udp), MTU + 1);
        assert_complains(&mut switch_box, &too_big, BOX, About::TooBig(MTU));
    }
}

/// RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
#[test]
fn about_some_packets_nothing_is_said() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let flow = Flow::new(CLIENT, 7);
    let redirect = if OVER_IPV6 { Body::Icmp(137, 0) } else { Body::Icmp(5, 0) };
    let to = |flow: Flow, body| flow.to(BYSTANDER, body);
    let mut silent = vec![
        to(flow, UNREACHABLE),
        to(flow, Body::LaterFragment),
        to(Flow::new(0, 7), Body::Udp),
        to(Flow::new(0xe000_0001, 7), Body::Udp),
        // No way back, and one that leads to the box itself.
        to(Flow::new(UNROUTED, 7), Body::Udp),
        to(Flow::new(SILENT, 7), Body::Udp),
        to(Flow::new(BOX, 7), Body::Udp),
    ];
    if !OVER_IPV6 {
        // A redirect over IPv6 is for the link alone.
        silent.push(to(flow, redirect));
    }
    for packet in silent {
        let ended = switch_box.one(&packet.clone().with_ttl(1));
        assert_eq!(ended.outcome, Outcome::TtlExpired, "{packet:?}");
        let ended = switch_box.one(&packet.clone().with_payload(&ZEROS));
        assert_eq!(ended.outcome, Outcome::TooBig, "{packet:?}");
        let ended = switch_box.one(&Packet { destination: UNROUTED, ..packet.clone() });
        assert_eq!(ended.outcome, Outcome::NoRoute, "{packet:?}");
    }
}

/// RFC 5508, REQ-10.
#[test]
fn errors_are_limited() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let packet = Flow::new(CLIENT, 7).to(BYSTANDER, Body::Udp);
    switch_box.feed(&vec![packet.clone().with_ttl(1); 1100]);
    assert_moved!(switch_box, TtlExpiredAnswered 1000, TtlExpired 100);
    switch_box.advance(2);
    switch_box.feed(&vec![Flow::new(CLIENT, 7).to(UNROUTED, Body::Udp); 100]);
    assert_moved!(switch_box, NoRouteAnswered 20, NoRoute 80);
    switch_box.feed(&vec![long(packet.clone(), MTU + 1); 1100]);
    assert_moved!(switch_box, TooBigAnswered 1000, TooBig 100);
    switch_box.advance(3);
    switch_box.feed(&vec![long(packet, MTU + 1); 100]);
    assert_moved!(switch_box, TooBigAnswered 30, TooBig 70);
}

/// Sessions hang whose senders do not hear that their packets are too big; a scan must not take that from them.
#[test]
fn what_nobody_depends_on_takes_nothing_from_too_big() {
    let vm = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::new(1, vm);
    let flow = Flow::new(CLIENT, 7);
    let scan = vec![flow.to(UNROUTED, Body::Udp); 10_000];
    switch_box.feed(&scan);
    switch_box.feed(&vec![flow.to(BYSTANDER, Body::Udp).with_ttl(1); 10_000]);
    assert_moved!(switch_box, NoRouteAnswered 1000, NoRoute 9000, TtlExpired 10_000);
    let too_big = long(flow.to_service(Body::Udp), MTU + 1);
    assert_complains(&mut switch_box, &too_big, SERVICE, About::TooBig(MTU));
    let too_big = long(flow.sent_by(vm, Body::Udp), MTU + 1);
    assert_complains(&mut switch_box, &too_big, BOX, About::TooBig(MTU));
    assert_moved!(switch_box, TooBigAnswered 2);
}

/// A sender that lets its packets be fragmented is told, too: nothing is lost by that, and a piece more would need a
/// buffer more.
#[test]
fn packets_that_may_be_fragmented_are_treated_alike() {
    if OVER_IPV6 {
        return;
    }
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let packet = long(Flow::new(CLIENT, 7).to(BYSTANDER, Body::Udp), MTU + 1);
    assert_complains(&mut switch_box, &packet, BOX, About::TooBig(MTU));
    let (port, mut frame) = onto_wire(UPLINK, packet.frame());
    frame[20] |= 0x40;
    frame[24] = frame[24].wrapping_sub(0x40);
    let ended = switch_box.frames(vec![(port, frame)]).remove(0);
    assert_eq!(error(&ended).2, About::TooBig(MTU));
    assert_eq!(ip(error(&ended).1), ip(CLIENT));
}

/// What a frame has behind its packet fits no better for being no packet: a driver would refuse the frame, and others behind
/// it.
#[test]
fn what_is_behind_a_packet_does_not_leave_a_link_too_narrow_for_it() {
    for mode in [Mode::L2, Mode::Nat] {
        let old = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(1, old);
        let flow = Flow::new(CLIENT, 7);
        for packet in [flow.to_service(Body::Udp), flow.sent_by(old, Body::Udp)] {
            let frame = packet.frame();
            for (len, left) in [(14 + usize::from(MTU), 14 + usize::from(MTU)), (1900, frame.len())]
            {
                let mut padded = frame.clone();
                padded.resize(len, 0xee);
                let ended = switch_box.frames(vec![(packet.port, padded)]).remove(0);
                assert!(!ended.outcome.is_drop(), "{:?}", ended.outcome);
                assert_eq!(ended.sent.expect("sent").1.len(), left);
            }
        }
    }
}
