//! TCP segments that open nothing and belong to no session.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionState,
    steering::{BackendSlot, Unknown},
};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, FIN_ACK, Flow, RST, SYN_ACK, tcp},
    world::{CLIENT, Mode, NEW_PORT, OLD_PORT, Vm},
};

fn cut_over_box(policy: Unknown) -> (SwitchBox, Vm, Vm) {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    switch_box.cutover(policy);
    (switch_box, old, new)
}

#[test]
fn is_adopted_as_an_old_session_of_the_source() {
    let (mut switch_box, old, new) = cut_over_box(Unknown::Source);
    let flow = Flow::new(CLIENT, 7);
    assert_eq!(switch_box.one(&flow.to_service(tcp(ACK))).seen().port, OLD_PORT);
    assert_moved!(switch_box, ToSource 1);
    let session = switch_box.sessions()[0];
    assert_eq!((session.owner, session.birth_epoch), (BackendSlot(1), 1), "old: before epoch 2");
    assert_eq!(session.state, SessionState::Established);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 0));
}

#[test]
fn is_the_destinations_when_policy_says_so() {
    let (mut switch_box, old, new) = cut_over_box(Unknown::Destination);
    let flow = Flow::new(CLIENT, 7);
    assert_eq!(switch_box.one(&flow.to_service(tcp(ACK))).seen().port, NEW_PORT);
    assert_moved!(switch_box, ToDestination 1);
    let session = switch_box.sessions()[0];
    assert_eq!((session.owner, session.birth_epoch), (BackendSlot(2), 2));
    assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 1));
}

#[test]
fn is_dropped_when_policy_says_so() {
    let (mut switch_box, old, new) = cut_over_box(Unknown::Drop);
    for flags in [ACK, FIN_ACK, SYN_ACK] {
        let ended = switch_box.one(&Flow::new(CLIENT, 7).to_service(tcp(flags)));
        assert_eq!(ended.outcome, Outcome::UnknownTcp);
    }
    assert_moved!(switch_box, UnknownTcp 3);
    assert_eq!((switch_box.entries(old), switch_box.entries(new)), (0, 0));
}

#[test]
fn is_adopted_before_cutover_in_the_epoch_of_the_day() {
    let (old, new) = (Vm::old(1, Mode::Nat), Vm::new(2, Mode::Nat));
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.one(&Flow::new(CLIENT, 7).to_service(tcp(ACK)));
    switch_box.set_destination(new);
    switch_box.one(&Flow::new(CLIENT, 8).to_service(tcp(ACK)));
    assert_moved!(switch_box, ToSource 2);
    assert!(switch_box.sessions().iter().all(|session| session.birth_epoch == 1));
    assert_eq!(switch_box.cutover(Unknown::Drop), 2);
}

#[test]
fn that_begins_with_a_fin_is_already_closing() {
    let (mut switch_box, old, _) = cut_over_box(Unknown::Source);
    switch_box.one(&Flow::new(CLIENT, 7).to_service(tcp(FIN_ACK)));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Closing);
    assert_eq!(switch_box.live(old), 1);
    switch_box.advance(switch_box.timeouts.tcp_closing_ms + 1);
    switch_box.sweep();
    assert_eq!(switch_box.live(old), 0);
}

#[test]
fn rst_goes_to_the_source_and_leaves_no_session_whatever_the_policy() {
    for policy in [Unknown::Source, Unknown::Destination, Unknown::Drop] {
        let (mut switch_box, old, new) = cut_over_box(policy);
        for flags in [RST, RST | ACK] {
            let ended = switch_box.one(&Flow::new(CLIENT, 7).to_service(tcp(flags)));
            assert_eq!(ended.seen().port, OLD_PORT, "{policy:?}");
        }
        assert_moved!(switch_box, ToSource 2);
        assert_eq!((switch_box.entries(old), switch_box.entries(new)), (0, 0), "{policy:?}");
    }
    let mut at_rest = SwitchBox::new(1, Vm::old(1, Mode::L2));
    at_rest.one(&Flow::new(CLIENT, 7).to_service(tcp(RST)));
    assert_moved!(at_rest, ToSource 1);
    assert!(at_rest.sessions().is_empty());
}
