//! Plain forwarding, and the way out of what was steered.

use tidegate_dataplane::pipeline::{Outcome, Punt};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{Body, Flow, SYN, UNREACHABLE, tcp},
    world::{
        BOX, BOX_INSIDE, BYSTANDER, CLIENT, FAR_CLIENT, Mode, OTHER_PORT, ROUTER, SERVICE, SILENT,
        UPLINK, Vm, host_mac, ip, port_mac,
    },
};

fn at_rest(mode: Mode) -> (SwitchBox, Vm) {
    let home = Vm::old(1, mode);
    (SwitchBox::new(1, home), home)
}

#[test]
fn forwards_with_one_hop_less() {
    let (mut switch_box, _) = at_rest(Mode::L2);
    let bodies = [
        tcp(SYN),
        Body::Udp,
        Body::UdpWithoutChecksum,
        Body::EchoRequest,
        UNREACHABLE,
        Body::FirstFragment,
        Body::LaterFragment,
        Body::Protocol(50),
    ];
    for body in bodies {
        let packet = Flow::new(CLIENT, 7).to(BYSTANDER, body).with_payload(b"odd").with_ttl(2);
        let seen = switch_box.one(&packet).seen();
        assert_eq!((seen.port, seen.ttl), (OTHER_PORT, 1), "{body:?}");
        assert_eq!((seen.from_mac, seen.to_mac), (port_mac(OTHER_PORT), host_mac(BYSTANDER)));
        assert_eq!((seen.source, seen.destination), (CLIENT, BYSTANDER));
    }
    assert_moved!(switch_box, Forwarded 8);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn goes_through_a_router() {
    let (mut switch_box, home) = at_rest(Mode::L2);
    let flow = Flow::new(FAR_CLIENT, 7);
    switch_box.one(&flow.to_service(tcp(SYN)));
    let seen = switch_box.one(&flow.sent_by(home, tcp(SYN))).seen();
    assert_eq!((seen.port, seen.to_mac, seen.destination), (UPLINK, host_mac(ROUTER), FAR_CLIENT));
    assert_moved!(switch_box, ToSource 1, ToClient 1);
}

#[test]
fn nat_is_a_hop_and_l2_is_none_towards_the_vm() {
    let flow = Flow::new(CLIENT, 7);
    let (mut nat, home) = at_rest(Mode::Nat);
    assert_eq!(nat.one(&flow.to_service(Body::Udp)).seen().ttl, 63);
    assert_eq!(nat.one(&flow.sent_by(home, Body::Udp)).seen().ttl, 63);
    let ended = Outcome::TtlExpiredAnswered;
    assert_eq!(nat.one(&flow.to_service(Body::Udp).with_ttl(1)).outcome, ended);
    assert_eq!(nat.one(&flow.sent_by(home, Body::Udp).with_ttl(1)).outcome, ended);
    let (mut l2, home) = at_rest(Mode::L2);
    assert_eq!(l2.one(&flow.to_service(Body::Udp).with_ttl(1)).seen().ttl, 1);
    assert_eq!(l2.one(&flow.sent_by(home, Body::Udp).with_ttl(1)).seen().ttl, 1);
}

#[test]
fn an_unknown_neighbour_is_asked_for_once_a_burst() {
    let (mut switch_box, home) = at_rest(Mode::Nat);
    let plain = Flow::new(BYSTANDER, 7).to(SILENT, Body::Udp).on(OTHER_PORT);
    let steered = Flow::new(SILENT, 7).sent_by(home, Body::Udp);
    switch_box.feed(&[plain.clone(), plain, steered]);
    assert_moved!(switch_box, NeighbourUnknown 3);
    assert_eq!(switch_box.take_punts(), [Punt::Resolve { port: UPLINK, address: ip(SILENT) }]);
}

#[test]
fn punts_of_one_burst_are_bounded() {
    let (mut switch_box, _) = at_rest(Mode::L2);
    let strangers = (0..32).map(|n| Flow::new(BYSTANDER, 7).to(SILENT + n, Body::Udp));
    switch_box.feed(&strangers.map(|packet| packet.on(OTHER_PORT)).collect::<Vec<_>>());
    assert_moved!(switch_box, NeighbourUnknown 32);
    assert_eq!(switch_box.take_punts().len(), 16);
}

#[test]
fn the_boxs_own_addresses_are_for_the_host() {
    let (mut switch_box, _) = at_rest(Mode::L2);
    for own in [BOX, BOX_INSIDE] {
        switch_box.one(&Flow::new(CLIENT, 7).to(own, Body::EchoRequest));
    }
    assert_moved!(switch_box, ForHost 2);
}

#[test]
fn what_a_vm_says_to_the_box_is_no_session() {
    for mode in [Mode::Nat, Mode::L2] {
        let (mut switch_box, home) = at_rest(mode);
        for body in [Body::EchoRequest, Body::Udp, tcp(SYN)] {
            switch_box.one(&Flow::new(BOX, 7).sent_by(home, body));
        }
        assert_moved!(switch_box, ForHost 3);
        assert!(switch_box.sessions().is_empty(), "it would hold a drain");
    }
}

#[test]
fn group_addresses_are_not_forwarded() {
    let (mut switch_box, home) = at_rest(Mode::L2);
    let flow = Flow::new(CLIENT, 7);
    for destination in [0xe000_0001, 0xffff_ffff, 0] {
        switch_box.one(&flow.to(destination, Body::Udp));
        switch_box.one(&Flow::new(destination, 7).sent_by(home, Body::Udp));
    }
    assert_moved!(switch_box, Group 6);
    assert!(switch_box.sessions().is_empty());
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn frames_for_other_stations_are_ignored() {
    let (mut switch_box, _) = at_rest(Mode::L2);
    let frame = Flow::new(CLIENT, 7).to(SERVICE, Body::Udp).frame();
    for (mac, outcome) in [
        (host_mac(CLIENT).0, Outcome::NotForUs),
        (port_mac(OTHER_PORT).0, Outcome::NotForUs),
        ([0xff; 6], Outcome::Group),
        ([1, 0, 0x5e, 0, 0, 1], Outcome::Group),
    ] {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&mac);
        assert_eq!(switch_box.frames(vec![(UPLINK, frame)])[0].outcome, outcome, "{mac:x?}");
    }
    assert!(switch_box.sessions().is_empty());
}
