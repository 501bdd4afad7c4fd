//! Backends behind tunnels. The test box takes every packet out of its tunnel by an independent library, and judges the
//! headers around it there.

use std::collections::HashSet;

use etherparse::{IpEcn, IpHeaders};
use proptest::prelude::*;
use tidegate_dataplane::{
    packet::tunnel::Encap,
    pipeline::{Outcome, Punt},
    steering::PortId,
};

use crate::fragments::{in_three, long};
use crate::switch_box::{
    Ended, SwitchBox, assert_moved,
    carrier::{SILENT_REMOTE, SILENT_TUNNEL, TUNNELS, Wrapped, encap, onto_wire, outer_ip},
    traffic::{Body, Flow, Packet, SYN, SYN_ACK, tcp},
    world::{
        BYSTANDER, CLIENT, FAR_CLIENT, Mode, OTHER_PORT, SERVICE, UPLINK, Vm, host_mac, port_mac,
    },
};

const MODES: [Mode; 2] = [Mode::Nat, Mode::L2];
const VXLAN: Encap = Encap::Vxlan { port: 4789, vni: 0x00ab_cdef };

fn before(port: PortId, mode: Mode) -> (SwitchBox, Vm) {
    let vm = Vm::behind(port, 1, mode);
    (SwitchBox::new(1, vm), vm)
}

fn feed_frame(switch_box: &mut SwitchBox, frame: Vec<u8>) -> Ended {
    switch_box.frames(vec![(OTHER_PORT, frame)]).remove(0)
}

/// What a VM sends to a client; the frame leads to the box's MAC inside the tunnel.
fn answer(vm: Vm) -> Packet {
    Flow::new(CLIENT, 4321).sent_by(vm, Body::Udp).with_payload(b"answer")
}

#[test]
fn both_ways_in_both_modes() {
    for (mode, port) in MODES.into_iter().flat_map(|mode| TUNNELS.map(|port| (mode, port))) {
        let (mut switch_box, vm) = before(port, mode);
        let flow = Flow::new(CLIENT, 4321);
        for (there, back) in [(tcp(SYN), tcp(SYN_ACK)), (Body::Udp, Body::Udp)] {
            for payload in [&b""[..], b"odd", b"even"] {
                let seen = switch_box.one(&flow.to_service(there).with_payload(payload)).seen();
                assert_eq!(seen.tuple(), (CLIENT, 4321, vm.speaks_as(), 80), "{mode:?} {port:?}");
                assert_eq!((seen.port, &seen.payload[..]), (port, payload));
                let inside = if vm.backend.mac == host_mac(vm.locator) {
                    (port_mac(port), vm.backend.mac)
                } else {
                    (seen.from_mac, seen.to_mac)
                };
                assert_eq!((seen.from_mac, seen.to_mac), inside);
                let seen = switch_box.one(&flow.sent_by(vm, back).with_payload(payload)).seen();
                assert_eq!(seen.tuple(), (SERVICE, 80, CLIENT, 4321));
                assert_eq!((seen.port, &seen.payload[..]), (UPLINK, payload));
            }
        }
        assert_moved!(switch_box, ToSource 6, ToClient 6);
        assert_eq!(switch_box.live(vm), 2);
    }
}

#[test]
fn ethernet_padding_stays_outside() {
    for port in TUNNELS {
        let (mut switch_box, vm) = before(port, Mode::L2);
        let packet = Flow::new(CLIENT, 4321).to_service(Body::Udp);
        let mut frame = packet.frame();
        let len = frame.len();
        frame.resize(80, 0xee);
        let ended = switch_box.frames(vec![(UPLINK, frame)]).remove(0);
        assert_eq!(ended.sent.expect("sent").1.len(), len);
        let (_, mut frame) = onto_wire(port, answer(vm).frame());
        frame.extend([0xee; 9]);
        assert_eq!(feed_frame(&mut switch_box, frame).seen().payload, b"answer");
    }
}

