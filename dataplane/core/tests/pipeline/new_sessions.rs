//! Clients' packets that begin sessions, and ports that are used anew.

use tidegate_dataplane::{pipeline::Outcome, session::SessionState, steering::Unknown};

use crate::switch_box::{
    SwitchBox, assert_moved,
    traffic::{ACK, Body, FIN_ACK, Flow, GIVEN_UP, REFUSED, RST, SYN, SYN_ACK, segment, tcp},
    world::{CLIENT, CLIENT_2, Mode, NEW_PORT, OLD_PORT, Vm},
};

const OLD: u32 = 1;
const NEW: u32 = 2;

fn vms() -> (Vm, Vm) {
    (Vm::old(OLD, Mode::L2), Vm::new(NEW, Mode::L2))
}

fn cut_over_box() -> (SwitchBox, Vm, Vm) {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 0);
    (switch_box, old, new)
}

/// Bodies that begin a session from the client's side.
const BEGIN: [Body; 4] = [
    Body::Tcp { flags: SYN, sequence: 1, acknowledgement: 0 },
    Body::Udp,
    Body::UdpWithoutChecksum,
    Body::EchoRequest,
];

#[test]
fn go_home_at_rest_and_before_cutover() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    for (port, body) in (1..).zip(BEGIN) {
        let ended = switch_box.one(&Flow::new(CLIENT, port).to_service(body));
        assert_eq!(ended.seen().port, OLD_PORT, "{body:?}");
    }
    switch_box.set_destination(new);
    for (port, body) in (11..).zip(BEGIN) {
        let ended = switch_box.one(&Flow::new(CLIENT, port).to_service(body));
        assert_eq!(ended.seen().port, OLD_PORT, "{body:?}");
    }
    assert_moved!(switch_box, ToSource 8);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (8, 0));
    assert!(switch_box.sessions().iter().all(|session| session.birth_epoch == 1));
}

#[test]
fn go_to_the_destination_after_cutover() {
    let (mut switch_box, old, new) = cut_over_box();
    for (port, body) in (1..).zip(BEGIN) {
        let ended = switch_box.one(&Flow::new(CLIENT, port).to_service(body));
        assert_eq!(ended.seen().port, NEW_PORT, "{body:?}");
    }
    assert_moved!(switch_box, ToDestination 4);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (0, 4));
    assert!(switch_box.sessions().iter().all(|session| session.birth_epoch == 2));
}

#[test]
fn stay_with_their_owner_across_the_cutover() {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    for (port, body) in (1..).zip(BEGIN) {
        switch_box.one(&Flow::new(CLIENT, port).to_service(body));
    }
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Destination), 4);
    let more = [tcp(ACK), Body::Udp, Body::UdpWithoutChecksum, Body::EchoRequest];
    for (port, body) in (1..).zip(more) {
        let ended = switch_box.one(&Flow::new(CLIENT, port).to_service(body));
        assert_eq!(ended.seen().port, OLD_PORT, "{body:?}");
    }
    // A repeated SYN belongs to the live session it repeats.
    let again = switch_box.one(&Flow::new(CLIENT, 1).to_service(BEGIN[0]));
    assert_eq!(again.seen().port, OLD_PORT);
    assert_moved!(switch_box, ToSource 9);
    assert_eq!((switch_box.live(old), switch_box.live(new)), (4, 0));
}

#[test]
fn are_distinct_by_client_port_service_port_and_protocol() {
    let (mut switch_box, _, new) = cut_over_box();
    let flow = Flow::new(CLIENT, 7);
    let distinct = [
        flow.to_service(tcp(SYN)),
        flow.to_service(Body::Udp),
        flow.to_service(Body::EchoRequest),
        Flow { client: CLIENT_2, ..flow }.to_service(tcp(SYN)),
        Flow { client_port: 8, ..flow }.to_service(tcp(SYN)),
        Flow { service_port: 443, ..flow }.to_service(tcp(SYN)),
    ];
    switch_box.feed(&distinct);
    switch_box.feed(&distinct);
    assert_moved!(switch_box, ToDestination 12);
    assert_eq!(switch_box.live(new), 6);
}

