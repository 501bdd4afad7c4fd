//! Later fragments go where the first of their datagram went, whatever the order they come in (RFC 4787, REQ-14).

use tidegate_dataplane::{
    pipeline::Outcome,
    steering::{ManagedAddress, PortId, Unknown},
};

use crate::switch_box::{
    Ended, SwitchBox, assert_moved,
    fragments::{cut, fragment, joined},
    traffic::{ACK, Body, FIN_ACK, Flow, OTHER_ICMP, Packet, RST_ACK, SYN, SYN_ACK, segment, tcp},
    wire::Seen,
    world::{BOX, CLIENT, CLIENT_2, Mode, SERVICE, UPLINK, Vm},
};

const MODES: [Mode; 2] = [Mode::Nat, Mode::L2];
/// Longer than any fragment waits, in milliseconds, and shorter than a first one is remembered.
const TOO_LONG_MS: u64 = 1_001;
/// Longer than a first fragment is remembered, in milliseconds.
const FORGOTTEN_MS: u64 = 5_001;

/// No two words of it are alike.
pub(crate) static PAYLOAD: [u8; 1000] = {
    let (mut bytes, mut at) = ([0; 1000], 0);
    while at < 1000 {
        bytes[at] = ((at / 2) >> (8 - at % 2 * 8)) as u8;
        at += 1;
    }
    bytes
};

/// A packet whose fragments are worth the name.
pub(crate) fn long(packet: Packet) -> Packet {
    packet.with_payload(&PAYLOAD)
}

/// The packet's fragments, about three, and the port they arrive on.
pub(crate) fn in_three(packet: &Packet, identification: u32) -> Vec<(PortId, Vec<u8>)> {
    let fragments = cut(&packet.frame(), identification, 400);
    fragments.into_iter().map(|fragment| (packet.port, fragment)).collect()
}

/// Feed frames, each in a burst of its own or all in one, and return how each ended when the last was in.
pub(crate) fn feed(
    switch_box: &mut SwitchBox,
    frames: Vec<(PortId, Vec<u8>)>,
    one_by_one: bool,
) -> Vec<Option<Ended>> {
    let numbers: Vec<u64> = if one_by_one {
        frames.into_iter().flat_map(|frame| switch_box.send(vec![frame])).collect()
    } else {
        switch_box.send(frames).collect()
    };
    numbers.into_iter().map(|number| switch_box.ended(number)).collect()
}

/// The datagram that left in these fragments, all by one port; its checksums are right.
#[track_caller]
pub(crate) fn whole<'a>(ended: impl IntoIterator<Item = &'a Ended>) -> Seen {
    let sent: Vec<_> = ended.into_iter().map(|it| it.sent.as_ref().expect("sent")).collect();
    let port = sent[0].0;
    assert!(sent.iter().all(|(other, _)| *other == port), "by different ports");
    let frame = joined(sent.iter().map(|(_, frame)| frame)).expect("all of it");
    Seen::read(port, &frame)
}

/// The packet as it should leave: what was fed, with other addresses.
#[track_caller]
fn assert_arrived(seen: &Seen, packet: &Packet, port: PortId, source: u32, destination: u32) {
    assert_eq!((seen.port, seen.source, seen.destination), (port, source, destination));
    assert_eq!(seen.payload, PAYLOAD);
    if matches!(packet.body, Body::Udp | Body::Tcp { .. }) {
        let ports = (packet.source_port, packet.destination_port);
        assert_eq!((seen.source_port, seen.destination_port), ports);
    }
}

