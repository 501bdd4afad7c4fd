//! ICMP errors find the session they quote, in both directions (RFC 5508, sections 4.2.1 and 4.2.2).
//!
//! What a translated error quotes must be what its receiver once sent, as the receiver sent it: that is what judges the
//! translation here.

use proptest::prelude::*;
use tidegate_dataplane::{pipeline::Outcome, steering::Unknown};

use crate::{
    OVER_IPV6,
    switch_box::{
        Ended, SwitchBox, assert_moved,
        summed::{DCCP, UDP_LITE},
        traffic::{ACK, Body, Flow, Packet, SYN, SYN_ACK, tcp},
        wire::Seen,
        world::{CLIENT, FAR_CLIENT, Mode, NEW_PORT, OLD_PORT, ROUTER, UPLINK, Vm, ip},
    },
};

const MODES: [Mode; 2] = [Mode::Nat, Mode::L2];
/// Bytes of the IP header.
const IP_LEN: usize = if OVER_IPV6 { 40 } else { 20 };

/// Unreachable, too big, time exceeded, parameter problem.
pub(crate) const ERRORS: [Body; 4] = if OVER_IPV6 {
    [Body::Icmp(1, 4), Body::Icmp(2, 0), Body::Icmp(3, 0), Body::Icmp(4, 1)]
} else {
    [Body::Icmp(3, 3), Body::Icmp(3, 4), Body::Icmp(11, 0), Body::Icmp(12, 0)]
};

/// An error about the packet in `frame`, of which the first `quoted` bytes are quoted.
pub(crate) fn about(
    frame: &[u8],
    quoted: usize,
    body: Body,
    source: u32,
    destination: u32,
) -> Packet {
    let quote = frame[14..].iter().copied().take(quoted).collect::<Vec<_>>();
    let packet = Flow::new(source, 0).to(destination, body);
    packet.with_payload(quote.leak())
}

/// The IP packet in `frame` without what routers change: time to live, and IPv4's checksum.
fn unchanging(packet: &[u8]) -> Vec<u8> {
    let changed = if OVER_IPV6 { 7..8 } else { 8..12 };
    let kept = |at: &usize| !changed.contains(at) || (!OVER_IPV6 && *at == 9);
    (0..packet.len()).filter(kept).map(|at| packet[at]).collect()
}

/// What `ended` left quotes the packet in `frame`, of which `quoted` bytes were quoted.
#[track_caller]
pub(crate) fn assert_quotes(ended: &Ended, frame: &[u8], quoted: usize) -> Seen {
    let seen = ended.seen();
    let sent = &frame[14..];
    let quoted = quoted.min(sent.len());
    assert_eq!(unchanging(&seen.payload), unchanging(&sent[..quoted]));
    seen
}

/// A box with a session of `flow` before a VM, and the frames of both directions: as they came, and as they left.
struct Conversation {
    switch_box: SwitchBox,
    vm: Vm,
    flow: Flow,
    from_client: [Vec<u8>; 2],
    from_vm: [Vec<u8>; 2],
}

fn conversation(shards: u16, mode: Mode, bodies: [Body; 2]) -> Conversation {
    let vm = Vm::old(1, mode);
    let mut switch_box = SwitchBox::new(shards, vm);
    let flow = Flow::new(CLIENT, 7777);
    let mut both_sides = |packet: &Packet| {
        let ended = switch_box.one(packet);
        [packet.frame(), ended.sent.expect("steered").1]
    };
    let [there, back] = bodies;
    let from_client = both_sides(&flow.to_service(there).with_payload(b"a question"));
    let from_vm = both_sides(&flow.sent_by(vm, back).with_payload(b"an answer"));
    switch_box.moved();
    Conversation { switch_box, vm, flow, from_client, from_vm }
}

pub(crate) const CONVERSATIONS: [[Body; 2]; 8] = [
    [
        Body::Tcp { flags: SYN, sequence: 1, acknowledgement: 0 },
        Body::Tcp { flags: SYN_ACK, sequence: 9, acknowledgement: 2 },
    ],
    [Body::Udp, Body::Udp],
    [Body::EchoRequest, Body::EchoReply],
    [Body::Protocol(132), Body::Protocol(132)],
    // IPv4 and IPv6 in IP: no tunnel of the box's.
    [Body::Protocol(4), Body::Protocol(4)],
    [Body::Protocol(41), Body::Protocol(41)],
    [Body::Summed { protocol: UDP_LITE, covered: 8 }; 2],
    [Body::Summed { protocol: DCCP, covered: 0 }; 2],
];

