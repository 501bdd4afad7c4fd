//! How long silent sessions are kept.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionState,
    steering::{Cutover, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, FIN_ACK, Flow, GIVEN_UP, REFUSED, RST, SYN, SYN_ACK, segment, tcp},
    world::{CLIENT, Mode, SERVICE, Vm, ip},
};

fn at_rest() -> (SwitchBox, Vm) {
    let home = Vm::old(1, Mode::L2);
    (SwitchBox::new(2, home), home)
}

/// Kept for `limit_ms` after the last packet, forgotten one millisecond later.
#[track_caller]
fn assert_kept_for(switch_box: &mut SwitchBox, home: Vm, limit_ms: u64) {
    switch_box.advance(limit_ms);
    switch_box.sweep();
    assert_eq!(switch_box.entries(home), 1, "still kept after {limit_ms} ms");
    switch_box.advance(1);
    switch_box.sweep();
    assert_eq!((switch_box.entries(home), switch_box.live(home)), (0, 0));
    assert!(switch_box.sessions().is_empty());
}

/// RFC 5382, REQ-5; RFC 4787, REQ-5; RFC 5508, REQ-2.
#[test]
fn each_kind_has_its_limit() {
    let flow = Flow::new(CLIENT, 7);
    let (switch_box, _) = at_rest();
    let limits = switch_box.timeouts;
    for (bodies, limit_ms, state) in [
        (vec![tcp(SYN)], limits.tcp_syn_ms, SessionState::Opening),
        (vec![tcp(SYN), tcp(ACK)], limits.tcp_syn_ms, SessionState::Opening),
        // Anybody may have said that.
        (vec![tcp(ACK)], limits.tcp_opening_ms, SessionState::Established),
        (vec![tcp(ACK), tcp(FIN_ACK)], limits.tcp_opening_ms, SessionState::Closing),
        (vec![tcp(SYN), GIVEN_UP], limits.linger_ms, SessionState::Lingering),
        (vec![Body::Udp], limits.udp_ms, SessionState::Opening),
        (vec![Body::EchoRequest], limits.echo_ms, SessionState::Opening),
        (vec![Body::Protocol(132)], limits.udp_ms, SessionState::Opening),
    ] {
        let (mut switch_box, home) = at_rest();
        for body in bodies {
            switch_box.one(&flow.to_service(body));
        }
        assert_eq!(switch_box.sessions()[0].state, state);
        assert_kept_for(&mut switch_box, home, limit_ms);
    }
    // The VM knows it. One side may be done, and the other go on for hours.
    for bodies in [vec![tcp(ACK)], vec![tcp(ACK), tcp(FIN_ACK)]] {
        let (mut switch_box, home) = at_rest();
        for body in bodies {
            switch_box.one(&flow.to_service(body));
        }
        switch_box.one(&flow.sent_by(home, tcp(ACK)));
        assert_kept_for(&mut switch_box, home, limits.tcp_established_ms);
    }
}

/// RFC 7857, section 2.1.
#[test]
fn an_answer_and_both_fins_change_the_limit() {
    let flow = Flow::new(CLIENT, 7);
    let (mut switch_box, home) = at_rest();
    switch_box.one(&flow.to_service(tcp(SYN)));
    switch_box.one(&flow.sent_by(home, tcp(SYN_ACK)));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Opening);
    let limit_ms = switch_box.timeouts.tcp_opening_ms;
    assert_kept_for(&mut switch_box, home, limit_ms);

    let (mut switch_box, home) = at_rest();
    switch_box.one(&flow.to_service(tcp(FIN_ACK)));
    // Acknowledges less than the client's FIN.
    switch_box.one(&flow.sent_by(home, segment(FIN_ACK, 2000, 1000)));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Closing);
    let limit_ms = switch_box.timeouts.tcp_closing_ms;
    assert_kept_for(&mut switch_box, home, limit_ms);
}

