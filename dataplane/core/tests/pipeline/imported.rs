//! Sessions that the box is told of, because it has not seen their packets.

use tidegate_dataplane::{
    packet::TcpFlags,
    pipeline::{Import, ImportedSession},
    session::{ImportedState, Tuple},
    steering::{Cutover, ManagedAddress, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, Flow, segment, tcp},
    world::{CLIENT, CLIENT_2, Mode, SERVICE, Vm, ip},
};

const FIN_ACK: TcpFlags = TcpFlags(0x11);
const MODES: [Mode; 2] = [Mode::Nat, Mode::L2];

fn imported(flow: Flow, protocol: u8, state: ImportedState) -> ImportedSession {
    let Flow { client, client_port, service_port } = flow;
    let (client, address) = (ip(client), ip(SERVICE));
    let tuple = Tuple { client, client_port, address, address_port: service_port, protocol };
    ImportedSession { tuple, state }
}

fn established(ports: std::ops::Range<u16>) -> Vec<ImportedSession> {
    let flows = ports.map(|port| Flow::new(CLIENT, port));
    flows.map(|flow| imported(flow, 6, ImportedState::Established)).collect()
}

#[test]
fn are_counted_as_old_and_drain() {
    for (mode, shards) in MODES.into_iter().flat_map(|mode| (1..=4).map(move |it| (mode, it))) {
        let (old, new) = (Vm::old(1, mode), Vm::new(2, mode));
        let mut switch_box = SwitchBox::new(shards, old);
        let import = switch_box.import(&established(0..20));
        assert_eq!(import, Import { imported: 20, ..Import::default() });
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Drop), 20);
        for port in 0..20 {
            let flow = Flow::new(CLIENT, port);
            switch_box.feed(&[
                flow.to_service(segment(FIN_ACK, 9, 5)),
                flow.sent_by(old, segment(FIN_ACK, 5, 10)),
                flow.to_service(segment(ACK, 10, 6)),
            ]);
            assert_eq!(switch_box.live(old), 19 - u32::from(port));
        }
        assert_moved!(switch_box, ToSource 40, ToClient 20);
    }
}

#[test]
fn known_ones_stay_as_they_are() {
    let vm = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::new(2, vm);
    let flow = Flow::new(CLIENT, 3);
    switch_box.one(&flow.to_service(Body::Udp));
    let before = switch_box.sessions();
    switch_box.advance(7);
    let import = switch_box.import(&[imported(flow, 17, ImportedState::Established)]);
    assert_eq!(import, Import { known: 1, ..Import::default() });
    assert_eq!(switch_box.sessions()[0].state, before[0].state);
    assert_eq!(switch_box.sessions()[0].idle_ms, 7);
    assert_eq!(switch_box.import(&established(0..5)).imported, 5);
    let again = Import { imported: 3, known: 5, ..Import::default() };
    assert_eq!(switch_box.import(&established(0..8)), again);
}

/// What is closed on one side goes on as long as another, and is over when the other side closes, too.
#[test]
fn half_closed_ones_go_on_and_end() {
    for state in [ImportedState::ClosedByClient, ImportedState::ClosedByBackend] {
        let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
        let mut switch_box = SwitchBox::new(2, old);
        let flow = Flow::new(CLIENT, 3);
        switch_box.import(&[imported(flow, 6, state)]);
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Source), 1);
        switch_box.advance(switch_box.timeouts.tcp_established_ms);
        switch_box.sweep();
        assert_eq!(switch_box.live(old), 1, "{state:?}");
        let by_client = |flags, number, other| flow.to_service(segment(flags, number, other));
        let by_vm = |flags, number, other| flow.sent_by(old, segment(flags, number, other));
        if state == ImportedState::ClosedByClient {
            switch_box.feed(&[by_vm(ACK, 500, 9), by_client(ACK, 9, 500), by_vm(FIN_ACK, 500, 9)]);
            assert_eq!(switch_box.live(old), 1);
            switch_box.one(&by_client(ACK, 9, 501));
        } else {
            switch_box.feed(&[
                by_client(ACK, 9, 500),
                by_vm(ACK, 500, 9),
                by_client(FIN_ACK, 9, 500),
            ]);
            assert_eq!(switch_box.live(old), 1);
            switch_box.one(&by_vm(ACK, 500, 10));
        }
        assert_eq!(switch_box.live(old), 0, "{state:?}");
    }
}

#[test]
fn what_both_have_closed_is_soon_over() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.import(&[imported(Flow::new(CLIENT, 3), 6, ImportedState::Closing)]);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 1);
    switch_box.advance(switch_box.timeouts.tcp_closing_ms + 1);
    switch_box.sweep();
    assert_eq!(switch_box.live(old), 0);
}

/// What the sweep has yet to forget is of a time that counts no more.
#[test]
fn those_of_an_earlier_time_are_not_known() {
    let vm = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::new(1, vm);
    switch_box.import(&established(0..3));
    let again = ManagedAddress { home: Vm::old(2, Mode::L2).backend, ..switch_box.address };
    switch_box.install(again, &[]);
    assert_eq!(switch_box.import(&established(0..3)).imported, 3);
    switch_box.sweep();
    assert_eq!((switch_box.entries(vm), switch_box.live(Vm::old(2, Mode::L2))), (0, 3));
}

/// A silent session is neither missed nor waited for past its own timeout.
#[test]
fn silent_ones_are_waited_for_as_long_as_others() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(2, old);
    switch_box.import(&established(0..1));
    switch_box.import(&[imported(Flow::new(CLIENT, 9), 17, ImportedState::Established)]);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 2);
    let timeouts = switch_box.timeouts;
    for (ms, left) in [
        (timeouts.udp_ms, 2),
        (1, 1),
        (timeouts.tcp_established_ms - timeouts.udp_ms - 1, 1),
        (1, 0),
    ] {
        switch_box.advance(ms);
        switch_box.sweep();
        assert_eq!(switch_box.live(old), left);
    }
}

#[test]
fn after_the_cutover_they_are_of_before_it() {
    let (old, new) = (Vm::old(1, Mode::L2), Vm::new(2, Mode::L2));
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    switch_box.cutover_with(Cutover::default());
    switch_box.import(&established(0..1));
    let session = switch_box.sessions()[0];
    assert_eq!((session.owner, session.birth_epoch), (old.backend.slot, 1));
}

#[test]
fn what_cannot_be_taken_up_is_counted() {
    let vm = Vm::old(1, Mode::L2);
    let mut switch_box = SwitchBox::with_capacity(1, 10, vm);
    let no_room = Import { imported: 10, no_room: 5, ..Import::default() };
    assert_eq!(switch_box.import(&established(0..15)), no_room);
    let mut stranger = imported(Flow::new(CLIENT, 0), 6, ImportedState::Established);
    stranger.tuple.address = ip(CLIENT_2);
    let not_tracked = Import { not_tracked: 1, ..Import::default() };
    assert_eq!(switch_box.import(&[stranger]), not_tracked);
    let bound = ManagedAddress { tracked: false, ..switch_box.address };
    switch_box.install(bound, &[]);
    assert_eq!(switch_box.import(&established(0..1)), not_tracked);
    let other_family = Tuple { client: "::1".parse().expect("address"), ..stranger.tuple };
    let mixed = ImportedSession { tuple: other_family, ..stranger };
    assert_eq!(switch_box.import(&[mixed]).imported, 0);
    switch_box.one(&Flow::new(CLIENT, 0).to_service(tcp(ACK)));
}
