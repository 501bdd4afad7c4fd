//! Clients that speak to a backend's own address: they chose the VM themselves.

use tidegate_dataplane::{
    pipeline::Outcome,
    steering::{BackendSlot, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, FIN_ACK, Flow, GIVEN_UP, REFUSED, RST, SYN, SYN_ACK, tcp},
    world::{CLIENT, Mode, SERVICE, Vm},
};

fn migrating() -> (SwitchBox, Vm, Vm) {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    (switch_box, old, new)
}

#[test]
fn reach_the_vm_they_named_and_hear_it_under_its_own_address() {
    for cut_over in [false, true] {
        let (mut switch_box, old, new) = migrating();
        if cut_over {
            switch_box.cutover(Unknown::Source);
        }
        for (port, vm) in [(1, old), (2, new)] {
            let flow = Flow::new(CLIENT, port);
            for (there, back) in [(tcp(SYN), tcp(SYN_ACK)), (Body::Udp, Body::Udp)] {
                let seen = switch_box.one(&flow.to(vm.locator, there)).seen();
                assert_eq!((seen.destination, seen.to_mac), (vm.locator, vm.backend.mac));
                let seen = switch_box.one(&flow.sent_by(vm, back)).seen();
                assert_eq!(seen.tuple(), (vm.locator, 80, CLIENT, port), "not the service's");
            }
        }
        assert_moved!(switch_box, Forwarded 8);
        assert_eq!((switch_box.live(old), switch_box.live(new)), (2, 2));
    }
}

#[test]
fn are_not_taken_for_the_service_by_the_same_client() {
    let (mut switch_box, old, new) = migrating();
    switch_box.cutover(Unknown::Source);
    let (direct, steered) = (Flow::new(CLIENT, 1), Flow::new(CLIENT, 2));
    switch_box.feed(&[direct.to(old.locator, tcp(SYN)), steered.to_service(tcp(SYN))]);
    let ended =
        switch_box.feed(&[direct.sent_by(old, tcp(SYN_ACK)), steered.sent_by(new, tcp(SYN_ACK))]);
    assert_eq!(ended[0].seen().source, old.locator);
    assert_eq!(ended[1].seen().source, SERVICE);
    assert_moved!(switch_box, Forwarded 2, ToDestination 1, ToClient 1);
}

/// The client's two tuples differ, so it may use one port for both.
#[test]
fn share_a_client_port_with_a_session_of_the_other_vm() {
    let (mut switch_box, old, new) = migrating();
    let flow = Flow::new(CLIENT, 1);
    switch_box.one(&flow.to_service(tcp(SYN)));
    switch_box.cutover(Unknown::Source);
    switch_box.one(&flow.to(new.locator, tcp(SYN)));
    let ended = switch_box.feed(&[
        flow.sent_by(old, tcp(SYN_ACK)),
        flow.sent_by(new, tcp(SYN_ACK)),
        flow.sent_by(new, REFUSED),
    ]);
    assert_eq!(ended[0].seen().source, SERVICE);
    assert_eq!(ended[1].seen().source, new.locator);
    assert_moved!(switch_box, ToSource 1, Forwarded 3, ToClient 1);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 0));
    // With the direct session over, the VM again has no say in the other's session.
    switch_box.advance(switch_box.timeouts.linger_ms + 1);
    switch_box.sweep();
    let ended = switch_box.one(&flow.sent_by(new, tcp(RST)));
    assert_eq!(ended.outcome, Outcome::OtherOwner);
}

#[test]
fn follow_a_closed_session_with_the_service_on_the_same_port() {
    let (mut switch_box, old, _) = migrating();
    let flow = Flow::new(CLIENT, 1);
    switch_box.feed(&[flow.to_service(tcp(SYN)), flow.to_service(GIVEN_UP)]);
    switch_box.one(&flow.to(old.locator, tcp(SYN)));
    let seen = switch_box.one(&flow.sent_by(old, tcp(SYN_ACK))).seen();
    assert_eq!(seen.source, old.locator);
}

/// As with the managed address, a late FIN must not hold a drain for hours.
#[test]
fn known_by_a_fin_are_soon_over() {
    let (mut switch_box, old, _) = migrating();
    switch_box.one(&Flow::new(CLIENT, 1).to(old.locator, tcp(FIN_ACK)));
    switch_box.advance(switch_box.timeouts.tcp_closing_ms + 1);
    switch_box.sweep();
    assert_eq!(switch_box.entries(old), 0);
}

#[test]
fn leave_no_session_behind_for_a_rst() {
    let (mut switch_box, old, _) = migrating();
    switch_box.one(&Flow::new(CLIENT, 1).to(old.locator, tcp(RST)));
    assert_moved!(switch_box, Forwarded 1);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn begin_anew_on_lingering_ports() {
    let (mut switch_box, old, _) = migrating();
    let flow = Flow::new(CLIENT, 1);
    switch_box.feed(&[flow.to(old.locator, tcp(SYN)), flow.sent_by(old, REFUSED)]);
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (0, 1));
    switch_box.one(&flow.to(old.locator, tcp(ACK)));
    assert_eq!(switch_box.live(old), 0, "a late segment revives nothing");
    switch_box.one(&flow.to(old.locator, tcp(SYN)));
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (1, 1));
    assert_moved!(switch_box, Forwarded 4);
}

#[test]
fn belong_to_the_backend_that_has_the_locator_now() {
    let (mut switch_box, old, new) = migrating();
    let flow = Flow::new(CLIENT, 1);
    switch_box.one(&flow.to(new.locator, Body::Udp));
    switch_box.abort();
    let again = Vm::new(3, Mode::Nat);
    switch_box.set_destination(again);
    switch_box.feed(&[flow.to(new.locator, Body::Udp), flow.sent_by(again, Body::Udp)]);
    assert_moved!(switch_box, Forwarded 3);
    assert_eq!(switch_box.sessions()[0].owner, BackendSlot(3));
    assert_eq!((switch_box.entries(old), switch_box.entries(new)), (0, 0));
    assert_eq!(switch_box.live(again), 1);
}

#[test]
fn are_forgotten_when_the_locator_is_no_backends() {
    let (mut switch_box, _, new) = migrating();
    let flow = Flow::new(CLIENT, 1);
    switch_box.one(&flow.to(new.locator, Body::Udp));
    switch_box.abort();
    switch_box.sweep();
    assert_eq!(switch_box.entries(new), 0);
    // The VM is a host like any other now.
    switch_box.feed(&[flow.to(new.locator, Body::Udp), flow.sent_by(new, Body::Udp)]);
    assert_moved!(switch_box, Forwarded 3);
    assert!(switch_box.sessions().is_empty());
}