#[test]
fn a_reset_that_nobody_contradicts_ends_the_session_and_lets_it_linger() {
    for from_client in [true, false] {
        let (mut switch_box, home) = at_rest();
        let flow = Flow::new(CLIENT, 7);
        let sent = |by_client, body| {
            if by_client { flow.to_service(body) } else { flow.sent_by(home, body) }
        };
        // Each acknowledges the other up to 2000.
        switch_box.one(&flow.to_service(tcp(ACK)));
        switch_box.one(&flow.sent_by(home, tcp(ACK)));
        switch_box.one(&sent(from_client, segment(RST, 2000, 0)));
        let reset_ms = switch_box.timeouts.tcp_reset_ms;
        switch_box.advance(reset_ms);
        switch_box.sweep();
        assert_eq!(switch_box.live(home), 1, "not yet");
        // Whoever got it goes on.
        switch_box.one(&sent(!from_client, tcp(ACK)));
        switch_box.advance(reset_ms + 1);
        switch_box.sweep();
        assert_eq!(switch_box.live(home), 1, "contradicted");
        switch_box.one(&sent(from_client, segment(RST, 2000, 0)));
        switch_box.advance(reset_ms + 1);
        switch_box.sweep();
        assert_eq!((switch_box.live(home), switch_box.entries(home)), (0, 1));
        switch_box.advance(switch_box.timeouts.linger_ms + 1);
        switch_box.sweep();
        assert_eq!(switch_box.entries(home), 0);
    }
}

/// An RST that its receiver passes over without a word ends no session: neither an old one, for which a drain waits, nor
/// the destination's, whose next packet would go to the source.
#[test]
fn a_reset_out_of_nowhere_ends_nothing() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    let (kept, fresh) = (Flow::new(CLIENT, 7), Flow::new(CLIENT, 8));
    let shake = |switch_box: &mut SwitchBox, flow: Flow, vm| {
        switch_box.one(&flow.to_service(segment(SYN, 99, 0)));
        switch_box.one(&flow.sent_by(vm, segment(SYN_ACK, 499, 100)));
        switch_box.one(&flow.to_service(segment(ACK, 100, 500)));
    };
    shake(&mut switch_box, kept, old);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 1);
    shake(&mut switch_box, fresh, new);
    for flow in [kept, fresh] {
        switch_box.one(&flow.to_service(segment(RST, 100 + (1 << 30), 0)));
        switch_box.one(&flow.to_service(segment(RST, 99, 0)));
    }
    let limits = switch_box.timeouts;
    switch_box.advance(limits.tcp_established_ms);
    switch_box.sweep();
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 1));
    switch_box.moved();
    switch_box.one(&kept.to_service(segment(ACK, 100, 500)));
    switch_box.one(&fresh.to_service(segment(ACK, 100, 500)));
    assert_moved!(switch_box, ToSource 1, ToDestination 1);
    // One that may be meant is waited for as RFC 7857, section 2.2, asks.
    switch_box.one(&kept.to_service(segment(RST, 5000, 0)));
    switch_box.advance(limits.tcp_closing_ms);
    switch_box.sweep();
    assert_eq!(switch_box.live(old), 1);
    switch_box.advance(1);
    switch_box.sweep();
    assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 1));
}

#[test]
fn datagrams_of_the_source_end_at_their_deadline_and_begin_anew_at_the_destination() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    let (udp, kept) = (Flow::new(CLIENT, 7), Flow::new(CLIENT, 8));
    switch_box.feed(&[udp.to_service(Body::Udp), kept.to_service(tcp(ACK))]);
    switch_box.set_destination(new);
    let end_ms = switch_box.now_ms + 5_000;
    switch_box.cutover_with(Cutover { datagrams_end_ms: Some(end_ms), ..Cutover::default() });
    while switch_box.now_ms < end_ms {
        assert_eq!(switch_box.one(&udp.to_service(Body::Udp)).outcome, Outcome::ToSource);
        switch_box.advance(1_000);
        switch_box.sweep();
    }
    assert_eq!(switch_box.live(old), 2);
    switch_box.advance(1);
    switch_box.sweep();
    assert_eq!(switch_box.live(old), 1, "TCP has no such deadline");
    for _ in 0..3 {
        assert_eq!(switch_box.one(&udp.to_service(Body::Udp)).outcome, Outcome::ToDestination);
        switch_box.sweep();
    }
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 1));
}

