//! Packets VMs send: who may speak in the managed address's name, and for which session.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionState,
    steering::{BackendSlot, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, FIN_ACK, Flow, REFUSED, RST, SYN, SYN_ACK, tcp},
    world::{BYSTANDER, CLIENT, Mode, NEW_PORT, OLD_PORT, OTHER_PORT, SERVICE, UPLINK, Vm},
};

const MODES: [Mode; 2] = [Mode::Nat, Mode::L2];

fn vms(mode: Mode) -> (Vm, Vm) {
    (Vm::old(1, mode), Vm::new(2, mode))
}

fn cut_over_box(mode: Mode) -> (SwitchBox, Vm, Vm) {
    let (old, new) = vms(mode);
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    switch_box.cutover(Unknown::Source);
    (switch_box, old, new)
}

#[test]
fn the_source_without_session_begins_one_it_owns() {
    for mode in MODES {
        let (mut switch_box, old, _) = cut_over_box(mode);
        let bodies = [tcp(SYN), tcp(SYN_ACK), tcp(ACK), Body::Udp, Body::EchoReply];
        for (port, body) in (1..).zip(bodies) {
            let seen = switch_box.one(&Flow::new(CLIENT, port).sent_by(old, body)).seen();
            assert_eq!((seen.port, seen.source), (UPLINK, SERVICE), "{mode:?} {body:?}");
        }
        assert_moved!(switch_box, ToClient 5);
        assert_eq!(switch_box.live(old), 5, "they count for the drain");
        let born = |port| {
            let sessions = switch_box.sessions();
            let session = sessions.iter().find(|it| it.tuple.client_port == port).expect("session");
            (session.birth_epoch, session.state)
        };
        assert_eq!(born(1), (2, SessionState::Opening), "begun now");
        assert_eq!(born(2), (1, SessionState::Established), "it existed before");
        assert_eq!(born(3), (1, SessionState::Established), "it existed before");
    }
}

#[test]
fn the_answer_of_the_client_finds_the_session_a_vm_began() {
    for mode in MODES {
        let (mut switch_box, old, new) = cut_over_box(mode);
        for (port, vm, back) in [(1, old, OLD_PORT), (2, new, NEW_PORT)] {
            let flow = Flow::new(CLIENT, port);
            let packets = [flow.sent_by(vm, tcp(SYN)), flow.to_service(tcp(SYN_ACK))];
            assert_eq!(switch_box.feed(&packets)[1].seen().port, back);
        }
        assert_moved!(switch_box, ToClient 2, ToSource 1, ToDestination 1);
        assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 1));
    }
}

#[test]
fn a_vms_rst_without_session_passes_from_the_source_only() {
    for mode in MODES {
        let (mut switch_box, old, new) = cut_over_box(mode);
        let flow = Flow::new(CLIENT, 7);
        assert_eq!(switch_box.one(&flow.sent_by(old, tcp(RST))).seen().source, SERVICE);
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(RST))).outcome, Outcome::StaleClone);
        assert_moved!(switch_box, ToClient 1, StaleClone 1);
        assert!(switch_box.sessions().is_empty());
    }
}

#[test]
fn a_clone_cannot_touch_the_sources_sessions() {
    for mode in MODES {
        let (old, new) = vms(mode);
        let mut switch_box = SwitchBox::new(1, old);
        let flow = Flow::new(CLIENT, 7);
        switch_box.one(&flow.to_service(tcp(ACK)));
        switch_box.set_destination(new);
        switch_box.moved();
        for cut_over in [false, true] {
            if cut_over {
                assert_eq!(switch_box.cutover(Unknown::Source), 1);
            }
            for flags in [RST, RST | ACK, FIN_ACK, ACK, SYN, SYN_ACK] {
                let ended = switch_box.one(&flow.sent_by(new, tcp(flags)));
                assert_eq!(ended.outcome, Outcome::OtherOwner, "{mode:?} {flags:?}");
            }
            assert_moved!(switch_box, OtherOwner 6);
            assert_eq!(switch_box.live(old), 1);
            assert_eq!(switch_box.sessions()[0].state, SessionState::Established);
        }
    }
}

#[test]
fn the_source_cannot_touch_the_destinations_sessions() {
    for mode in MODES {
        let (mut switch_box, old, new) = cut_over_box(mode);
        let flow = Flow::new(CLIENT, 7);
        let bodies = [tcp(SYN), Body::Udp, Body::EchoRequest];
        switch_box.feed(&bodies.map(|body| flow.to_service(body)));
        for body in [tcp(RST), tcp(SYN_ACK), Body::Udp, Body::EchoReply] {
            let ended = switch_box.one(&flow.sent_by(old, body));
            assert_eq!(ended.outcome, Outcome::OtherOwner, "{mode:?} {body:?}");
        }
        assert_moved!(switch_box, ToDestination 3, OtherOwner 4);
        assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 3));
    }
}

#[test]
fn a_packet_of_the_other_vm_does_not_keep_a_session_alive() {
    let (mut switch_box, old, new) = cut_over_box(Mode::L2);
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(Body::Udp));
    switch_box.advance(switch_box.timeouts.udp_ms);
    switch_box.one(&flow.sent_by(old, Body::Udp));
    switch_box.advance(1);
    switch_box.sweep();
    assert_eq!(switch_box.entries(new), 0);
}

