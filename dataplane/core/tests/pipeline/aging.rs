//! How long silent sessions are kept.

use tidegate_dataplane::session::SessionState;

use crate::switch_box::{
    SwitchBox,
    traffic::{ACK, Body, FIN_ACK, Flow, RST, SYN, tcp},
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

#[test]
fn each_kind_has_its_limit() {
    let flow = Flow::new(CLIENT, 7);
    let (switch_box, _) = at_rest();
    let limits = switch_box.timeouts;
    for (bodies, limit_ms, state) in [
        (vec![tcp(SYN)], limits.tcp_opening_ms, SessionState::Opening),
        (vec![tcp(SYN), tcp(ACK)], limits.tcp_established_ms, SessionState::Established),
        (vec![tcp(ACK)], limits.tcp_established_ms, SessionState::Established),
        (vec![tcp(SYN), tcp(FIN_ACK)], limits.tcp_closing_ms, SessionState::Closing),
        (vec![tcp(SYN), tcp(RST)], limits.linger_ms, SessionState::Lingering),
        (vec![Body::Udp], limits.udp_ms, SessionState::Established),
        (vec![Body::EchoRequest], limits.echo_ms, SessionState::Established),
    ] {
        let (mut switch_box, home) = at_rest();
        for body in bodies {
            switch_box.one(&flow.to_service(body));
        }
        assert_eq!(switch_box.sessions()[0].state, state);
        assert_kept_for(&mut switch_box, home, limit_ms);
    }
}

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
    switch_box.one(&flow.sent_by(home, tcp(RST)));
    assert_eq!((switch_box.live(home), switch_box.entries(home)), (0, 1));
    switch_box.advance(5);
    let session = switch_box.sessions()[0];
    assert_eq!((session.state, session.idle_ms), (SessionState::Lingering, 5));
}

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
    let listed = |address| switch_box.sessions_of(address).len();
    assert_eq!((listed(Some(ip(SERVICE))), listed(Some(ip(home.locator)))), (200, 10));
    assert_eq!((listed(Some(ip(CLIENT))), listed(None)), (0, 210));
}