pub(crate) const ORDERS: [[usize; 3]; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Every protocol with ports or an identifier, every order, both directions, both rewrite modes, 1 to 4 shards.
/// RFC 4787, REQ-14.
#[test]
fn three_fragments_in_every_order() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(shards, old);
        let mut identification = 0;
        let mut check = |switch_box: &mut SwitchBox, packet: &Packet, vm: Vm, one_by_one| {
            for order in ORDERS {
                identification += 1;
                let fragments = in_three(packet, identification);
                assert_eq!(fragments.len(), 3);
                let frames = order.map(|at| fragments[at].clone()).to_vec();
                let ended: Vec<_> = feed(switch_box, frames, one_by_one).into_iter().collect();
                let seen = whole(ended.iter().flatten());
                assert_eq!(ended.iter().flatten().count(), 3, "all went at once");
                if packet.port == UPLINK {
                    let to = (vm.backend.port, vm.speaks_as());
                    assert_arrived(&seen, packet, to.0, packet.source, to.1);
                } else {
                    assert_arrived(&seen, packet, UPLINK, SERVICE, packet.destination);
                }
                assert_eq!(switch_box.held(), 0);
            }
        };
        // Sessions that are old at the cutover, and one that is new.
        let bodies = [tcp(ACK), Body::Udp, Body::UdpWithoutChecksum, Body::EchoRequest];
        for (body, client_port) in bodies.into_iter().zip(10..) {
            let flow = Flow::new(CLIENT, client_port);
            for one_by_one in [true, false] {
                check(&mut switch_box, &long(flow.to_service(body)), old, one_by_one);
                let answer = if body == Body::EchoRequest { Body::EchoReply } else { body };
                check(&mut switch_box, &long(flow.sent_by(old, answer)), old, one_by_one);
            }
        }
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Drop), 4);
        for (body, client_port) in bodies.into_iter().zip(10..) {
            let (old_one, new_one) =
                (Flow::new(CLIENT, client_port), Flow::new(CLIENT_2, client_port));
            let is_tcp = matches!(body, Body::Tcp { .. });
            if is_tcp {
                switch_box.one(&new_one.to_service(tcp(SYN)));
            }
            check(&mut switch_box, &long(old_one.to_service(body)), old, true);
            check(&mut switch_box, &long(new_one.to_service(body)), new, false);
            let answer = if body == Body::EchoRequest { Body::EchoReply } else { body };
            check(&mut switch_box, &long(new_one.sent_by(new, answer)), new, true);
        }
    }
}

#[test]
fn without_the_first_they_wait_and_expire() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let packet = long(Flow::new(CLIENT, 7).to_service(Body::Udp));
        let later = in_three(&packet, 7).split_off(1);
        assert!(feed(&mut switch_box, later.clone(), false).iter().all(Option::is_none));
        switch_box.advance(TOO_LONG_MS - 1);
        switch_box.sweep();
        assert_eq!(switch_box.held(), 2);
        assert_moved!(switch_box);
        switch_box.advance(1);
        switch_box.sweep();
        assert_eq!(switch_box.held(), 0);
        assert_moved!(switch_box, FragmentExpired 2);
        // A first that comes too late passes, for what comes after it; those before it are gone.
        switch_box.frames(in_three(&packet, 7)[..1].to_vec());
        switch_box.frames(later);
        assert_moved!(switch_box, ToSource 3);
    }
}

#[test]
fn the_first_is_remembered_for_a_while() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let fragments = in_three(&long(Flow::new(CLIENT, 7).to_service(Body::Udp)), 7);
        switch_box.frames(fragments[..2].to_vec());
        switch_box.advance(FORGOTTEN_MS - 1);
        switch_box.frames(fragments[2..].to_vec());
        switch_box.advance(1);
        switch_box.send(fragments[1..2].to_vec());
        assert_moved!(switch_box, ToSource 3);
        assert_eq!(switch_box.held(), 1);
    }
}

/// What a sender or the network sends twice goes the same way; which bytes count is for the guest to say.
#[test]
fn duplicates_and_overlaps_go_the_same_way() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let old = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(shards, old);
        let packet = long(Flow::new(CLIENT, 7).to_service(Body::Udp));
        let frame = packet.frame();
        let parts =
            [(8, 400), (400, 800), (0, 400), (0, 400), (400, 800), (200, 1008), (800, 1008)];
        let frames = parts.map(|(from, to)| (UPLINK, fragment(&frame, 9, from, to))).to_vec();
        let ended: Vec<_> = feed(&mut switch_box, frames, true).into_iter().flatten().collect();
        assert_arrived(&whole(&ended), &packet, old.backend.port, CLIENT, old.speaks_as());
        assert_moved!(switch_box, ToSource 7);
        assert_eq!(switch_box.sessions().len(), 1);
    }
}

