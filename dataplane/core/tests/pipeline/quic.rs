//! QUIC clients whose address changes (RFC 9000, section 9): the connection ID says whose they are.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionState,
    steering::{BackendSlot, Cutover, ManagedAddress, Quic, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{Body, Flow, Packet},
    world::{CLIENT, CLIENT_2, FAR_CLIENT, Mode, Vm},
};

/// Ports are few, and 443 is where HTTP/3 is.
const QUIC: Quic = Quic { ports: [443, 4433, 0, 0], connection_id_len: 4 };

/// Long headers of a server (RFC 8999, section 5.1): to a client without connection ID, from one of four bytes.
const OLD_SAYS: &[u8] = b"\xc1\x00\x00\x00\x01\x00\x04OLD!handshake";
const NEW_SAYS: &[u8] = b"\xc1\x00\x00\x00\x01\x00\x04NEW!handshake";
/// And of eight.
const EIGHT_SAYS: &[u8] = b"\xc1\x00\x00\x00\x01\x00\x08OLD!....handshake";
/// A client's first packet: it has chosen the server's ID itself for now.
const HELLO: &[u8] = b"\xc3\x00\x00\x00\x01\x08RANDOM..\x00hello";
/// Short headers of clients.
const TO_OLD: &[u8] = b"\x43OLD!data";
const TO_NEW: &[u8] = b"\x43NEW!data";
const TO_NOBODY: &[u8] = b"\x43????data";
const CUT_SHORT: &[u8] = b"\x43OLD";
/// A long header to a known server: a handshake that has not ended.
const STILL_OLD: &[u8] = b"\xe3\x00\x00\x00\x01\x04OLD!\x00handshake";

fn flow(client: u32, port: u16) -> Flow {
    Flow { client, client_port: port, service_port: 443 }
}

fn client_says(from: Flow, datagram: &'static [u8]) -> Packet {
    from.to_service(Body::Udp).with_payload(datagram)
}

fn says(vm: Vm, to: Flow, datagram: &'static [u8]) -> Packet {
    to.sent_by(vm, Body::Udp).with_payload(datagram)
}

/// Two connections, one from before the cutover and one from after it, each answered once.
fn cut_over_box(shards: u16, mode: Mode, cutover: Cutover) -> (SwitchBox, Vm, Vm) {
    let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
    let mut switch_box = SwitchBox::new(shards, old);
    switch_box.install(ManagedAddress { quic: Some(QUIC), ..switch_box.address }, &[]);
    switch_box.one(&client_says(flow(CLIENT, 7), HELLO));
    switch_box.one(&says(old, flow(CLIENT, 7), OLD_SAYS));
    switch_box.set_destination(new);
    switch_box.cutover_with(cutover);
    switch_box.one(&client_says(flow(CLIENT, 8), HELLO));
    switch_box.one(&says(new, flow(CLIENT, 8), NEW_SAYS));
    assert_moved!(switch_box, ToSource 1, ToDestination 1, ToClient 2);
    (switch_box, old, new)
}

#[test]
fn follow_their_connection_from_any_address_on_any_shard() {
    for (shards, mode) in [(1, Mode::Nat), (2, Mode::L2), (3, Mode::Nat), (4, Mode::L2)] {
        // The policy has no say where the ID is known.
        for unknown_quic in [Unknown::Source, Unknown::Destination, Unknown::Drop] {
            let cutover = Cutover { unknown_quic, ..Cutover::default() };
            let (mut switch_box, old, new) = cut_over_box(shards, mode, cutover);
            for port in 100..120 {
                for client in [CLIENT, CLIENT_2, FAR_CLIENT] {
                    let moved = flow(client, port);
                    let ended = switch_box.one(&client_says(moved, TO_OLD));
                    assert_eq!(ended.outcome, Outcome::ToSource);
                    assert_eq!(
                        switch_box.one(&says(old, moved, b"@data")).outcome,
                        Outcome::ToClient
                    );
                    let moved = flow(client, port + 100);
                    let ended = switch_box.one(&client_says(moved, TO_NEW));
                    assert_eq!(ended.outcome, Outcome::ToDestination);
                    assert_eq!(
                        switch_box.one(&says(new, moved, b"@data")).outcome,
                        Outcome::ToClient
                    );
                }
            }
            assert_eq!((switch_box.live(old), switch_box.live(new)), (61, 61), "{shards} shards");
        }
    }
}

#[test]
fn are_adopted_in_their_owners_epoch() {
    let (mut switch_box, ..) = cut_over_box(2, Mode::Nat, Cutover::default());
    switch_box.one(&client_says(flow(CLIENT_2, 9), TO_OLD));
    switch_box.one(&client_says(flow(CLIENT_2, 10), TO_NEW));
    let of = |port: u16| {
        let sessions = switch_box.sessions();
        let session = sessions.iter().find(|it| it.tuple.client_port == port).expect("a session");
        (session.owner, session.birth_epoch, session.state)
    };
    assert_eq!(of(9), (BackendSlot(1), 1, SessionState::Established), "an old one");
    assert_eq!(of(10), (BackendSlot(2), 2, SessionState::Established));
}

#[test]
fn that_begin_go_to_the_destination_and_handshakes_go_on() {
    let (mut switch_box, ..) = cut_over_box(2, Mode::Nat, Cutover::default());
    switch_box.one(&client_says(flow(CLIENT_2, 9), HELLO));
    assert_moved!(switch_box, ToDestination 1);
    switch_box.one(&client_says(flow(CLIENT_2, 10), STILL_OLD));
    assert_moved!(switch_box, ToSource 1);
}