/// What routers between tell a conversation by, the same of all its packets.
fn mark(ended: &[Ended]) -> u32 {
    let marks = ended.iter().map(|ended| {
        let (_, frame) = ended.wire.as_ref().expect("sent");
        match IpHeaders::from_slice(&frame[14..]).expect("IP").0 {
            IpHeaders::Ipv6(ip, _) => ip.flow_label.value(),
            IpHeaders::Ipv4(..) => u32::from(u16::from_be_bytes([frame[34], frame[35]])),
        }
    });
    let marks: HashSet<u32> = marks.collect();
    assert_eq!(marks.len(), 1, "one conversation");
    marks.into_iter().next().expect("one")
}

/// The IPv6 packet in `frame` with hop-by-hop options before all other headers.
fn with_hop_by_hop(mut frame: Vec<u8>) -> Vec<u8> {
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let options = [&[frame[20], 0], &PADDING[..]].concat();
    frame[20] = 0;
    let length = u16::from_be_bytes([frame[18], frame[19]]) + options.len() as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.splice(54..54, options);
    frame
}

/// RFC 6438, RFC 7348 section 5: routers between spread conversations, and keep each in order.
#[test]
fn a_conversation_has_one_source_port_and_many_have_many() {
    for port in TUNNELS {
        let (mut switch_box, _) = before(port, Mode::Nat);
        let mut seen = HashSet::new();
        for client_port in 1..=200 {
            let packet = Flow::new(FAR_CLIENT, client_port).to_service(Body::Udp);
            let ended = switch_box.feed(&[packet.clone(), packet.with_payload(b"again")]);
            seen.insert(mark(&ended));
        }
        let datagram = long(Flow::new(FAR_CLIENT, 1).to_service(Body::Udp));
        mark(&switch_box.frames(in_three(&datagram, 7)));
        if crate::OVER_IPV6 {
            let behind_options = in_three(&datagram, 8)
                .into_iter()
                .map(|(port, frame)| (port, with_hop_by_hop(frame)));
            mark(&switch_box.frames(behind_options.collect()));
        }
        let (encap, over_ipv6) = encap(port);
        if encap != Encap::Ipip || over_ipv6 {
            assert!(seen.len() > 190, "{} of 200 in {encap:?}", seen.len());
        }
    }
}

/// `frame` with this ECN in its IP header.
fn with_ecn(mut frame: Vec<u8>, ecn: u8) -> Vec<u8> {
    let (mut ip, _) = IpHeaders::from_slice(&frame[14..]).expect("IP");
    let ecn = IpEcn::try_new(ecn).expect("two bits");
    match &mut ip {
        IpHeaders::Ipv4(ip, _) => {
            ip.ecn = ecn;
            ip.header_checksum = ip.calc_header_checksum();
        }
        IpHeaders::Ipv6(ip, _) => ip.set_ecn(ecn),
    }
    let mut header = Vec::new();
    ip.write(&mut header).expect("a header");
    frame.splice(14..14 + header.len(), header);
    frame
}

fn ecn(frame: &[u8]) -> u8 {
    match IpHeaders::from_slice(&frame[14..]).expect("IP").0 {
        IpHeaders::Ipv4(ip, _) => ip.ecn.value(),
        IpHeaders::Ipv6(ip, _) => ip.traffic_class & 3,
    }
}

/// RFC 6040, figure 4: what comes out, by what is inside (row) and outside (column); 4 is dropped.
const ECN: [[u8; 4]; 4] = [[0, 0, 0, 4], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];