/// A duplicate of the first is not judged anew: the session may be another one by then.
#[test]
fn a_first_that_comes_twice_changes_nothing() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(1, old);
    let fragments = in_three(&long(Flow::new(CLIENT, 7).to_service(tcp(SYN))), 7);
    switch_box.frames(fragments[..1].to_vec());
    // The VM refuses what it knows: the SYN and the data in the first fragment.
    let refused = 1000 + 1 + 380;
    let reset = Flow::new(CLIENT, 7).sent_by(old, segment(RST_ACK, 0, refused));
    switch_box.one(&reset);
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Source);
    switch_box.frames(vec![fragments[0].clone(), fragments[2].clone()]);
    assert_moved!(switch_box, ToSource 3, ToClient 1);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 0));
}

/// The same identification may be used again once a datagram is complete, for another session too.
#[test]
fn an_identification_is_used_again() {
    for shards in 1..5 {
        let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
        let mut switch_box = SwitchBox::new(shards, old);
        let before = long(Flow::new(CLIENT, 7).to_service(Body::Udp));
        let after = long(Flow::new(CLIENT, 8).to_service(Body::Udp));
        switch_box.frames(in_three(&before, 7));
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        switch_box.frames(in_three(&after, 7));
        assert_moved!(switch_box, ToSource 3, ToDestination 3);
    }
}

/// A datagram that a cutover cuts in two belongs to the session's owner, and its session is old.
#[test]
fn a_cutover_between_two_fragments() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(shards, old);
        let fragments = in_three(&long(Flow::new(CLIENT, 7).to_service(Body::Udp)), 7);
        switch_box.frames(fragments[..1].to_vec());
        // These wait for a first that comes after the cutover.
        let late = in_three(&long(Flow::new(CLIENT, 8).to_service(Body::Udp)), 8);
        switch_box.send(late[1..].to_vec());
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Source), 1);
        switch_box.frames(fragments[1..].to_vec());
        switch_box.frames(late[..1].to_vec());
        assert_moved!(switch_box, ToSource 3, ToDestination 3);
        // The owner goes; what is left of its datagrams has nowhere to go.
        switch_box.release();
        switch_box.frames(fragments[1..].to_vec());
        assert_moved!(switch_box, FragmentOrphan 2);
    }
}

/// A clone goes on with the source's identifications: what each sends is told apart by who sent it.
#[test]
fn two_vms_with_one_identification() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(shards, old);
        let flow = Flow::new(CLIENT, 7);
        switch_box.one(&flow.to_service(Body::Udp));
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        let mine = in_three(&long(flow.sent_by(old, Body::Udp)), 7);
        let theirs = in_three(&long(flow.sent_by(new, Body::Udp)), 7);
        switch_box.moved();
        let mixed =
            theirs.iter().zip(&mine).flat_map(|(theirs, mine)| [theirs.clone(), mine.clone()]);
        let ended = switch_box.frames(mixed.collect());
        assert_eq!(whole(ended.iter().filter(|it| it.sent.is_some())).payload, PAYLOAD);
        assert_moved!(switch_box, ToClient 3, OtherOwner 1, FragmentOrphan 2);
    }
}

#[test]
fn a_clone_before_the_cutover_sends_none() {
    for shards in 1..5 {
        let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
        let mut switch_box = SwitchBox::new(shards, old);
        switch_box.set_destination(new);
        let fragments = in_three(&long(Flow::new(CLIENT, 7).sent_by(new, Body::Udp)), 7);
        switch_box.send([1, 0, 2].map(|at: usize| fragments[at].clone()).to_vec());
        assert_moved!(switch_box, BeforeCutover 1, FragmentOrphan 2);
    }
}

/// What is known by its addresses alone needs no first fragment, and none of it waits.
#[test]
fn what_has_no_ports_passes_in_any_order() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let old = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(shards, old);
        let flow = Flow { client: CLIENT, client_port: 0, service_port: 0 };
        for packet in [flow.to_service(Body::Protocol(47)), flow.sent_by(old, Body::Protocol(47))] {
            let mut fragments = in_three(&long(packet), 7);
            fragments.reverse();
            switch_box.frames(fragments);
        }
        assert_moved!(switch_box, ToSource 3, ToClient 3);
        assert_eq!(switch_box.sessions().len(), 1);
    }
}

