//! Floods: of new sessions, of stray segments.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionState,
    steering::{ManagedAddress, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    carrier::VLAN,
    traffic::{ACK, Body, Flow, GIVEN_UP, Packet, RST, SYN, SYN_ACK, segment, tcp},
    world::{CLIENT, CLIENT_2, FAR_CLIENT, Mode, OLD_PORT, SECOND, Vm, ip, managed},
};

/// Sessions a shard adopts at once, and per millisecond.
const ADOPTED_AT_ONCE: u64 = 20_000;
const ADOPTED_PER_MS: u64 = 10;

fn flows(client: u32, ports: std::ops::Range<u16>) -> impl Iterator<Item = Flow> {
    ports.map(move |port| Flow::new(client, port))
}

/// The VM answers, in sessions that a client has shown to exist.
fn answered(flows: impl Iterator<Item = Flow>, vm: Vm) -> Vec<Packet> {
    flows.map(|flow| flow.sent_by(vm, tcp(ACK))).collect()
}

fn each(flows: impl Iterator<Item = Flow>, body: Body) -> Vec<Packet> {
    flows.map(|flow| flow.to_service(body)).collect()
}

#[test]
fn a_full_table_refuses_new_sessions_and_evicts_no_old_one() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::with_capacity(1, 64, old);
    switch_box.feed(&each(flows(CLIENT, 0..40), tcp(ACK)));
    switch_box.feed(&answered(flows(CLIENT, 0..40), old));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 40);
    assert_moved!(switch_box, ToSource 40, ToClient 40);

    for flow in flows(CLIENT_2, 0..30) {
        let shake = [
            flow.to_service(segment(SYN, 99, 0)),
            flow.sent_by(new, segment(SYN_ACK, 499, 100)),
            flow.to_service(segment(ACK, 100, 500)),
        ];
        switch_box.feed(&shake);
    }
    // Of the last six the client's SYN is refused, the VM's answer is nobody's, and so is the client's ACK.
    assert_moved!(switch_box, ToDestination 48, ToClient 24, TableFull 12, StaleClone 6);
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
fn half_open_sessions_make_room_but_not_the_old_ones() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::with_capacity(1, 100, old);
    // Old ones that are half open, and others.
    switch_box.feed(&each(flows(CLIENT, 0..10), Body::Udp));
    switch_box.feed(&each(flows(CLIENT, 10..30), tcp(ACK)));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 30);
    switch_box.moved();
    // The quota is 64, beside the 10 that the old ones have.
    for body in [tcp(SYN), Body::Udp, Body::EchoRequest, Body::Protocol(50)] {
        let flood: Vec<_> = (0..1000).map(|n| Flow::new(0x0b00_0000 + n, 7)).collect();
        switch_box.feed(&each(flood.into_iter(), body));
        assert_moved!(switch_box, ToDestination 1000);
        assert_eq!((switch_box.live(old), switch_box.live(new)), (30, 64));
    }
    for flow in flows(CLIENT, 0..10) {
        assert_eq!(switch_box.one(&flow.to_service(Body::Udp)).outcome, Outcome::ToSource);
    }
    assert_eq!(switch_box.live(old), 30);
}

#[test]
fn where_all_half_open_sessions_are_old_new_ones_have_a_quota_of_their_own() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::with_capacity(1, 256, old);
    // As a flood of SYNs leaves them, or a name server's clients: each asks once.
    switch_box.feed(&each(flows(CLIENT, 0..64), Body::Udp));
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 64);
    switch_box.moved();
    switch_box.feed(&each(flows(CLIENT_2, 0..64), tcp(SYN)));
    assert_eq!((switch_box.live(old), switch_box.live(new)), (64, 64));
    // More of them make room for each other.
    switch_box.feed(&each(flows(CLIENT_2, 64..1000), tcp(SYN)));
    assert_moved!(switch_box, ToDestination 1000);
    assert_eq!(switch_box.live(new), 64);
    for flow in flows(CLIENT, 0..64) {
        assert_eq!(switch_box.one(&flow.to_service(Body::Udp)).outcome, Outcome::ToSource);
    }
    assert_eq!(switch_box.live(old), 64);
}