/// As much as routers quote: the least there is, up to TCP's checksum and with it, and all.
pub(crate) const QUOTED: [usize; 4] = [IP_LEN + 8, IP_LEN + 16, IP_LEN + 18, 1000];

/// RFC 5508, REQ-4; RFC 5382, REQ-9.
#[test]
fn from_a_router_of_the_client_to_the_owner() {
    for (mode, bodies) in MODES.into_iter().flat_map(|mode| CONVERSATIONS.map(|it| (mode, it))) {
        let mut it = conversation(2, mode, bodies);
        for (body, quoted) in ERRORS.into_iter().flat_map(|body| QUOTED.map(|it| (body, it))) {
            let error =
                about(&it.from_vm[1], quoted, body, ROUTER, it.flow.to_service(body).destination);
            let ended = it.switch_box.one(&error);
            let seen = assert_quotes(&ended, &it.from_vm[0], quoted);
            assert_eq!((seen.port, seen.source), (OLD_PORT, ROUTER));
            assert_eq!(seen.destination, it.vm.speaks_as(), "{body:?} about {bodies:?}");
        }
        assert_moved!(it.switch_box, ToSource 16);
    }
}

#[test]
fn from_a_router_before_the_backend_to_the_client() {
    let mode = Mode::Nat;
    for bodies in CONVERSATIONS {
        let mut it = conversation(3, mode, bodies);
        for (body, quoted) in ERRORS.into_iter().flat_map(|body| QUOTED.map(|it| (body, it))) {
            // Its address is nobody's here: it stands between the box and the guest.
            let router = FAR_CLIENT + 9;
            let error = about(&it.from_client[1], quoted, body, router, CLIENT).on(OLD_PORT);
            let ended = it.switch_box.one(&error);
            let seen = assert_quotes(&ended, &it.from_client[0], quoted);
            assert_eq!((seen.port, seen.source, seen.destination), (UPLINK, router, CLIENT));
            assert_eq!(seen.ttl, error.ttl - 1);
        }
        assert_moved!(it.switch_box, ToClient 16);
    }
}

/// RFC 5508, REQ-5.
#[test]
fn from_the_backend_itself_to_the_client() {
    for (mode, bodies) in MODES.into_iter().flat_map(|mode| CONVERSATIONS.map(|it| (mode, it))) {
        let mut it = conversation(4, mode, bodies);
        for (body, quoted) in ERRORS.into_iter().flat_map(|body| QUOTED.map(|it| (body, it))) {
            let error = about(&it.from_client[1], quoted, body, it.vm.speaks_as(), CLIENT);
            let ended = it.switch_box.one(&error.on(OLD_PORT));
            let seen = assert_quotes(&ended, &it.from_client[0], quoted);
            let service = it.flow.to_service(body).destination;
            assert_eq!((seen.port, seen.source, seen.destination), (UPLINK, service, CLIENT));
        }
        assert_moved!(it.switch_box, ToClient 16);
    }
}

#[test]
fn the_other_clone_may_not_speak_of_it() {
    for mode in MODES {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut it = conversation(2, mode, CONVERSATIONS[1]);
        it.switch_box.set_destination(new);
        it.switch_box.cutover(Unknown::Source);
        let quote = |vm: Vm| {
            let packet = Packet { destination: vm.speaks_as(), ..it.flow.to_service(Body::Udp) };
            about(&packet.frame(), 1000, ERRORS[0], vm.speaks_as(), CLIENT).on(vm.backend.port)
        };
        let (by_new, by_old) = (quote(new), quote(old));
        let outcome = it.switch_box.one(&by_new).outcome;
        // With a locator of its own it quotes a packet that nobody sent it.
        let expected = if mode == Mode::L2 { Outcome::OtherOwner } else { Outcome::IcmpUnmatched };
        assert_eq!(outcome, expected);
        assert_eq!(it.switch_box.one(&by_old).outcome, Outcome::ToClient);
        assert_eq!(by_new.port, NEW_PORT);
    }
}