#[test]
fn congestion_is_carried_over() {
    for port in TUNNELS {
        for (inner, row) in (0..).zip(ECN) {
            let (mut switch_box, vm) = before(port, Mode::Nat);
            // Going in, both are equal: the test box sees to that.
            let there = Flow::new(CLIENT, 4321).to_service(Body::Udp).frame();
            let ended = switch_box.frames(vec![(UPLINK, with_ecn(there, inner))]).remove(0);
            assert_eq!(ecn(&ended.wire.expect("sent").1), inner);
            for (outer, expected) in (0..).zip(row) {
                let (encap, over_ipv6) = encap(port);
                let wrapped = Wrapped { ecn: outer, ..Wrapped::new(encap, over_ipv6) };
                let frame = wrapped.frame(&with_ecn(answer(vm).frame(), inner));
                let ended = feed_frame(&mut switch_box, frame);
                match expected {
                    4 => assert_eq!(ended.outcome, Outcome::TunnelCongested),
                    marked => assert_eq!(ecn(&ended.sent.expect("sent").1), marked),
                }
            }
        }
    }
}

#[test]
fn what_is_of_no_tunnel_is_for_the_host() {
    for port in TUNNELS {
        let (mut switch_box, vm) = before(port, Mode::L2);
        let (encap, over_ipv6) = encap(port);
        let right = Wrapped::new(encap, over_ipv6);
        let inner = answer(vm).frame();
        assert_eq!(feed_frame(&mut switch_box, right.frame(&inner)).outcome, Outcome::ToClient);
        let stranger = Wrapped { from: SILENT_REMOTE + 1, ..right };
        let mut others = vec![stranger.frame(&inner), right.around(50, b"ESP", None)];
        others.extend([5000, 4789].map(|port| right.around(17, b"hello", Some(port))));
        match encap {
            Encap::Ipip => {}
            Encap::Gue { .. } => {
                let elsewhere = Wrapped { encap: Encap::Gue { port: 6081 }, ..right };
                others.push(elsewhere.frame(&inner));
            }
            Encap::Vxlan { port, vni } => {
                for (port, vni) in [(port, vni + 1), (port + 1, vni), (port, 0)] {
                    let encap = Encap::Vxlan { port, vni };
                    others.push(Wrapped { encap, ..right }.frame(&inner));
                }
                // Without the flag, there is no VNI.
                let vxlan = [&[0, 0, 0, 0, 0xab, 0xcd, 0xef, 0], &inner[..]].concat();
                others.push(right.around(17, &vxlan, Some(port)));
            }
        }
        switch_box.moved();
        let count = others.len() as u64;
        switch_box.frames(others.into_iter().map(|frame| (OTHER_PORT, frame)).collect());
        assert_moved!(switch_box, ForHost count);
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let unreadable = |port: PortId, frame: Vec<u8>, why: &str| {
        let (mut switch_box, _) = before(port, Mode::L2);
        let outcome = feed_frame(&mut switch_box, frame).outcome;
        assert_eq!(outcome, Outcome::TunnelUnreadable, "{port:?}: {why}");
    };
    for over_ipv6 in [false, true] {
        let at = |kind: usize| TUNNELS[kind + if over_ipv6 { 3 } else { 0 }];
        let wrapped = |kind: usize| Wrapped::new(encap(at(kind)).0, over_ipv6);
        for (gue, why) in [
            (&[0x40, 4, 0, 0][..], "version 1"),
            (&[0x20, 4, 0, 0], "a control message"),
            (&[1, 4, 0, 0, 0, 0, 0, 0], "options"),
            (&[0, 4, 0x80, 0], "flags"),
            (&[0, 47, 0, 0], "GRE inside"),
            (&[0, 59, 0, 0], "nothing inside"),
            (&[0, 4, 0], "three bytes of GUE"),
        ] {
            unreadable(at(1), wrapped(1).around(17, gue, Some(6080)), why);
        }
        let vxlan = [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0];
        let short = [&vxlan[..], &[0; 13]].concat();
        unreadable(at(2), wrapped(2).around(17, &short, Some(4789)), "less than Ethernet");
        for kind in [1, 2] {
            let inner = answer(Vm::behind(at(kind), 1, Mode::L2)).frame();
            let checksummed = Wrapped { udp_checksum: true, ..wrapped(kind) };
            let mut damaged = checksummed.frame(&inner);
            *damaged.last_mut().expect("a byte") ^= 1;
            unreadable(at(kind), damaged, "a wrong checksum");
        }
    }
}

#[test]
fn outer_checksums_may_be_there_or_not() {
    for port in TUNNELS {
        for udp_checksum in [false, true] {
            let (mut switch_box, vm) = before(port, Mode::L2);
            let (encap, over_ipv6) = encap(port);
            let wrapped = Wrapped { udp_checksum, ..Wrapped::new(encap, over_ipv6) };
            let ended = feed_frame(&mut switch_box, wrapped.frame(&answer(vm).frame()));
            assert_eq!(ended.outcome, Outcome::ToClient);
        }
    }
}

#[test]
fn fragments_of_tunnels_are_named() {
    for port in &TUNNELS[..3] {
        let (mut switch_box, vm) = before(*port, Mode::L2);
        let (encap, over_ipv6) = encap(*port);
        let fragment = Wrapped { fragment: true, ..Wrapped::new(encap, over_ipv6) };
        feed_frame(&mut switch_box, fragment.frame(&answer(vm).frame()));
        assert_moved!(switch_box, TunnelFragment 1);
        let stranger = Wrapped { from: SILENT_REMOTE + 1, ..fragment };
        feed_frame(&mut switch_box, stranger.frame(&answer(vm).frame()));
        assert_moved!(switch_box, ForHost 1);
    }
}

/// What is inside may be fragments: they keep together through tunnels, too.
#[test]
fn fragments_inside_go_where_their_first_went() {
    for port in TUNNELS {
        let vm = Vm::behind(port, 1, Mode::Nat);
        let mut switch_box = SwitchBox::new(3, vm);
        let flow = Flow::new(CLIENT, 4321);
        let pieces = [Body::FirstFragment, Body::LaterFragment].map(|body| flow.to_service(body));
        for ended in switch_box.feed(&pieces.map(|piece| piece.with_payload(&[7; 80]))) {
            assert_eq!((ended.seen().port, ended.seen().destination), (port, vm.locator));
        }
        let pieces = [Body::FirstFragment, Body::LaterFragment].map(|body| flow.sent_by(vm, body));
        for ended in switch_box.feed(&pieces.map(|piece| piece.with_payload(&[7; 80]))) {
            assert_eq!((ended.seen().port, ended.seen().source), (UPLINK, SERVICE));
        }
        assert_moved!(switch_box, ToSource 2, ToClient 2);
    }
}

#[test]
fn tunnels_are_not_nested() {
    for (outside, inside) in [(0, 0), (0, 4), (1, 2), (2, 1), (5, 3)] {
        let (outside, inside) = (TUNNELS[outside], TUNNELS[inside]);
        let (mut switch_box, vm) = before(inside, Mode::L2);
        let (_, mut frame) = onto_wire(inside, answer(vm).frame());
        frame[..6].copy_from_slice(&port_mac(outside).0);
        let (_, twice) = onto_wire(outside, frame);
        assert_eq!(feed_frame(&mut switch_box, twice).outcome, Outcome::ForHost);
    }
}

#[test]
fn links_inside_vxlan() {
    for port in [TUNNELS[2], TUNNELS[5]] {
        let (mut switch_box, vm) = before(port, Mode::L2);
        let (_, over_ipv6) = encap(port);
        let wrapped = Wrapped::new(VXLAN, over_ipv6);
        let mut other = answer(vm).frame();
        other[..6].copy_from_slice(&port_mac(UPLINK).0);
        assert_eq!(feed_frame(&mut switch_box, wrapped.frame(&other)).outcome, Outcome::NotForUs);
        // RFC 7348, section 6.1: tags inside are not expected; a priority does no harm.
        for (tag, outcome) in [(5, Outcome::UnknownVlan), (0, Outcome::ToClient)] {
            let mut tagged = answer(vm).frame();
            tagged.splice(12..12, [0x81, 0, 0, tag]);
            assert_eq!(feed_frame(&mut switch_box, wrapped.frame(&tagged)).outcome, outcome);
        }
    }
}

#[test]
fn the_way_to_the_other_end_is_asked_for() {
    let (mut switch_box, _) = before(SILENT_TUNNEL, Mode::L2);
    switch_box.one(&Flow::new(CLIENT, 7).to_service(Body::Udp));
    assert_moved!(switch_box, NeighbourUnknown 1);
    let address = outer_ip(SILENT_REMOTE, false);
    assert_eq!(switch_box.take_punts(), [Punt::Resolve { port: OTHER_PORT, address }]);
}

/// The tunnel says which VM sent a packet.
#[test]
fn a_packet_through_another_tunnel_is_spoofed() {
    for (at, port) in TUNNELS.into_iter().enumerate() {
        let (mut switch_box, vm) = before(port, Mode::L2);
        let other = TUNNELS[(at + 1) % TUNNELS.len()];
        let mut packet = answer(vm);
        packet.port = other;
        assert_eq!(switch_box.one(&packet).outcome, Outcome::Spoofed);
        packet.port = OTHER_PORT;
        assert_eq!(switch_box.one(&packet).outcome, Outcome::Spoofed);
    }
}

#[test]
fn what_a_vm_behind_a_tunnel_says_is_forwarded_like_anything_else() {
    for port in TUNNELS {
        let (mut switch_box, _) = before(port, Mode::Nat);
        let packet = Flow::new(CLIENT, 7).to(BYSTANDER, Body::Udp).on(port);
        let seen = switch_box.one(&packet).seen();
        assert_eq!((seen.port, seen.ttl, seen.to_mac), (OTHER_PORT, 63, host_mac(BYSTANDER)));
    }
}

#[test]
fn every_truncation_is_a_named_drop() {
    for port in TUNNELS {
        let (mut switch_box, vm) = before(port, Mode::Nat);
        let (_, whole) = onto_wire(port, answer(vm).frame());
        for len in 0..whole.len() {
            let ended = feed_frame(&mut switch_box, whole[..len].to_vec());
            assert!(ended.outcome.is_drop(), "{len} bytes: {:?}", ended.outcome);
        }
        // What is inside is cut, and all around it is right.
        let (encap, over_ipv6) = encap(port);
        let inner = answer(vm).frame();
        for len in 14..inner.len() {
            let frame = Wrapped::new(encap, over_ipv6).frame(&inner[..len]);
            let ended = feed_frame(&mut switch_box, frame);
            assert!(ended.outcome.is_drop(), "{len} bytes inside: {:?}", ended.outcome);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes through any tunnel, and one damaged byte anywhere: one outcome, right counters, no panic.
    #[test]
    fn garbage_never_panics(
        damage in prop::collection::vec((0usize..120, any::<u8>(), 0usize..6), 1..64),
        noise in prop::collection::vec(any::<u8>(), 0..120),
        shards in 1u16..4,
        mode in prop::sample::select(MODES.to_vec()),
        home in 0usize..6,
    ) {
        let vm = Vm::behind(TUNNELS[home], 1, mode);
        let mut switch_box = SwitchBox::new(shards, vm);
        switch_box.verify = false;
        let mut frames = Vec::new();
        for port in TUNNELS {
            let (encap, over_ipv6) = encap(port);
            let wrapped = Wrapped::new(encap, over_ipv6);
            frames.push((OTHER_PORT, wrapped.around(4, &noise, None)));
            frames.push((OTHER_PORT, wrapped.around(41, &noise, None)));
            frames.push((OTHER_PORT, wrapped.around(17, &noise, Some(6080))));
            frames.push((OTHER_PORT, wrapped.around(17, &noise, Some(4789))));
        }
        for (at, value, tunnel) in damage {
            let (port, mut frame) = onto_wire(TUNNELS[tunnel], answer(vm).frame());
            let at = at % frame.len();
            frame[at] = value;
            frames.push((port, frame));
        }
        switch_box.send(frames);
        switch_box.moved();
    }
}
