//! What the IETF asks of address translators, as far as it goes for one that changes addresses one to one and has no other
//! test to hold it. REQUIREMENTS.md lists all of it.

use tidegate_dataplane::{
    pipeline::Outcome, session::SessionState, steering::Timeouts, steering::Unknown,
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, FIN_ACK, Flow, RST, RST_ACK, SYN, SYN_ACK, segment, tcp},
    world::{CLIENT, Mode, NEW_PORT, OLD_PORT, SERVICE, UPLINK, Vm},
};

const MINUTE_MS: u64 = 60_000;
const FLOW: Flow = Flow { client: CLIENT, client_port: 7, service_port: 80 };

/// A box with one established session, cut over, so that it matters whose each packet is.
fn established() -> (SwitchBox, Vm, Vm) {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    switch_box.one(&FLOW.to_service(segment(SYN, 99, 0)));
    switch_box.one(&FLOW.sent_by(old, segment(SYN_ACK, 499, 100)));
    switch_box.one(&FLOW.to_service(segment(ACK, 100, 500)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Drop), 1);
    switch_box.moved();
    (switch_box, old, new)
}

/// RFC 5382, REQ-5, with RFC 7857, section 2.1; RFC 4787, REQ-5; RFC 5508, REQ-2.
#[test]
fn sessions_are_kept_as_long_as_is_asked_for() {
    let defaults = Timeouts::default();
    assert!(defaults.tcp_established_ms >= 124 * MINUTE_MS);
    assert!(defaults.tcp_opening_ms >= 4 * MINUTE_MS);
    assert!(defaults.tcp_closing_ms >= 4 * MINUTE_MS);
    assert!(defaults.udp_ms >= 2 * MINUTE_MS);
    assert!(defaults.echo_ms >= MINUTE_MS);
}

/// RFC 5382, REQ-2a.
#[test]
fn a_simultaneous_open_is_one_session() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    switch_box.one(&FLOW.to_service(segment(SYN, 99, 0)));
    switch_box.one(&FLOW.sent_by(old, segment(SYN, 499, 0)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Drop), 1);
    switch_box.one(&FLOW.to_service(segment(SYN_ACK, 99, 500)));
    switch_box.one(&FLOW.sent_by(old, segment(SYN_ACK, 499, 100)));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Established);
    switch_box.one(&FLOW.to_service(segment(ACK, 100, 500)));
    switch_box.one(&FLOW.sent_by(old, segment(ACK, 500, 100)));
    assert_moved!(switch_box, ToSource 3, ToClient 3);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 0));
}

/// RFC 5382, REQ-2: either side may be the first to begin, and the first to end.
#[test]
fn a_session_that_the_vm_begins_and_ends_first() {
    let old = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(2, old);
    for packet in [
        FLOW.sent_by(old, segment(SYN, 499, 0)),
        FLOW.to_service(segment(SYN_ACK, 99, 500)),
        FLOW.sent_by(old, segment(ACK, 500, 100)),
        FLOW.sent_by(old, segment(FIN_ACK, 500, 100)),
        FLOW.to_service(segment(FIN_ACK, 100, 501)),
        FLOW.sent_by(old, segment(ACK, 501, 101)),
    ] {
        switch_box.one(&packet);
    }
    assert_moved!(switch_box, ToSource 2, ToClient 4);
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (0, 1));
}

/// RFC 5382, REQ-2: one side may have ended while the other goes on, for as long as it likes.
#[test]
fn half_closed_for_hours() {
    let (mut switch_box, old, _) = established();
    switch_box.one(&FLOW.to_service(segment(FIN_ACK, 100, 500)));
    for hour in 1..=5 {
        switch_box.advance(60 * MINUTE_MS);
        switch_box.sweep();
        let data = FLOW.sent_by(old, segment(ACK, 500 + hour, 101)).with_payload(b"more");
        assert_eq!(switch_box.one(&data).outcome, Outcome::ToClient, "after {hour} hours");
        assert_eq!(switch_box.live(old), 1);
    }
    switch_box.one(&FLOW.sent_by(old, segment(FIN_ACK, 600, 101)));
    switch_box.one(&FLOW.to_service(segment(ACK, 101, 601)));
    assert_eq!(switch_box.live(old), 0);
}

