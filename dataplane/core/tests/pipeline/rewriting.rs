//! Headers on both ways through the box, read back by an independent library.

use proptest::prelude::*;
use tidegate_dataplane::steering::Unknown;

use crate::{
    OVER_IPV6,
    switch_box::{
        SwitchBox, assert_moved,
        traffic::{ACK, Body, Flow, GIVEN_UP, Packet, SYN, SYN_ACK, segment, tcp},
        world::{CLIENT, Mode, SERVICE, UPLINK, Vm, host_mac, port_mac},
    },
};

const ECHO: (Body, Body) = (Body::EchoRequest, Body::EchoReply);

fn conversations() -> [(Body, Body); 4] {
    [
        (tcp(SYN), tcp(SYN_ACK)),
        (Body::Udp, Body::Udp),
        (Body::UdpWithoutChecksum, Body::UdpWithoutChecksum),
        ECHO,
    ]
}

/// Ports as the wire shows them: an echo's identifier stands in both.
fn ports(flow: Flow, body: Body) -> (u16, u16) {
    let echo = matches!(body, Body::EchoRequest | Body::EchoReply);
    (flow.client_port, if echo { flow.client_port } else { flow.service_port })
}

/// Queries as any other: RFC 5508, REQ-1.
#[test]
fn both_ways_in_both_modes() {
    for mode in [Mode::Nat, Mode::L2] {
        let vm = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(1, vm);
        let flow = Flow::new(CLIENT, 4321);
        for (there, back) in conversations() {
            for payload in [&b""[..], b"odd", b"even"] {
                let (client_port, service_port) = ports(flow, there);
                let packet = flow.to_service(there).with_payload(payload);
                let seen = switch_box.one(&packet).seen();
                assert_eq!(
                    seen.tuple(),
                    (CLIENT, client_port, vm.speaks_as(), service_port),
                    "{mode:?} {there:?}"
                );
                assert_eq!((seen.port, &seen.payload[..]), (vm.backend.port, payload));
                let macs = (seen.from_mac, seen.to_mac);
                assert_eq!(macs, (port_mac(vm.backend.port), vm.backend.mac));

                let packet = flow.sent_by(vm, back).with_payload(payload);
                let seen = switch_box.one(&packet).seen();
                assert_eq!(seen.tuple(), (SERVICE, service_port, CLIENT, client_port));
                assert_eq!((seen.port, &seen.payload[..]), (UPLINK, payload));
                let macs = (seen.from_mac, seen.to_mac);
                assert_eq!(macs, (port_mac(UPLINK), host_mac(CLIENT)));
            }
        }
        assert_moved!(switch_box, ToSource 12, ToClient 12);
        assert_eq!(switch_box.live(vm), 3, "UDP is one session with and without checksum");
    }
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, vm);
    let flow = Flow::new(CLIENT, 4321);
    let body = Body::UdpWithoutChecksum;
    assert_eq!(switch_box.one(&flow.to_service(body)).seen().udp_checksum, 0);
    assert_eq!(switch_box.one(&flow.sent_by(vm, body)).seen().udp_checksum, 0);
    assert_ne!(switch_box.one(&flow.to_service(Body::Udp)).seen().udp_checksum, 0);
}

/// A sum of zero is written as all ones (RFC 768); the box must not turn it into "no checksum".
#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, vm);
    let mut met = 0;
    // Some port makes the sum come out as zero after rewriting.
    let packets = (1..=u16::MAX).map(|port| Flow::new(CLIENT, port).sent_by(vm, Body::Udp));
    let home = switch_box.address;
    let untracked = tidegate_dataplane::steering::ManagedAddress { tracked: false, ..home };
    switch_box.install(untracked, &[]);
    for ended in switch_box.feed(&packets.collect::<Vec<_>>()) {
        let seen = ended.seen();
        assert_ne!(seen.udp_checksum, 0);
        met += u32::from(seen.udp_checksum == 0xffff);
    }
    assert_eq!(met, 1);
}

#[test]
fn ip_options_and_ethernet_padding_are_kept() {
    for mode in [Mode::Nat, Mode::L2] {
        let vm = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(1, vm);
        let flow = Flow::new(CLIENT, 4321);
        for (there, back) in conversations() {
            let packets = [flow.to_service(there), flow.sent_by(vm, back)];
            for packet in packets.map(Packet::with_options) {
                let mut frame = packet.frame();
                frame.resize(120, 0xee);
                let ended = switch_box.frames(vec![(packet.port, frame)]).remove(0);
                let (_, sent) = ended.sent.as_ref().expect("sent");
                let options = if OVER_IPV6 { (20, 60) } else { (14, 0x46) };
                assert_eq!((sent.len(), sent[options.0], sent[119]), (120, options.1, 0xee));
                assert_eq!(ended.seen().payload, b"");
            }
        }
        assert_moved!(switch_box, ToSource 4, ToClient 4);
    }
}

/// The lookups of a burst are made before its first packet is acted on.
#[test]
fn a_session_begins_and_goes_on_in_one_burst() {
    for mode in [Mode::Nat, Mode::L2] {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(1, old);
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        let flow = Flow::new(CLIENT, 4321);
        let ended = switch_box.feed(&[
            flow.to_service(segment(SYN, 99, 0)),
            flow.sent_by(new, segment(SYN_ACK, 499, 100)),
            flow.to_service(segment(ACK, 100, 500)),
            flow.to_service(segment(ACK, 100, 500)).with_payload(b"GET / HTTP/1.1"),
            flow.sent_by(new, segment(ACK, 500, 114)).with_payload(b"HTTP/1.1 200"),
        ]);
        assert_moved!(switch_box, ToDestination 3, ToClient 2);
        assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 1));
        assert_eq!(ended[3].seen().payload, b"GET / HTTP/1.1");
    }
}

#[test]
fn a_session_closes_and_its_ports_are_used_anew_in_one_burst() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(1, old);
    let flow = Flow::new(CLIENT, 4321);
    switch_box.one(&flow.to_service(tcp(SYN)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 1);
    switch_box.moved();
    switch_box.feed(&[
        flow.to_service(tcp(ACK)),
        flow.sent_by(old, tcp(SYN_ACK)),
        flow.to_service(GIVEN_UP),
        flow.to_service(tcp(SYN)),
        flow.to_service(tcp(ACK)),
        flow.sent_by(new, tcp(SYN_ACK)),
    ]);
    assert_moved!(switch_box, ToSource 2, ToDestination 2, ToClient 2);
    assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the ports, numbers and addresses, checksums stay right; `SwitchBox` reads each frame back.
    #[test]
    fn checksums_are_right_for_any_numbers(
        client in 1u8..=254, client_port: u16, service_port: u16, sequence: u32, ttl in 2u8..,
        body in prop::sample::select(conversations().to_vec()),
    ) {
        let vm = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(1, vm);
        // Behind the router, whose MAC is known.
        let flow = Flow { client: 0x0a4d_0000 + u32::from(client), client_port, service_port };
        let numbered = |body| match body {
            Body::Tcp { flags, .. } => segment(flags, sequence, !sequence),
            other => other,
        };
        let there = flow.to_service(numbered(body.0)).with_ttl(ttl);
        let back = flow.sent_by(vm, numbered(body.1)).with_ttl(ttl);
        let ended = switch_box.feed(&[there, back]);
        prop_assert_eq!(ended[0].seen().destination, vm.locator);
        prop_assert_eq!(ended[1].seen().source, SERVICE);
        assert_moved!(switch_box, ToSource 1, ToClient 1);
    }
}