#[test]
fn a_syn_with_rst_or_ack_begins_nothing_new() {
    let (mut switch_box, old, new) = cut_over_box();
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(tcp(SYN | RST)));
    assert_eq!((switch_box.entries(old), switch_box.entries(new)), (0, 0));
    // SYN with ACK answers somebody: the source, which the box did not hear.
    switch_box.one(&flow.to_service(tcp(SYN_ACK)));
    assert_eq!((switch_box.live(old), switch_box.live(new)), (1, 0));
    assert_moved!(switch_box, ToSource 2);
}

/// Close the session of `flow` from both sides; returns packets fed: 3 to the owner, 1 to the client.
fn close(switch_box: &mut SwitchBox, flow: Flow, owner: Vm) {
    let packets = [
        flow.to_service(segment(FIN_ACK, 100, 500)),
        flow.sent_by(owner, segment(FIN_ACK, 500, 101)),
        flow.to_service(segment(ACK, 101, 501)),
    ];
    switch_box.feed(&packets);
    let state = switch_box.sessions()[0].state;
    assert_eq!(state, SessionState::Lingering);
}

#[test]
fn a_syn_on_lingering_ports_belongs_to_the_destination() {
    for closed_by_rst in [false, true] {
        let (old, new) = vms();
        let mut switch_box = SwitchBox::new(1, old);
        let flow = Flow::new(CLIENT, 7);
        let opening = if closed_by_rst { tcp(SYN) } else { segment(ACK, 100, 500) };
        switch_box.one(&flow.to_service(opening));
        switch_box.set_destination(new);
        assert_eq!(switch_box.cutover(Unknown::Drop), 1);
        if closed_by_rst {
            switch_box.one(&flow.sent_by(old, REFUSED));
        } else {
            close(&mut switch_box, flow, old);
        }
        assert_eq!((switch_box.live(old), switch_box.entries(old)), (0, 1));
        // Late segments still find the old owner, whatever the policy.
        let late = switch_box.one(&flow.to_service(tcp(ACK)));
        assert_eq!(late.seen().port, OLD_PORT);
        switch_box.moved();
        let anew = [flow.to_service(tcp(SYN)), flow.to_service(tcp(ACK))];
        for ended in switch_box.feed(&anew) {
            assert_eq!(ended.seen().port, NEW_PORT);
        }
        assert_moved!(switch_box, ToDestination 2);
        assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1));
        // The old VM's late words are not the new session's.
        assert_eq!(switch_box.one(&flow.sent_by(old, tcp(RST))).outcome, Outcome::OtherOwner);
        assert_eq!(switch_box.live(new), 1);
    }
}

/// An old session in which each side has acknowledged the other up to 2000, then the cutover and this RST.
fn reset_after_cutover(sequence: u32, by_client: bool) -> (SwitchBox, Flow, Vm, Vm) {
    let (old, new) = vms();
    let mut switch_box = SwitchBox::new(2, old);
    let flow = Flow::new(CLIENT, 7);
    switch_box.feed(&[flow.to_service(tcp(ACK)), flow.sent_by(old, tcp(ACK))]);
    switch_box.set_destination(new);
    assert_eq!(switch_box.cutover(Unknown::Source), 1);
    let reset = segment(RST, sequence, 0);
    switch_box.one(&if by_client { flow.to_service(reset) } else { flow.sent_by(old, reset) });
    assert_eq!(switch_box.sessions()[0].state, SessionState::Resetting);
    assert_eq!(switch_box.live(old), 1);
    (switch_box, flow, old, new)
}

/// Its receiver has believed the RST, and nobody waits until the box does.
#[test]
fn a_syn_on_ports_that_were_just_reset_belongs_to_the_destination() {
    for by_client in [true, false] {
        let (mut switch_box, flow, old, new) = reset_after_cutover(2000, by_client);
        // Any other segment still finds the old owner.
        let late = switch_box.one(&flow.to_service(segment(RST, 2000, 0)));
        assert_eq!(late.seen().port, OLD_PORT);
        assert_eq!(switch_box.one(&flow.to_service(tcp(SYN))).seen().port, NEW_PORT);
        assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1));
        let session = switch_box.sessions()[0];
        assert_eq!((session.state, session.birth_epoch), (SessionState::Opening, 2));
        assert_eq!(switch_box.one(&flow.sent_by(old, tcp(RST))).outcome, Outcome::OtherOwner);
        assert_eq!(switch_box.one(&flow.to_service(tcp(SYN))).seen().port, NEW_PORT);
    }
    // A VM uses its ports anew as well.
    for by_client in [true, false] {
        let (mut switch_box, flow, old, new) = reset_after_cutover(2000, by_client);
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(SYN))).outcome, Outcome::ToClient);
        assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1));
    }
}