/// A client that is far away takes its time to finish a handshake. What the VM answers nobody of pushes out none whom it has
/// answered.
#[test]
fn a_flood_without_answers_takes_nothing_from_the_answered() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::with_capacity(1, 256, old);
    // Old ones, answered and not.
    switch_box.feed(&each(flows(CLIENT, 0..20), segment(SYN, 99, 0)));
    let answers = flows(CLIENT, 0..10).map(|flow| flow.sent_by(old, segment(SYN_ACK, 499, 100)));
    switch_box.feed(&answers.collect::<Vec<_>>());
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 20);
    let far = || flows(CLIENT, 100..140);
    for flow in far() {
        let answer = flow.sent_by(new, segment(SYN_ACK, 499, 100));
        switch_box.feed(&[flow.to_service(segment(SYN, 99, 0)), answer]);
    }
    switch_box.moved();
    let spoofed = (0..10_000).map(|n| Flow::new(0x0b00_0000 + n, 7));
    switch_box.feed(&each(spoofed, tcp(SYN)));
    assert_moved!(switch_box, ToDestination 10_000);
    // The quota is 64, beside those that the cutover has made old; a few of these may have gone out of sight.
    assert_eq!(switch_box.live(old), 20);
    assert!((48..=64).contains(&switch_box.live(new)), "{}", switch_box.live(new));
    switch_box.feed(&each(far(), segment(ACK, 100, 500)));
    assert_moved!(switch_box, ToDestination 40);
    let established = switch_box.sessions().into_iter();
    assert_eq!(established.filter(|it| it.state == SessionState::Established).count(), 40);
    switch_box.feed(&each(flows(CLIENT, 0..10), segment(ACK, 100, 500)));
    assert_moved!(switch_box, ToSource 10);
    assert_eq!(switch_box.live(old), 20);
}

/// A VM that answers every SYN, as with SYN cookies, fills the quota with answered ones. A first packet must still be there when
/// the VM answers it.
#[test]
fn a_flood_with_answers_leaves_first_packets_the_time_of_theirs() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::with_capacity(1, 256, old);
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Source);
    let flow = |n: u16| Flow::new(CLIENT, n);
    // Fewer than a quarter of the quota, 64, wait for the VM at once.
    for n in 0..1000 {
        switch_box.one(&flow(n).to_service(segment(SYN, 99, 0)));
        if let Some(answered) = n.checked_sub(12) {
            switch_box.one(&flow(answered).sent_by(new, segment(SYN_ACK, 499, 100)));
        }
    }
    assert_moved!(switch_box, ToDestination 1000, ToClient 988);
    assert_eq!(switch_box.live(new), 64);
    // And an honest client, close by, the time to go on.
    switch_box.feed(&each((950..988).map(flow), segment(ACK, 100, 500)));
    assert_moved!(switch_box, ToDestination 38);
}

/// Sessions that nobody remembers as the oldest any more must not keep others out until they expire.
#[test]
fn a_flood_followed_by_honest_clients_does_not_take_the_quota_for_good() {
    for answered in [false, true] {
        let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
        let mut switch_box = SwitchBox::with_capacity(1, 1024, old);
        switch_box.set_destination(new);
        switch_box.cutover(Unknown::Source);
        let answer = |flow: Flow| flow.sent_by(new, segment(SYN_ACK, 499, 100));
        // One less than the quota.
        let spoofed = || (0..255).map(|n| Flow::new(0x0b00_0000 + n, 7));
        switch_box.feed(&each(spoofed(), segment(SYN, 99, 0)));
        if answered {
            switch_box.feed(&spoofed().map(answer).collect::<Vec<_>>());
        }
        for flow in flows(CLIENT, 0..300) {
            let begins = flow.to_service(segment(SYN, 99, 0));
            switch_box.feed(&[begins, answer(flow), flow.to_service(segment(ACK, 100, 500))]);
        }
        switch_box.moved();
        switch_box.feed(&each(flows(CLIENT_2, 0..1000), tcp(SYN)));
        assert_moved!(switch_box, ToDestination 1000);
        let sessions = switch_box.sessions();
        let newcomers = sessions.iter().filter(|it| it.tuple.client == ip(CLIENT_2)).count();
        assert!(newcomers >= 128, "{newcomers} of a quota of 256");
        switch_box.feed(&each(flows(CLIENT, 0..300), segment(ACK, 100, 500)));
        assert_moved!(switch_box, ToDestination 300);
    }
}

