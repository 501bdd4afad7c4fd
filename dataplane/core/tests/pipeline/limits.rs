//! Floods: of new sessions, of stray segments.

use tidegate_dataplane::{pipeline::Outcome, steering::UnknownTcp};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, Flow, Packet, RST, SYN, tcp},
    world::{CLIENT, CLIENT_2, Mode, OLD_PORT, Vm},
};

/// Sessions a shard adopts at once, and per millisecond.
const ADOPTED_AT_ONCE: u64 = 20_000;
const ADOPTED_PER_MS: u64 = 10;

fn flows(client: u32, ports: std::ops::Range<u16>) -> impl Iterator<Item = Flow> {
    ports.map(move |port| Flow::new(client, port))
}

fn each(flows: impl Iterator<Item = Flow>, body: Body) -> Vec<Packet> {
    flows.map(|flow| flow.to_service(body)).collect()
}

#[test]
fn a_full_table_refuses_new_sessions_and_evicts_no_old_one() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::with_capacity(1, 64, old);
    switch_box.feed(&each(flows(CLIENT, 0..40), tcp(SYN)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(UnknownTcp::Source), 40);
    assert_moved!(switch_box, ToSource 40);

    switch_box.feed(&each(flows(CLIENT_2, 0..100), tcp(SYN)));
    assert_moved!(switch_box, ToDestination 24, TableFull 76);
    // All other ways to begin one are refused too.
    switch_box.one(&Flow::new(CLIENT_2, 5000).to_service(Body::Udp));
    switch_box.one(&Flow::new(CLIENT_2, 5001).to_service(tcp(ACK)));
    switch_box.one(&Flow::new(CLIENT_2, 5002).sent_by(old, Body::Udp));
    switch_box.one(&Flow::new(CLIENT_2, 5003).sent_by(new, tcp(SYN)));
    switch_box.one(&Flow::new(CLIENT_2, 5004).to(old.locator, tcp(SYN)));
    assert_moved!(switch_box, TableFull 5);

    for ended in switch_box.feed(&each(flows(CLIENT, 0..40), tcp(ACK))) {
        assert_eq!(ended.seen().port, OLD_PORT);
    }
    assert_moved!(switch_box, ToSource 40);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (40, 24));
}

#[test]
fn a_full_table_still_takes_ports_used_anew() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 4, old);
    switch_box.feed(&each(flows(CLIENT, 0..4), tcp(SYN)));
    switch_box.one(&Flow::new(CLIENT, 2).to_service(tcp(RST)));
    switch_box.one(&Flow::new(CLIENT, 2).to_service(tcp(SYN)));
    assert_moved!(switch_box, ToSource 6);
    assert_eq!(switch_box.live(old), 4);
    assert_eq!(
        switch_box.one(&Flow::new(CLIENT, 9).to_service(tcp(SYN))).outcome,
        Outcome::TableFull
    );
    // Room is made by sweeping.
    switch_box.one(&Flow::new(CLIENT, 0).to_service(tcp(RST)));
    switch_box.advance(switch_box.timeouts.linger_ms + 1);
    switch_box.sweep();
    let ended = switch_box.one(&Flow::new(CLIENT, 9).to_service(tcp(SYN)));
    assert_eq!(ended.outcome, Outcome::ToSource);
}

#[test]
fn a_table_without_room_forwards_what_needs_no_session() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 0, old);
    switch_box.one(&Flow::new(CLIENT, 1).to_service(tcp(RST)));
    switch_box.one(&Flow::new(CLIENT, 1).to_service(tcp(SYN)));
    switch_box.sweep();
    assert_moved!(switch_box, ToSource 1, TableFull 1);
}

#[test]
fn adoption_is_limited_and_new_sessions_are_not() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 60_000, old);
    switch_box.feed(&each(flows(CLIENT, 0..20_100), tcp(ACK)));
    assert_moved!(switch_box, ToSource ADOPTED_AT_ONCE, AdoptionLimited 100);
    // Known sessions, new ones and the source's own new ones go on.
    switch_box.feed(&each(flows(CLIENT, 0..10), tcp(ACK)));
    switch_box.feed(&each(flows(CLIENT_2, 0..10), tcp(SYN)));
    switch_box.feed(&each(flows(CLIENT_2, 0..10), Body::Udp));
    assert_moved!(switch_box, ToSource 30);
    // The source's segments are adopted by the same measure.
    let ended = switch_box.one(&Flow::new(CLIENT_2, 99).sent_by(old, tcp(ACK)));
    assert_eq!(ended.outcome, Outcome::AdoptionLimited);
    switch_box.advance(2);
    switch_box.moved();
    switch_box.feed(&each(flows(CLIENT_2, 100..150), tcp(ACK)));
    assert_moved!(
        switch_box,
        ToSource 2 * ADOPTED_PER_MS,
        AdoptionLimited 50 - 2 * ADOPTED_PER_MS,
    );
    assert_eq!(u64::from(switch_box.live(old)), ADOPTED_AT_ONCE + 20 + 2 * ADOPTED_PER_MS);
}