/// The session may live: then its owner answers a SYN with a challenge ACK (RFC 5961, section 4), and no other VM can.
#[test]
fn a_syn_stays_with_the_owner_after_a_reset_that_is_in_doubt() {
    for by_client in [true, false] {
        let (mut switch_box, flow, old, new) = reset_after_cutover(2001, by_client);
        assert_eq!(switch_box.one(&flow.to_service(tcp(SYN))).seen().port, OLD_PORT);
        assert_eq!(switch_box.one(&flow.sent_by(new, tcp(SYN))).outcome, Outcome::OtherOwner);
        assert_eq!((switch_box.live(old), switch_box.entries(new)), (1, 0));
        // The challenge reaches the client, and what the client makes of it the VM.
        assert_eq!(switch_box.one(&flow.sent_by(old, tcp(ACK))).outcome, Outcome::ToClient);
        let answer = switch_box.one(&flow.to_service(segment(RST, 2000, 0)));
        assert_eq!(answer.seen().port, OLD_PORT);
        // The client has told for certain that it knows nothing of it.
        assert_eq!(switch_box.one(&flow.to_service(tcp(SYN))).seen().port, NEW_PORT);
        assert_eq!((switch_box.entries(old), switch_box.live(new)), (0, 1));
    }
}

/// To the own address of its VM, a client begins anew there.
#[test]
fn a_syn_on_reset_ports_of_a_locator_begins_anew() {
    let old = Vm::old(OLD, Mode::Nat);
    let mut switch_box = SwitchBox::new(2, old);
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to(old.locator, tcp(ACK)));
    switch_box.one(&flow.sent_by(old, tcp(ACK)));
    switch_box.one(&flow.to(old.locator, segment(RST, 2000, 0)));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Resetting);
    assert_eq!(switch_box.one(&flow.to(old.locator, tcp(SYN))).outcome, Outcome::Forwarded);
    assert_eq!(switch_box.sessions()[0].state, SessionState::Opening);
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (1, 1));
}

#[test]
fn a_syn_on_lingering_ports_begins_anew_at_home_too() {
    let (old, _) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(tcp(SYN)));
    switch_box.one(&flow.to_service(GIVEN_UP));
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (0, 1));
    switch_box.one(&flow.to_service(tcp(SYN)));
    assert_eq!((switch_box.live(old), switch_box.entries(old)), (1, 1));
    assert_eq!(switch_box.sessions()[0].state, SessionState::Opening);
    assert_moved!(switch_box, ToSource 3);
}

/// RFC 7857, section 2.
#[test]
fn states_follow_both_directions() {
    let (old, _) = vms();
    let mut switch_box = SwitchBox::new(1, old);
    let flow = Flow::new(CLIENT, 7);
    let life = [
        (flow.to_service(segment(SYN, 99, 0)), SessionState::Opening),
        (flow.sent_by(old, segment(SYN_ACK, 499, 100)), SessionState::Opening),
        (flow.to_service(segment(ACK, 100, 500)), SessionState::Established),
        (flow.sent_by(old, segment(FIN_ACK, 500, 100)), SessionState::Closing),
        (flow.to_service(segment(ACK, 100, 501)), SessionState::Closing),
        (flow.to_service(segment(FIN_ACK, 100, 501)), SessionState::Closing),
        (flow.sent_by(old, segment(ACK, 501, 101)), SessionState::Lingering),
    ];
    for (packet, state) in life {
        switch_box.one(&packet);
        assert_eq!(switch_box.sessions()[0].state, state, "after {packet:?}");
    }
    assert_moved!(switch_box, ToSource 4, ToClient 3);
}