/// Whatever cutovers have made old, of whichever address, the others of the shard still begin sessions.
#[test]
fn half_open_sessions_of_two_cutovers_leave_some_room() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::with_capacity(1, 1024, old);
    // The quota is 256.
    switch_box.feed(&each(flows(CLIENT, 0..256), Body::Udp));
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Source);
    switch_box.feed(&each(flows(CLIENT_2, 0..256), Body::Udp));
    switch_box.cutover(Unknown::Source);
    switch_box.moved();
    switch_box.feed(&each(flows(CLIENT_2, 1000..3000), tcp(SYN)));
    assert_moved!(switch_box, ToDestination 2000);
    // They make room for each other in a quarter of the quota.
    assert_eq!((switch_box.live(old), switch_box.live(new)), (256, 256 + 64));
    let newest = flows(CLIENT_2, 2970..3000);
    switch_box
        .feed(&newest.map(|it| it.sent_by(new, segment(SYN_ACK, 499, 1001))).collect::<Vec<_>>());
    assert_moved!(switch_box, ToClient 30);
    switch_box.feed(&each(flows(CLIENT, 0..256), Body::Udp));
    assert_moved!(switch_box, ToSource 256);
    switch_box.feed(&each(flows(CLIENT_2, 0..256), Body::Udp));
    assert_moved!(switch_box, ToDestination 256);
    // Adopted sessions are not half open.
    switch_box.feed(&each(flows(CLIENT_2, 5000..5010), tcp(ACK)));
    assert_moved!(switch_box, ToSource 10);
}

/// A name server's clients ask once each, so the quota is always full. A migration of it is aborted and begun anew.
#[test]
fn a_cutover_behind_an_aborted_one_refuses_nobody() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::with_capacity(1, 256, old);
    let clients: Vec<_> = (0..2100).map(|n| Flow::new((FAR_CLIENT & !0xffff) + n, 7)).collect();
    let mut groups = clients.chunks(10);
    let mut ask = |switch_box: &mut SwitchBox| {
        let vm = if switch_box.address.destination.is_some() { new } else { old };
        for group in groups.by_ref().take(30) {
            switch_box.feed(&each(group.iter().copied(), Body::Udp));
            let answers = group.iter().map(|flow| flow.sent_by(vm, Body::Udp));
            switch_box.feed(&answers.collect::<Vec<_>>());
        }
    };
    ask(&mut switch_box);
    for _ in 0..3 {
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Source), 64);
        ask(&mut switch_box);
        switch_box.abort();
        switch_box.sweep();
        // They are old no more, and take from nobody.
        ask(&mut switch_box);
        assert_eq!(switch_box.live(old), 64);
    }
    assert_moved!(switch_box, ToSource 1200, ToDestination 900, ToClient 2100);
}

/// What an abort makes current again exceeds the quota beside another address's; its clients must not pay for that.
#[test]
fn an_abort_refuses_nobody_of_another_address() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let other = Vm::behind(VLAN, 3, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 1024, old);
    let beside = ManagedAddress { address: ip(SECOND), ..managed(other) };
    switch_box.install_beside(Some(beside));
    let to_second = |ports| {
        let begun = flows(CLIENT_2, ports).map(|flow| {
            let begins = flow.to(SECOND, tcp(SYN));
            [begins, Packet { source: SECOND, ..flow.sent_by(other, segment(SYN_ACK, 499, 1001)) }]
        });
        begun.flatten().collect::<Vec<_>>()
    };
    switch_box.feed(&each(flows(CLIENT, 0..256), Body::Udp));
    switch_box
        .feed(&flows(CLIENT, 0..256).map(|it| it.sent_by(old, Body::Udp)).collect::<Vec<_>>());
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 256);
    switch_box.feed(&to_second(0..300));
    // Some of them wait for an answer.
    let waiting = flows(CLIENT, 1000..1100).map(|flow| flow.to(SECOND, tcp(SYN)));
    switch_box.feed(&waiting.collect::<Vec<_>>());
    assert_eq!((switch_box.live(old), switch_box.live(other)), (256, 256));
    switch_box.abort();
    switch_box.sweep();
    switch_box.moved();
    switch_box.feed(&to_second(300..600));
    assert_moved!(switch_box, ToSource 300, ToClient 300);
    assert_eq!(switch_box.live(old) + switch_box.live(other), 256);
}