/// With a locator of its own a VM is sent nothing in the managed address's name.
#[test]
fn a_vm_may_only_speak_of_what_reached_it() {
    let mut it = conversation(2, Mode::Nat, CONVERSATIONS[1]);
    let error = about(&it.from_client[0], 1000, ERRORS[0], it.vm.locator, CLIENT).on(OLD_PORT);
    assert_eq!(it.switch_box.one(&error).outcome, Outcome::IcmpUnmatched);
}

#[test]
fn to_a_locator_that_the_client_chose_nothing_is_translated() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(2, vm);
    let flow = Flow::new(CLIENT, 5);
    let there = switch_box.one(&flow.to(vm.locator, Body::Udp));
    let frame = there.sent.expect("forwarded").1;
    let error = about(&frame, 1000, ERRORS[0], vm.locator, CLIENT).on(OLD_PORT);
    let ended = switch_box.one(&error);
    assert_eq!(ended.outcome, Outcome::Forwarded);
    assert_quotes(&ended, &frame, 1000);
    assert_eq!(ended.seen().source, vm.locator);
}

/// RFC 5508, REQ-4 and REQ-5.
#[test]
fn about_no_session_or_another_receiver() {
    for mode in MODES {
        let mut it = conversation(2, mode, CONVERSATIONS[1]);
        let service = it.flow.to_service(Body::Udp).destination;
        let stranger = Flow::new(CLIENT, 1).sent_by(it.vm, Body::Udp);
        let stranger = Packet { source: service, ..stranger }.frame();
        let by_router = about(&stranger, 1000, ERRORS[0], ROUTER, service);
        assert_eq!(it.switch_box.one(&by_router).outcome, Outcome::IcmpUnmatched);
        // A packet that someone else sent.
        let foreign = Flow::new(CLIENT, 7777).to(FAR_CLIENT, Body::Udp).frame();
        let by_router = about(&foreign, 1000, ERRORS[0], ROUTER, service);
        assert_eq!(it.switch_box.one(&by_router).outcome, Outcome::IcmpUnmatched);
        assert!(it.switch_box.sessions().len() == 1, "an error begins no session");
    }
}

/// RFC 5508, REQ-3.
#[test]
fn unreadable_quotes_and_wrong_checksums_are_named() {
    let mut it = conversation(2, Mode::Nat, CONVERSATIONS[0]);
    let service = it.flow.to_service(Body::Udp).destination;
    for quoted in 0..IP_LEN + 8 {
        let error = about(&it.from_vm[1], quoted, ERRORS[0], ROUTER, service);
        let outcome = it.switch_box.one(&error).outcome;
        assert_eq!(outcome, Outcome::IcmpQuoteUnreadable, "{quoted} bytes");
    }
    let error = about(&it.from_vm[1], 1000, ERRORS[0], ROUTER, service);
    // An error about an error.
    let error_about_error = about(&error.frame(), 1000, ERRORS[0], ROUTER, service);
    let outcome = it.switch_box.one(&error_about_error).outcome;
    assert_eq!(outcome, Outcome::IcmpQuoteUnreadable);
    let mut wrong = error.frame();
    wrong[14 + IP_LEN + 2] ^= 1;
    assert_eq!(it.switch_box.frames(vec![(UPLINK, wrong)])[0].outcome, Outcome::BadIcmpChecksum);
}

#[test]
fn before_and_after_tracking_the_home_gets_them() {
    for mode in MODES {
        let mut it = conversation(1, mode, CONVERSATIONS[0]);
        let bound = tidegate_dataplane::steering::ManagedAddress {
            tracked: false,
            ..it.switch_box.address
        };
        it.switch_box.install(bound, &[]);
        let service = it.flow.to_service(Body::Udp).destination;
        let to_vm = about(&it.from_vm[1], 1000, ERRORS[0], ROUTER, service);
        assert_quotes(&it.switch_box.one(&to_vm), &it.from_vm[0], 1000);
        let to_client = about(&it.from_client[1], 1000, ERRORS[0], it.vm.speaks_as(), CLIENT);
        let ended = it.switch_box.one(&to_client.on(OLD_PORT));
        assert_quotes(&ended, &it.from_client[0], 1000);
    }
}

