//! IPv6 fragments whose headers go on behind the fragment header (RFC 8200, section 4.5): later ones name another protocol
//! than the datagram's.

use tidegate_dataplane::steering::PortId;

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{Body, Flow},
    world::{CLIENT, Mode, UPLINK, Vm, number},
};

const IP: usize = 14;
const BEHIND_IP: usize = IP + 40;
const FRAGMENT: u8 = 44;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes `from` to `to` of all that follows the IPv6 header of `frame` as a fragment of protocol `next`.
fn fragment(frame: &[u8], next: u8, from: usize, to: usize) -> (PortId, Vec<u8>) {
    let rest = &frame[BEHIND_IP..];
    let end = to.min(rest.len());
    let field = from as u16 | u16::from(end < rest.len());
    let [upper, lower] = field.to_be_bytes();
    let header = [next, 0, upper, lower, 0, 0, 0, 7];
    let mut fragment = [&frame[..BEHIND_IP], &header, &rest[from..end]].concat();
    fragment[IP + 6] = FRAGMENT;
    let length = (8 + end - from) as u16;
    fragment[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
    (UPLINK, fragment)
}

fn with_options() -> Vec<u8> {
    let packet = Flow::new(CLIENT, 7).to_service(Body::Udp).with_options();
    packet.with_payload(&[7; 100]).frame()
}

#[test]
fn the_first_says_which_protocol_it_is() {
    for shards in 1..5 {
        let old = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(shards, old);
        // The library that reads what leaves takes a piece of an option for the whole.
        switch_box.verify = false;
        let frame = with_options();
        // What later fragments say is not used for reassembly, and need not be the same.
        let next = [DESTINATION_OPTIONS, DESTINATION_OPTIONS, 17];
        let [first, second, third] =
            [0, 40, 80].map(|from| fragment(&frame, next[from / 40], from, from + 40));
        let numbers = switch_box.send(vec![second, first, third]);
        let ended: Vec<_> = numbers.map(|number| switch_box.ended(number).expect("sent")).collect();
        for (port, frame) in ended.into_iter().filter_map(|it| it.sent) {
            let destination: [u8; 16] = frame[IP + 24..BEHIND_IP].try_into().expect("an address");
            assert_eq!((port, number(destination.into())), (old.backend.port, old.speaks_as()));
        }
        let sessions = switch_box.sessions();
        assert_eq!((sessions[0].tuple.client_port, sessions[0].tuple.protocol), (7, 17));
        assert_moved!(switch_box, ToSource 3);
    }
}

/// RFC 7112: a first fragment has all headers.
#[test]
fn headers_cut_in_two_are_refused() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::Nat));
    let mut frame = with_options();
    // Of the UDP header nothing is there; then the options are longer than the fragment.
    switch_box.frames(vec![fragment(&frame, DESTINATION_OPTIONS, 0, 8)]);
    frame[BEHIND_IP + 1] = 3;
    switch_box.frames(vec![fragment(&frame, DESTINATION_OPTIONS, 0, 24)]);
    assert_moved!(switch_box, FragmentTiny 1, BadIpv6 1);
}

#[test]
fn fragments_of_fragments_and_hidden_routes_are_refused() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let frame = with_options();
        let nested = fragment(&frame, DESTINATION_OPTIONS, 0, 80).1;
        switch_box.send(vec![fragment(&nested, FRAGMENT, 0, 64)]);
        // The options read as a routing header that leads to four more.
        let mut routed = frame.clone();
        routed[BEHIND_IP + 3] = 4;
        switch_box
            .send([0, 40, 80].map(|from| fragment(&routed, ROUTING, from, from + 40)).to_vec());
        assert_moved!(switch_box, BadIpv6 1, SourceRouted 1, FragmentOrphan 2);
    }
}