/// RFC 5382, REQ-2: keepalives, retransmissions, challenges and whatever else lies beside the window is the VM's to judge.
#[test]
fn no_segment_is_dropped_for_its_numbers() {
    let (mut switch_box, old, _) = established();
    for number in [99, 100, 101, 0, 1 << 31, u32::MAX, 100 + (1 << 30)] {
        for acknowledgement in [500, 499, 0, u32::MAX] {
            for flags in [ACK, SYN_ACK] {
                let body = segment(flags, number, acknowledgement);
                assert_eq!(switch_box.one(&FLOW.to_service(body)).outcome, Outcome::ToSource);
                assert_eq!(switch_box.one(&FLOW.sent_by(old, body)).outcome, Outcome::ToClient);
            }
        }
    }
    assert_eq!(switch_box.live(old), 1);
}

/// RFC 5382, REQ-4: a SYN that nobody here asked for is the VM's to answer or not. The box says nothing of its own.
#[test]
fn an_unasked_syn_goes_to_the_vm() {
    let old = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, old);
    let ended = switch_box.one(&FLOW.to_service(tcp(SYN)));
    assert_eq!((ended.seen().port, ended.seen().destination), (OLD_PORT, old.speaks_as()));
    switch_box.advance(6_000);
    switch_box.sweep();
    assert!(switch_box.take_punts().is_empty());
    assert_moved!(switch_box, ToSource 1);
}

/// RFC 7857, section 2.2.
#[test]
fn a_reset_is_translated_and_does_not_end_the_session_at_once() {
    for flags in [RST, RST_ACK] {
        let (mut switch_box, old, _) = established();
        let seen = switch_box.one(&FLOW.to_service(segment(flags, 100, 500))).seen();
        assert_eq!((seen.port, seen.destination), (OLD_PORT, old.speaks_as()));
        let seen = switch_box.one(&FLOW.sent_by(old, segment(flags, 500, 100))).seen();
        assert_eq!((seen.port, seen.source), (UPLINK, SERVICE));
        assert_eq!(switch_box.live(old), 1);
        // What comes within the time goes where it went before.
        switch_box.advance(switch_box.timeouts.tcp_reset_ms);
        switch_box.sweep();
        let seen = switch_box.one(&FLOW.to_service(segment(ACK, 100, 500))).seen();
        assert_eq!(seen.port, OLD_PORT);
        assert_eq!(switch_box.sessions()[0].state, SessionState::Established);
    }
}

/// RFC 7857, section 7.1: answering with nothing but resets keeps no session.
#[test]
fn resets_in_answer_keep_no_session() {
    let (mut switch_box, old, _) = established();
    switch_box.one(&FLOW.sent_by(old, segment(RST, 500, 0)));
    switch_box.advance(switch_box.timeouts.tcp_reset_ms + 1);
    switch_box.sweep();
    assert_eq!(switch_box.live(old), 0);
}

/// RFC 4787, REQ-11: what becomes of a session does not change while it lives, whatever else goes on.
#[test]
fn a_session_is_treated_alike_from_birth_to_death() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(3, old);
    let to_old = |switch_box: &mut SwitchBox| {
        let seen = switch_box.one(&FLOW.to_service(Body::Udp)).seen();
        assert_eq!((seen.port, seen.destination), (OLD_PORT, old.speaks_as()));
        assert_eq!((seen.source_port, seen.destination_port), (7, 80), "ports stay as they are");
    };
    to_old(&mut switch_box);
    switch_box.set_destination(new);
    to_old(&mut switch_box);
    switch_box.cutover(Unknown::Source);
    to_old(&mut switch_box);
    for port in 100..200 {
        let seen = switch_box.one(&Flow::new(CLIENT, port).to_service(Body::Udp)).seen();
        assert_eq!(seen.port, NEW_PORT);
        to_old(&mut switch_box);
    }
    switch_box.abort();
    to_old(&mut switch_box);
}