#[test]
fn a_clone_is_silent_before_cutover() {
    let (old, new) = vms(Mode::L2);
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    for body in [tcp(SYN), tcp(ACK), tcp(RST), Body::Udp, Body::EchoRequest] {
        let ended = switch_box.one(&Flow::new(CLIENT, 7).sent_by(new, body));
        assert_eq!(ended.outcome, Outcome::BeforeCutover, "{body:?}");
    }
    assert_moved!(switch_box, BeforeCutover 5);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn a_destination_with_its_own_address_uses_it_before_cutover() {
    let (old, new) = vms(Mode::Nat);
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    for body in [tcp(SYN), tcp(ACK), tcp(RST), Body::Udp, Body::EchoRequest] {
        let seen = switch_box.one(&Flow::new(CLIENT, 7).sent_by(new, body)).seen();
        assert_eq!((seen.source, seen.ttl), (new.locator, 63), "{body:?}");
    }
    assert_moved!(switch_box, Forwarded 5);
    assert!(switch_box.sessions().is_empty());
}

#[test]
fn the_destination_begins_sessions_after_cutover() {
    for mode in MODES {
        let (mut switch_box, _, new) = cut_over_box(mode);
        let bodies = [tcp(SYN), Body::Udp, Body::EchoRequest];
        for (port, body) in (1..).zip(bodies) {
            let seen = switch_box.one(&Flow::new(CLIENT, port).sent_by(new, body)).seen();
            assert_eq!(seen.source, SERVICE, "{mode:?} {body:?}");
        }
        assert_moved!(switch_box, ToClient 3);
        assert_eq!(switch_box.live(new), 3);
        assert!(switch_box.sessions().iter().all(|session| session.owner == BackendSlot(2)));
    }
}

#[test]
fn what_the_destination_inherited_is_stale() {
    for mode in MODES {
        let (mut switch_box, _, new) = cut_over_box(mode);
        for flags in [ACK, FIN_ACK, SYN_ACK, RST | ACK] {
            let ended = switch_box.one(&Flow::new(CLIENT, 7).sent_by(new, tcp(flags)));
            assert_eq!(ended.outcome, Outcome::StaleClone, "{mode:?} {flags:?}");
        }
        assert_moved!(switch_box, StaleClone 4);
        assert!(switch_box.sessions().is_empty());
    }
}

#[test]
fn a_vms_syn_on_lingering_ports_begins_a_session_of_its_own() {
    for mode in MODES {
        let (old, new) = vms(mode);
        let mut switch_box = SwitchBox::new(1, old);
        let flow = Flow::new(CLIENT, 7);
        switch_box.feed(&[flow.to_service(tcp(SYN)), flow.sent_by(old, REFUSED)]);
        switch_box.set_destination(new);
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(SYN))).outcome, Outcome::OtherOwner);
        assert_eq!(switch_box.cutover(Unknown::Source), 0, "lingering is not live");
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(ACK))).outcome, Outcome::OtherOwner);
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(SYN))).outcome, Outcome::ToClient);
        assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1), "{mode:?}");
    }
}

#[test]
fn nobody_else_may_use_the_address_or_a_locator() {
    let flow = Flow::new(CLIENT, 7);
    for mode in MODES {
        let (mut switch_box, old, new) = cut_over_box(mode);
        for vm in [old, new] {
            for port in [UPLINK, OTHER_PORT] {
                let ended = switch_box.one(&flow.sent_by(vm, tcp(SYN)).on(port));
                assert_eq!(ended.outcome, Outcome::Spoofed, "{mode:?} {port:?}");
            }
        }
        assert_moved!(switch_box, Spoofed 4);
        assert!(switch_box.sessions().is_empty());
    }
    // A VM behind nat has no business with the managed address itself, nor with the other's locator.
    let (mut switch_box, old, new) = cut_over_box(Mode::Nat);
    let as_service = Vm { backend: Vm::old(1, Mode::L2).backend, ..old };
    assert_eq!(switch_box.one(&flow.sent_by(as_service, tcp(SYN))).outcome, Outcome::Spoofed);
    let swapped = flow.sent_by(old, tcp(SYN)).on(new.backend.port);
    assert_eq!(switch_box.one(&swapped).outcome, Outcome::Spoofed);
}

#[test]
fn a_clone_not_yet_known_is_spoofing() {
    let (old, new) = vms(Mode::L2);
    let mut switch_box = SwitchBox::new(1, old);
    let ended = switch_box.one(&Flow::new(CLIENT, 7).sent_by(new, tcp(RST)));
    assert_eq!(ended.outcome, Outcome::Spoofed);
}

#[test]
fn a_bystander_on_a_backends_port_is_forwarded() {
    let (mut switch_box, old, _) = cut_over_box(Mode::L2);
    let packet = Flow::new(CLIENT, 7).sent_by(old, tcp(SYN));
    let bystander = crate::switch_box::traffic::Packet { source: BYSTANDER, ..packet };
    assert_eq!(switch_box.one(&bystander).seen().source, BYSTANDER);
    assert_moved!(switch_box, Forwarded 1);
}