#[test]
fn a_full_table_still_takes_ports_used_anew() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 4, old);
    switch_box.feed(&each(flows(CLIENT, 0..2), tcp(ACK)));
    switch_box.one(&Flow::new(CLIENT, 2).to_service(tcp(SYN)));
    switch_box.one(&Flow::new(CLIENT, 3).to_service(tcp(ACK)));
    switch_box.feed(&answered([0, 1, 3].map(|port| Flow::new(CLIENT, port)).into_iter(), old));
    switch_box.one(&Flow::new(CLIENT, 2).to_service(GIVEN_UP));
    switch_box.one(&Flow::new(CLIENT, 2).to_service(tcp(SYN)));
    assert_moved!(switch_box, ToSource 6, ToClient 3);
    assert_eq!(switch_box.live(old), 4);
    // The half-open one makes room for an established one, and only that.
    let mut adopt = |n| {
        let ended = switch_box.one(&Flow::new(CLIENT, n).to_service(tcp(ACK))).outcome;
        switch_box.feed(&answered(std::iter::once(Flow::new(CLIENT, n)), old));
        ended
    };
    assert_eq!((adopt(9), adopt(10)), (Outcome::ToSource, Outcome::TableFull));
    // Otherwise it is made by sweeping.
    switch_box.one(&Flow::new(CLIENT, 0).to_service(segment(RST, 2000, 0)));
    for ms in [switch_box.timeouts.tcp_reset_ms, switch_box.timeouts.linger_ms] {
        switch_box.advance(ms + 1);
        switch_box.sweep();
    }
    let ended = switch_box.one(&Flow::new(CLIENT, 10).to_service(tcp(ACK)));
    assert_eq!(ended.outcome, Outcome::ToSource);
}

/// Segments and streams that no VM ever answers are anybody's: they make room, and are soon forgotten.
#[test]
fn what_clients_alone_say_takes_nobodys_room() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let spray = |count: u32| (0..count).map(|n| Flow::new(0x0b00_0000 + n, 7));
    for stream in [false, true] {
        let mut switch_box = SwitchBox::with_capacity(1, 256, old);
        switch_box.feed(&each(flows(CLIENT, 0..30), tcp(ACK)));
        switch_box.feed(&answered(flows(CLIENT, 0..30), old));
        let body = if stream { Body::Udp } else { tcp(ACK) };
        for _ in 0..if stream { 9 } else { 1 } {
            switch_box.feed(&each(spray(600), body));
        }
        switch_box.moved();
        switch_box.feed(&each(flows(CLIENT_2, 0..20), tcp(SYN)));
        switch_box.feed(&each(flows(CLIENT, 0..30), tcp(ACK)));
        assert_moved!(switch_box, ToSource 50);
        // Nobody waits for them longer than for a handshake.
        let limit_ms = switch_box.timeouts.tcp_opening_ms.max(switch_box.timeouts.udp_ms);
        switch_box.advance(limit_ms + 1);
        switch_box.sweep();
        assert_eq!(switch_box.live(old), 30);
        // After a cutover the source has them back when they go on, so they make room as well.
        switch_box.feed(&each(spray(226), tcp(ACK)));
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Source), 256);
        switch_box.moved();
        switch_box.feed(&each(flows(CLIENT_2, 100..120), tcp(SYN)));
        assert_moved!(switch_box, ToDestination 20);
        switch_box.feed(&each(flows(CLIENT, 0..30), tcp(ACK)));
        assert_moved!(switch_box, ToSource 30);
    }
}

#[test]
fn a_table_without_room_forwards_what_needs_no_session() {
    let old = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 0, old);
    switch_box.one(&Flow::new(CLIENT, 1).to_service(GIVEN_UP));
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

/// Anyone can send segments that belong to nothing; whoever the policy gives them to.
#[test]
fn what_the_destination_takes_over_is_limited_too() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::with_capacity(1, 60_000, old);
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Destination);
    switch_box.feed(&each(flows(CLIENT, 0..20_100), tcp(ACK)));
    assert_moved!(switch_box, ToDestination ADOPTED_AT_ONCE, AdoptionLimited 100);
}
