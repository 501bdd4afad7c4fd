//! Fragments that nobody honest sends: tiny and overlapping ones (RFC 1858, RFC 3128, RFC 5722), and floods.

use tidegate_dataplane::{
    pipeline::{HELD, Outcome},
    steering::{PortId, Unknown},
};

use crate::{
    OVER_IPV6,
    fragments::{in_three, long, whole},
    switch_box::{
        SwitchBox, assert_moved,
        fragments::{Part, cut, fragment},
        traffic::{ACK, Body, Flow, SYN, SYN_ACK, segment, tcp},
        world::{CLIENT, CLIENT_2, Mode, UPLINK, Vm},
    },
};

/// Frames of one family that may be held by a shard.
const MOST_HELD: usize = HELD / 2;
/// Fragments of one datagram that may wait.
const MOST_OF_A_DATAGRAM: u64 = 44;
/// Datagrams a shard remembers.
const DATAGRAMS: u32 = 4096;

#[test]
fn a_first_without_the_whole_transport_header() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let flow = Flow::new(CLIENT, 7);
        let tcp = long(flow.to_service(tcp(SYN))).frame();
        // Cut before the flags, right behind them, and before the options end: the header says it has six words.
        let mut with_options = tcp.clone();
        with_options[Part::read(&tcp).headers_len() + 12] = 6 << 4;
        let tiny = [(&tcp, 8), (&tcp, 16), (&with_options, 16)];
        let tiny = tiny.map(|(frame, len)| (UPLINK, fragment(frame, 7, 0, len)));
        switch_box.frames(tiny.to_vec());
        assert_moved!(switch_box, FragmentTiny 3);
        assert!(switch_box.sessions().is_empty());
        // UDP's header is whole in the smallest fragment there can be.
        let udp = long(flow.to_service(Body::Udp)).frame();
        switch_box.frames(vec![(UPLINK, fragment(&udp, 8, 0, 8))]);
        assert_moved!(switch_box, ToSource 1);
    }
}

#[test]
fn a_later_one_inside_of_a_tcp_header() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let frame = long(Flow::new(CLIENT, 7).to_service(tcp(SYN))).frame();
        let parts = [(0, 400), (8, 400), (16, 400), (24, 400), (400, 1020)];
        let frames = parts.map(|(from, to)| (UPLINK, fragment(&frame, 7, from, to)));
        switch_box.frames(frames.to_vec());
        assert_moved!(switch_box, ToSource 3, FragmentTiny 2);
    }
}

/// A second first fragment would lead the guest to take the datagram for another session's.
#[test]
fn a_second_first_with_other_ports() {
    for shards in 1..5 {
        let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
        let mut switch_box = SwitchBox::new(shards, old);
        switch_box.one(&Flow::new(CLIENT, 7).to_service(Body::Udp));
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        switch_box.moved();
        let mine = in_three(&long(Flow::new(CLIENT, 7).to_service(Body::Udp)), 7);
        let theirs = in_three(&long(Flow::new(CLIENT, 8).to_service(Body::Udp)), 7);
        let mixed = [&mine[0], &theirs[0], &mine[1], &theirs[0], &mine[2]];
        let ended = switch_box.frames(mixed.map(Clone::clone).to_vec());
        assert_eq!(whole(ended.iter().filter(|it| it.sent.is_some())).source_port, 7);
        assert_moved!(switch_box, ToSource 3, FragmentConflict 2);
        assert_eq!(switch_box.sessions().len(), 1);
    }
}

/// One datagram cannot take all the places.
#[test]
fn a_datagram_of_too_many_fragments_waits_in_part() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::Nat));
    let frame = long(Flow::new(CLIENT, 7).to_service(Body::Udp)).frame();
    let fragments = cut(&frame, 7, 16);
    let later = fragments[1..].iter().map(|frame| (UPLINK, frame.clone())).collect::<Vec<_>>();
    let count = later.len() as u64;
    switch_box.send(later);
    assert_eq!(switch_box.held() as u64, MOST_OF_A_DATAGRAM);
    assert_moved!(switch_box, FragmentNoRoom count - MOST_OF_A_DATAGRAM);
    switch_box.frames(vec![(UPLINK, fragments[0].clone())]);
    assert_moved!(switch_box, ToSource 1 + MOST_OF_A_DATAGRAM);
}