/// RFC 4787, REQ-6.
#[test]
fn a_packet_of_either_side_keeps_a_session() {
    let (mut switch_box, home) = at_rest();
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(Body::Udp));
    for packet in [flow.sent_by(home, Body::Udp), flow.to_service(Body::Udp)] {
        switch_box.advance(switch_box.timeouts.udp_ms);
        switch_box.one(&packet);
        switch_box.advance(switch_box.timeouts.udp_ms);
        switch_box.sweep();
        assert_eq!(switch_box.live(home), 1, "after {packet:?}");
        switch_box.one(&packet);
    }
    assert_eq!(switch_box.sessions()[0].idle_ms, 0);
    let limit_ms = switch_box.timeouts.udp_ms;
    assert_kept_for(&mut switch_box, home, limit_ms);
}

#[test]
fn a_lingering_session_counts_no_more_but_is_still_listed() {
    let (mut switch_box, home) = at_rest();
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(tcp(SYN)));
    switch_box.one(&flow.sent_by(home, REFUSED));
    assert_eq!((switch_box.live(home), switch_box.entries(home)), (0, 1));
    switch_box.advance(5);
    let session = switch_box.sessions()[0];
    assert_eq!((session.state, session.idle_ms), (SessionState::Lingering, 5));
}

/// RFC 4787, REQ-5b; RFC 5508, REQ-2a.
#[test]
fn timeouts_come_with_the_snapshot() {
    let (mut switch_box, home) = at_rest();
    switch_box.timeouts.udp_ms = 7;
    switch_box.one(&Flow::new(CLIENT, 7).to_service(Body::Udp));
    switch_box.install(switch_box.address, &[]);
    assert_kept_for(&mut switch_box, home, 7);
}

#[test]
fn an_expired_session_not_yet_swept_still_finds_its_owner() {
    let (mut switch_box, home) = at_rest();
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(Body::Udp));
    switch_box.advance(switch_box.timeouts.udp_ms + 1);
    switch_box.one(&flow.to_service(Body::Udp));
    switch_box.sweep();
    assert_eq!(switch_box.live(home), 1);
}

#[test]
fn a_sweep_in_pieces_comes_round_to_every_entry() {
    let home = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 10, home);
    for port in 0..10 {
        switch_box.one(&Flow::new(CLIENT, port).to_service(Body::Udp));
    }
    let places = switch_box.places();
    switch_box.sweep_some(places / 2 + 1);
    assert_eq!(switch_box.entries(home), 10, "nothing is due");
    switch_box.advance(switch_box.timeouts.udp_ms + 1);
    switch_box.sweep_some(1);
    assert!(switch_box.live(home) >= 9, "it looks at no more than it may");
    for _ in 0..places.div_ceil(3) {
        switch_box.sweep_some(3);
    }
    assert_eq!(switch_box.live(home), 0);
}

#[test]
fn the_sweep_is_as_fast_as_sessions_begin() {
    let home = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 60, home);
    for port in 0..60 {
        switch_box.one(&Flow::new(CLIENT, port).to_service(Body::Udp));
    }
    switch_box.advance(switch_box.timeouts.udp_ms + 1);
    assert!(switch_box.places() <= 4 * 60, "four places for each are all of them");
    switch_box.sweep_some(0);
    assert_eq!(switch_box.live(home), 0);
    switch_box.one(&Flow::new(CLIENT, 1).to_service(Body::Udp));
    switch_box.sweep_some(0);
    assert_eq!(switch_box.live(home), 1);
}

#[test]
fn listings_are_by_the_address_the_client_named() {
    let home = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(3, home);
    for port in 0..200 {
        switch_box.one(&Flow::new(CLIENT, port).to_service(Body::Udp));
    }
    for port in 300..310 {
        switch_box.one(&Flow::new(CLIENT, port).to(home.locator, Body::Udp));
    }
    let listed = |addresses: &[u32]| {
        let addresses: Vec<_> = addresses.iter().map(|it| ip(*it)).collect();
        switch_box.sessions_of(&addresses).len()
    };
    assert_eq!((listed(&[SERVICE]), listed(&[home.locator])), (200, 10));
    assert_eq!((listed(&[CLIENT]), listed(&[])), (0, 210));
    assert_eq!(listed(&[home.locator, CLIENT, SERVICE]), 210);
}