/// RFC 5508, REQ-6; RFC 7857, section 7.1.
#[test]
fn errors_keep_no_session_alive() {
    let mut it = conversation(1, Mode::Nat, CONVERSATIONS[1]);
    it.switch_box.advance(it.switch_box.timeouts.udp_ms);
    let service = it.flow.to_service(Body::Udp).destination;
    let error = about(&it.from_vm[1], 1000, ERRORS[0], ROUTER, service);
    assert_eq!(it.switch_box.one(&error).outcome, Outcome::ToSource);
    it.switch_box.advance(1);
    it.switch_box.sweep();
    assert!(it.switch_box.sessions().is_empty());
    assert_eq!(it.switch_box.one(&error).outcome, Outcome::IcmpUnmatched);
}

/// RFC 5382, REQ-10; RFC 4787, REQ-12; RFC 5508, REQ-6: nor do they end one.
#[test]
fn errors_end_no_session() {
    for bodies in CONVERSATIONS {
        let mut it = conversation(2, Mode::Nat, bodies);
        let before = it.switch_box.sessions();
        for body in ERRORS {
            let service = it.flow.to_service(body).destination;
            it.switch_box.one(&about(&it.from_vm[1], 1000, body, ROUTER, service));
            it.switch_box.one(
                &about(&it.from_client[1], 1000, body, it.vm.speaks_as(), CLIENT).on(OLD_PORT),
            );
        }
        assert_moved!(it.switch_box, ToSource 4, ToClient 4);
        let after = it.switch_box.sessions();
        assert_eq!((before.len(), before[0].state), (after.len(), after[0].state), "{bodies:?}");
        assert_eq!(it.switch_box.live(it.vm), 1);
    }
}

/// RFC 5508, REQ-3b.
#[test]
fn options_of_a_quoted_header_are_passed_over() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(2, vm);
    let flow = Flow::new(CLIENT, 7777);
    switch_box.one(&flow.to_service(Body::Udp));
    let answer = flow.sent_by(vm, Body::Udp).with_options().with_payload(b"an answer");
    let at_client = switch_box.one(&answer).sent.expect("steered").1;
    let error = about(&at_client, 1000, ERRORS[0], ROUTER, flow.to_service(ERRORS[0]).destination);
    let ended = switch_box.one(&error);
    assert_eq!(ended.outcome, Outcome::ToSource);
    assert_quotes(&ended, &answer.frame(), 1000);
}

/// RFC 5508, REQ-3c: a router may quote a packet that was damaged behind its IP header; who sent it is to know all the same.
#[test]
fn the_checksum_of_a_quoted_transport_is_not_looked_at() {
    let mut it = conversation(2, Mode::Nat, CONVERSATIONS[1]);
    let checksum = 14 + IP_LEN + 6;
    it.from_vm[1][checksum] ^= 0x55;
    let service = it.flow.to_service(Body::Udp).destination;
    let ended = it.switch_box.one(&about(&it.from_vm[1], 1000, ERRORS[0], ROUTER, service));
    assert_eq!(ended.outcome, Outcome::ToSource);
}

#[test]
fn others_errors_pass_as_they_are() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::Nat));
    let (a, b) = (CLIENT, FAR_CLIENT);
    let frame = Flow::new(a, 1).to(b, tcp(ACK)).frame();
    for quoted in [0, 8, IP_LEN + 8, 1000] {
        let error = about(&frame, quoted, ERRORS[1], b, a);
        let ended = switch_box.one(&error);
        assert_eq!(ended.outcome, Outcome::Forwarded);
        assert_quotes(&ended, &frame, quoted);
    }
    assert_eq!(ip(a).is_ipv6(), OVER_IPV6);
}

proptest! {
    /// Whatever is quoted: no panic, a named outcome, and what is sent has right checksums.
    #[test]
    fn arbitrary_quotes(
        quote in prop::collection::vec(any::<u8>(), 0..120),
        change in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        random: bool, from_vm: bool, which in 0..4usize,
    ) {
        let mut it = conversation(1, Mode::Nat, CONVERSATIONS[which]);
        let (frame, source, destination) = if from_vm {
            (&it.from_client[1], it.vm.locator, CLIENT)
        } else {
            (&it.from_vm[1], ROUTER, it.flow.to_service(Body::Udp).destination)
        };
        let mut bytes = if random { quote } else { frame[14..].to_vec() };
        for (at, value) in change {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.splice(0..0, [0; 14]);
        let error = about(&bytes, 1000, ERRORS[0], source, destination);
        let ended = it.switch_box.one(&if from_vm { error.on(OLD_PORT) } else { error });
        prop_assert!(ended.sent.is_none() == ended.outcome.is_drop());
    }
}
