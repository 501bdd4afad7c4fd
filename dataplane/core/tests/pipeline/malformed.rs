//! Frames that are not what they claim to be: named drops, no session, no panic.

use proptest::prelude::*;
use tidegate_dataplane::{pipeline::Outcome, steering::PortId};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{Body, Flow, SYN, tcp},
    world::{CLIENT, Mode, OLD_PORT, UPLINK, Vm},
};

fn at_rest() -> SwitchBox {
    SwitchBox::new(1, Vm::old(1, Mode::Nat))
}

fn frame(body: Body) -> Vec<u8> {
    Flow::new(CLIENT, 7).to_service(body).with_payload(b"payload").frame()
}

fn outcome(switch_box: &mut SwitchBox, frame: Vec<u8>) -> Outcome {
    switch_box.frames(vec![(UPLINK, frame)])[0].outcome
}

#[test]
fn every_truncation_is_a_named_drop() {
    let mut switch_box = at_rest();
    for body in [tcp(SYN), Body::Udp, Body::EchoRequest] {
        let whole = frame(body);
        for len in 0..whole.len() {
            let expected = if len < 14 { Outcome::Truncated } else { Outcome::BadIpv4 };
            assert_eq!(outcome(&mut switch_box, whole[..len].to_vec()), expected, "{len} bytes");
        }
    }
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn ipv4_headers_that_contradict_the_frame() {
    // Offset, value: version, header length below 5 words and beyond the packet, total length too long and too short.
    for (at, value) in [(14, 0x65), (14, 0x44), (14, 0x4f), (16, 0xff), (17, 19)] {
        let mut switch_box = at_rest();
        let mut frame = frame(Body::Udp);
        frame.truncate(14 + 20 + 8);
        frame[at] = value;
        assert_eq!(outcome(&mut switch_box, frame), Outcome::BadIpv4, "byte {at} = {value}");
    }
}

/// `body`'s frame with IPv4's total length shortened to leave `transport` bytes.
fn cut(body: Body, transport: u16) -> Vec<u8> {
    let mut frame = frame(body);
    frame[16..18].copy_from_slice(&(20 + transport).to_be_bytes());
    frame
}

#[test]
fn transport_headers_that_are_cut_short() {
    let mut switch_box = at_rest();
    for (body, header) in [(tcp(SYN), 20), (Body::Udp, 8), (Body::EchoRequest, 8)] {
        for transport in [0, 1, header - 1] {
            let cut = cut(body, transport);
            assert_eq!(outcome(&mut switch_box, cut), Outcome::BadTransport, "{body:?}");
        }
    }
    assert_moved!(switch_box, BadTransport 9);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn transport_headers_that_contradict_themselves() {
    let mut switch_box = at_rest();
    for (body, at, value) in [
        (tcp(SYN), 34 + 12, 0x40),
        (tcp(SYN), 34 + 12, 0xf0),
        (Body::Udp, 34 + 5, 7),
        (Body::Udp, 34 + 5, 16),
    ] {
        let mut frame = frame(body);
        frame[at] = value;
        assert_eq!(outcome(&mut switch_box, frame), Outcome::BadTransport, "byte {at} = {value}");
    }
    assert_moved!(switch_box, BadTransport 4);
}

#[test]
fn other_ethertypes_and_ports_that_are_not_there() {
    let mut switch_box = at_rest();
    for ethertype in [[0x88, 0xcc], [0x00, 0x2e]] {
        let mut frame = frame(Body::Udp);
        frame[12..14].copy_from_slice(&ethertype);
        assert_eq!(outcome(&mut switch_box, frame), Outcome::OtherEthertype);
    }
    let ended = switch_box.frames(vec![(PortId(99), frame(Body::Udp))]);
    assert_eq!(ended[0].outcome, Outcome::NotForUs);
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    let mut switch_box = at_rest();
    switch_box.verify = false;
    for (body, at) in [(tcp(SYN), 34 + 16), (Body::Udp, 34 + 6)] {
        let mut frame = frame(body);
        frame[at] ^= 0x40;
        let ended = switch_box.frames(vec![(UPLINK, frame)]);
        let read = std::panic::catch_unwind(|| ended[0].seen());
        assert!(read.is_err(), "{body:?}: the receiver must see that it is damaged");
    }
    assert_moved!(switch_box, ToSource 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// One damaged byte anywhere, or any bytes at all: one outcome, right counters, no panic.
    #[test]
    fn damage_never_panics(
        damage in prop::collection::vec((0usize..70, any::<u8>(), 0usize..3), 1..64),
        noise in prop::collection::vec(any::<u8>(), 0..80),
        shards in 1u16..4,
    ) {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        switch_box.verify = false;
        let bodies = [tcp(SYN), Body::Udp, Body::EchoRequest];
        let mut frames = vec![(UPLINK, noise.clone()), (OLD_PORT, noise)];
        for (at, value, body) in damage {
            let mut frame = frame(bodies[body]);
            let at = at % frame.len();
            frame[at] = value;
            frames.push((UPLINK, frame));
        }
        switch_box.send(frames);
        switch_box.moved();
    }
}