#[test]
fn nobody_knows_go_where_the_policy_says() {
    let policies = [
        (Unknown::Source, Outcome::ToSource),
        (Unknown::Destination, Outcome::ToDestination),
        (Unknown::Drop, Outcome::UnknownQuic),
    ];
    for (unknown_quic, outcome) in policies {
        // What holds for TCP is another matter.
        let unknown_tcp = Unknown::Destination;
        let cutover = Cutover { unknown_quic, unknown_tcp, ..Cutover::default() };
        let (mut switch_box, ..) = cut_over_box(2, Mode::L2, cutover);
        for port in 20..25 {
            let ended = switch_box.one(&client_says(flow(CLIENT, port), TO_NOBODY));
            assert_eq!(ended.outcome, outcome);
        }
    }
}

#[test]
fn mean_nothing_on_other_ports_or_cut_short() {
    let cutover = Cutover { unknown_quic: Unknown::Drop, ..Cutover::default() };
    let (mut switch_box, old, _) = cut_over_box(2, Mode::Nat, cutover);
    let elsewhere = Flow { service_port: 53, ..flow(CLIENT, 9) };
    switch_box.one(&client_says(elsewhere, TO_OLD));
    switch_box.one(&client_says(flow(CLIENT, 9), CUT_SHORT));
    switch_box.one(&client_says(flow(CLIENT, 10), b""));
    assert_moved!(switch_box, ToDestination 3);
    // The other port that speaks it.
    let other = Flow { service_port: 4433, ..flow(CLIENT, 11) };
    switch_box.one(&client_says(other, TO_OLD));
    assert_moved!(switch_box, ToSource 1);
    // An ID of another length than the configured one cannot be told from what follows it.
    switch_box.one(&says(old, flow(CLIENT, 7), EIGHT_SAYS));
    switch_box.one(&client_says(flow(CLIENT, 12), b"\x43OLD!....data"));
    assert_moved!(switch_box, ToClient 1, ToSource 1);
}

#[test]
fn cannot_be_learned_from_clients_or_from_who_is_not_heard() {
    let cutover = Cutover { unknown_quic: Unknown::Drop, ..Cutover::default() };
    let (mut switch_box, old, new) = cut_over_box(2, Mode::L2, cutover);
    const FORGED: &[u8] = b"\xc1\x00\x00\x00\x01\x00\x04????handshake";
    switch_box.one(&client_says(flow(CLIENT, 7), FORGED));
    switch_box.one(&client_says(flow(CLIENT, 9), FORGED));
    assert_moved!(switch_box, ToSource 1, ToDestination 1);
    // Each VM speaks in the other's session.
    switch_box.one(&says(new, flow(CLIENT, 7), FORGED));
    switch_box.one(&says(old, flow(CLIENT, 8), FORGED));
    assert_moved!(switch_box, OtherOwner 2);
    switch_box.one(&client_says(flow(CLIENT, 10), TO_NOBODY));
    assert_moved!(switch_box, UnknownQuic 1);
}

/// Version Negotiation repeats the client's words (RFC 9000, section 17.2.1), and no VM takes another's connections over.
#[test]
fn cannot_be_turned_round_by_what_a_client_has_a_server_say() {
    for shards in [1, 3] {
        let (mut switch_box, old, new) = cut_over_box(shards, Mode::Nat, Cutover::default());
        const NEGOTIATION: &[u8] = b"\xc1\x00\x00\x00\x00\x00\x04FREEversions";
        const ECHOED: &[u8] = b"\xc1\x00\x00\x00\x01\x00\x04OLD!handshake";
        switch_box.one(&says(new, flow(CLIENT, 8), NEGOTIATION));
        switch_box.one(&says(new, flow(CLIENT, 8), ECHOED));
        switch_box.one(&client_says(flow(CLIENT_2, 9), TO_OLD));
        switch_box.one(&client_says(flow(CLIENT_2, 10), b"\x43FREEdata"));
        assert_moved!(switch_box, ToClient 2, ToSource 2);
        // Once the old owner is none any more, its IDs may be chosen again.
        switch_box.release();
        switch_box.one(&says(new, flow(CLIENT, 8), ECHOED));
        switch_box.set_destination(old);
        switch_box.cutover(Unknown::Source);
        switch_box.moved();
        switch_box.one(&client_says(flow(CLIENT_2, 11), TO_OLD));
        assert_moved!(switch_box, ToSource 1);
    }
}

#[test]
fn end_with_the_sources_datagrams() {
    let cutover = Cutover { datagrams_end_ms: Some(6_000), ..Cutover::default() };
    let (mut switch_box, ..) = cut_over_box(2, Mode::Nat, cutover);
    switch_box.advance(6_000 - switch_box.now_ms);
    switch_box.one(&client_says(flow(CLIENT, 20), TO_OLD));
    assert_moved!(switch_box, ToSource 1);
    switch_box.advance(1);
    switch_box.sweep();
    for (port, datagram) in [(21, TO_OLD), (22, TO_NEW), (23, TO_NOBODY)] {
        switch_box.one(&client_says(flow(CLIENT, port), datagram));
    }
    assert_moved!(switch_box, ToDestination 3);
}

#[test]
fn are_anybodys_before_cutover_and_after_release() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    switch_box.install(ManagedAddress { quic: Some(QUIC), ..switch_box.address }, &[]);
    switch_box.set_destination(new);
    switch_box.one(&client_says(flow(CLIENT, 9), TO_NOBODY));
    assert_moved!(switch_box, ToSource 1);
    let (mut switch_box, ..) = cut_over_box(2, Mode::Nat, Cutover::default());
    switch_box.release();
    switch_box.one(&client_says(flow(CLIENT, 9), TO_OLD));
    switch_box.one(&client_says(flow(CLIENT, 10), TO_NEW));
    assert_moved!(switch_box, ToSource 2);
}