#[test]
fn to_a_locator_all_of_it_takes_the_route() {
    for shards in 1..5 {
        let old = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(shards, old);
        let flow = Flow::new(CLIENT, 7);
        let mut fragments = in_three(&long(flow.to(old.locator, Body::Udp)), 7);
        fragments.reverse();
        let seen = whole(&switch_box.frames(fragments));
        assert_eq!((seen.source, seen.destination), (CLIENT, old.locator));
        assert_moved!(switch_box, Forwarded 3);
        // The answer is not the managed address's, and only the first fragment's session tells.
        let answer = in_three(&long(flow.sent_by(old, Body::Udp)), 7);
        let numbers = switch_box.send([2, 0, 1].map(|at: usize| answer[at].clone()).to_vec());
        let ended: Vec<_> = numbers.filter_map(|number| switch_box.ended(number)).collect();
        assert_eq!(whole(&ended).source, old.locator);
        assert_moved!(switch_box, Forwarded 3);
    }
}

#[test]
fn an_address_without_sessions_lets_all_pass_at_once() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..5).map(move |it| (mode, it))) {
        let home = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(shards, home);
        let address = ManagedAddress { tracked: false, ..switch_box.address };
        switch_box.install(address, &[]);
        for body in [Body::Udp, tcp(ACK), Body::EchoReply] {
            let flow = Flow::new(CLIENT, 7);
            for packet in [flow.to_service(body), flow.sent_by(home, body)] {
                let mut fragments = in_three(&long(packet), 7);
                fragments.reverse();
                assert_eq!(whole(&switch_box.frames(fragments)).payload, PAYLOAD);
            }
        }
        let mut other = in_three(&long(Flow::new(CLIENT, 7).to_service(OTHER_ICMP)), 8);
        switch_box.frames(other.drain(..1).collect());
        assert_moved!(switch_box, ToSource 9, ToClient 9, IcmpUnsupported 1);
    }
}

/// A VM's large ping of its gateway is the kernel's business.
#[test]
fn to_the_box_itself_all_goes_to_the_kernel() {
    for mode in MODES {
        let old = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(2, old);
        let packet =
            Packet { destination: BOX, ..Flow::new(CLIENT, 7).sent_by(old, Body::EchoRequest) };
        let mut fragments = in_three(&long(packet), 7);
        fragments.reverse();
        switch_box.frames(fragments);
        assert_moved!(switch_box, ForHost 3);
        assert!(switch_box.sessions().is_empty());
    }
}

/// Where a FIN ends is not known from the first fragment: nothing closes before its time.
#[test]
fn a_fin_in_fragments_closes_nothing_early() {
    let old = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, old);
    let flow = Flow::new(CLIENT, 7);
    switch_box.feed(&[
        flow.to_service(segment(SYN, 99, 0)),
        flow.sent_by(old, segment(SYN_ACK, 499, 100)),
        flow.to_service(segment(ACK, 100, 500)),
    ]);
    switch_box.frames(in_three(&long(flow.to_service(segment(FIN_ACK, 100, 500))), 7));
    // The VM has the first fragment's data and no more, and sends its own FIN, which is acknowledged.
    switch_box.feed(&[
        flow.sent_by(old, segment(FIN_ACK, 500, 100 + 380 + 1)),
        flow.to_service(segment(ACK, 1101, 501)),
    ]);
    assert_eq!(switch_box.live(old), 1);
}

#[test]
fn time_to_live_runs_out_for_each() {
    let old = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, old);
    let packet = long(Flow::new(CLIENT, 7).to_service(Body::Udp));
    switch_box.frames(in_three(&packet, 7)[..1].to_vec());
    switch_box.frames(in_three(&packet.with_ttl(1), 7)[1..].to_vec());
    assert_moved!(switch_box, ToSource 1, TtlExpired 2);
}

#[test]
fn errors_in_fragments_are_refused_with_all_their_fragments() {
    for shards in 1..5 {
        let mut switch_box = SwitchBox::new(shards, Vm::old(1, Mode::Nat));
        let fragments = in_three(&long(Flow::new(CLIENT, 7).to_service(OTHER_ICMP)), 7);
        let order = [1, 0, 2].map(|at: usize| fragments[at].clone());
        for ended in feed(&mut switch_box, order.to_vec(), true) {
            let outcome = ended.expect("ended").outcome;
            assert!([Outcome::IcmpUnsupported, Outcome::FragmentOrphan].contains(&outcome));
        }
        assert_moved!(switch_box, IcmpUnsupported 1, FragmentOrphan 2);
    }
}