/// Make a fragment one of another datagram. The header's checksum is not looked at.
fn identify(frame: &mut [u8], number: u32) {
    if OVER_IPV6 {
        frame[14 + 44..14 + 48].copy_from_slice(&number.to_be_bytes());
    } else {
        frame[14 + 4..14 + 6].copy_from_slice(&(number as u16).to_be_bytes());
    }
}

/// Later fragments whose first never comes, each of another datagram.
fn firstless(count: u32, from: u32) -> impl Iterator<Item = (PortId, Vec<u8>)> {
    let template = in_three(&long(Flow::new(CLIENT, 7).to_service(Body::Udp)), 7).remove(1).1;
    (from..from + count).map(move |number| {
        let mut frame = template.clone();
        identify(&mut frame, number);
        if !OVER_IPV6 {
            frame[14 + 15] = (number >> 16) as u8;
        }
        (UPLINK, frame)
    })
}

/// What the flood does not hit: a session with small and large packets, whose fragments come in any order.
/// RFC 4787, REQ-14a.
#[test]
fn a_flood_of_firstless_fragments_costs_others_nothing() {
    for shards in [1, 4] {
        let old = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(shards, old);
        switch_box.verify = false;
        let flow = Flow::new(CLIENT_2, 7);
        switch_box.feed(&[
            flow.to_service(segment(SYN, 99, 0)),
            flow.sent_by(old, segment(SYN_ACK, 499, 100)),
            flow.to_service(segment(ACK, 100, 500)),
        ]);
        switch_box.moved();
        for round in 0..1000 {
            switch_box.send(firstless(50, round * 50).collect());
            let mut own = vec![(UPLINK, flow.to_service(segment(ACK, 100, 500)).frame())];
            let mut fragments = in_three(&long(flow.to_service(Body::Udp)), round);
            fragments.reverse();
            own.extend(fragments);
            let numbers = switch_box.send(own);
            switch_box.send(firstless(50, 500_000 + round * 50).collect());
            for number in numbers {
                let ended = switch_box.ended(number).expect("it waits for nobody else");
                assert_eq!(ended.outcome, Outcome::ToSource);
            }
            assert!(switch_box.held() <= usize::from(shards) * MOST_HELD);
            // As often as a worker does while packets flow.
            switch_box.sweep_some(4);
        }
        // Those that left for their first are not replaced at once.
        let held = switch_box.held() as u64;
        assert!(held > u64::from(shards) * MOST_HELD as u64 * 9 / 10, "{held}");
        assert_moved!(switch_box, ToSource 4000, FragmentNoRoom 100_000 - held);
        switch_box.advance(1_001);
        switch_box.sweep();
        assert_moved!(switch_box, FragmentExpired held);
        assert_eq!(switch_box.live(old), 2);
    }
}

/// First fragments are remembered by the newest: a flood of them delays nobody, and an honest datagram in order passes.
/// RFC 4787, REQ-14a.
#[test]
fn a_flood_of_first_fragments() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(2, 200_000, old);
    switch_box.verify = false;
    let own = in_three(&long(Flow::new(CLIENT_2, 9).to_service(Body::Udp)), 9);
    let template = in_three(&long(Flow::new(CLIENT, 7).to_service(Body::Udp)), 7).remove(0).1;
    let flood = |number: u32| {
        let mut frame = template.clone();
        identify(&mut frame, number);
        (UPLINK, frame)
    };
    for round in 0..16 {
        switch_box.frames((round * DATAGRAMS..(round + 1) * DATAGRAMS).map(flood).collect());
        let ended = switch_box.frames(own.clone());
        assert!(ended.iter().all(|it| it.outcome == Outcome::ToSource));
    }
    assert_moved!(switch_box, ToSource u64::from(16 * DATAGRAMS) + 16 * 3);
    assert_eq!((switch_box.held(), switch_box.sessions().len()), (0, 2));
}
