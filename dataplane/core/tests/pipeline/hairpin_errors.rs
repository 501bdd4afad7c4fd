//! ICMP errors about what one VM of the box sends another: they go back through both sides.

use tidegate_dataplane::steering::{ManagedAddress, PortId};

use super::{
    complaints::{About, MOST_QUOTED, error, long},
    hairpin::{PAIRS, Side, two_sides},
    icmp_errors::{CONVERSATIONS, ERRORS, QUOTED, about, assert_quotes},
};
use crate::switch_box::{
    SwitchBox, assert_moved,
    carrier::{MTU, TUNNELS, onto_wire, overhead},
    traffic::{ACK, SYN},
    traffic::{Body, Packet, tcp},
    world::{BOX, FAR_CLIENT, Mode, OTHER_PORT, SECOND, SERVICE, Vm, ip, managed},
};

const PORTS: (u16, u16) = (40_000, 80);

/// The packet of one VM to the other, as it was sent and as it arrived.
fn sent(switch_box: &mut SwitchBox, packet: &Packet) -> [Vec<u8>; 2] {
    let ended = switch_box.one(packet);
    [packet.frame(), ended.sent.expect("steered").1]
}

/// RFC 5508, REQ-7; RFC 5508, REQ-7a: the receiver's side shows its address, the sender's what its VM knows.
/// RFC 7857, section 12.
#[test]
fn of_the_receiver_itself() {
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| (1..5).map(move |it| (pair, it))) {
        for [there, _] in CONVERSATIONS {
            let (mut switch_box, one, other) = two_sides(shards, modes);
            let packet = one.says(SECOND, PORTS, there).with_payload(b"a question");
            let [as_sent, as_arrived] = sent(&mut switch_box, &packet);
            for (body, quoted) in ERRORS.into_iter().flat_map(|it| QUOTED.map(|len| (it, len))) {
                let says = about(&as_arrived, quoted, body, other.speaks_as(), SERVICE);
                let ended = switch_box.one(&says.on(other.vm.backend.port));
                let seen = assert_quotes(&ended, &as_sent, quoted);
                assert_eq!((seen.port, seen.source), (one.vm.backend.port, SECOND), "{modes:?}");
                assert_eq!(seen.destination, one.speaks_as());
            }
            assert_moved!(switch_box, ToSource 17);
        }
    }
}

/// The same of a router between the box and the receiver, which keeps its address (RFC 5508, REQ-7a).
#[test]
fn of_a_router_before_the_receiver() {
    let router = FAR_CLIENT + 9;
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| (1..5).map(move |it| (pair, it))) {
        let (mut switch_box, one, other) = two_sides(shards, modes);
        let packet = one.says(SECOND, PORTS, Body::Udp).with_payload(b"a question");
        let [as_sent, as_arrived] = sent(&mut switch_box, &packet);
        for body in ERRORS {
            for port in [other.vm.backend.port, OTHER_PORT] {
                let says = about(&as_arrived, 1000, body, router, SERVICE).on(port);
                let seen = assert_quotes(&switch_box.one(&says), &as_sent, 1000);
                assert_eq!((seen.port, seen.source), (one.vm.backend.port, router), "{modes:?}");
                assert_eq!(seen.destination, one.speaks_as());
            }
        }
        assert_moved!(switch_box, ToSource 9);
        // About what was never sent.
        let unsent = one.says(SECOND, (1, 80), Body::Udp).with_payload(b"a question");
        let unsent = Packet { source: SERVICE, destination: other.speaks_as(), ..unsent };
        let says = about(&unsent.frame(), 1000, ERRORS[0], router, SERVICE).on(OTHER_PORT);
        switch_box.one(&says);
        assert_moved!(switch_box, IcmpUnmatched 1);
    }
}

/// About the answer of a VM that was called by its own address, and about the call.
#[test]
fn where_a_vm_was_called_by_its_own_address() {
    for shards in 1..5 {
        let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::Nat));
        let call = one.says(other.vm.locator, PORTS, Body::Udp).with_payload(b"a question");
        let [call_sent, call_arrived] = sent(&mut switch_box, &call);
        let answer = other.says(SERVICE, (80, 40_000), Body::Udp).with_payload(b"an answer");
        let [answer_sent, answer_arrived] = sent(&mut switch_box, &answer);
        for (by, to, error_to, arrived, sent) in [
            (other, one, SERVICE, &call_arrived, &call_sent),
            (one, other, other.vm.locator, &answer_arrived, &answer_sent),
        ] {
            for source in [by.speaks_as(), FAR_CLIENT + 9] {
                let says = about(arrived, 1000, ERRORS[0], source, error_to);
                let ended = switch_box.one(&says.on(by.vm.backend.port));
                let seen = assert_quotes(&ended, sent, 1000);
                assert_eq!((seen.port, seen.destination), (to.vm.backend.port, to.speaks_as()));
            }
        }
    }
}

/// `packet` of `one` goes no further; its VM hears of it as it sent it, from this address.
#[track_caller]
fn assert_told(switch_box: &mut SwitchBox, one: &Side, packet: &Packet, from: u32, said: About) {
    let frame = packet.frame();
    let ended = switch_box.one(packet);
    let (source, destination, about, _) = error(&ended);
    assert_eq!((source, destination, about), (from, one.speaks_as(), said));
    let seen = assert_quotes(&ended, &frame, MOST_QUOTED);
    assert_eq!(seen.port, one.vm.backend.port);
}

/// RFC 5508, REQ-10: the hop that is the last is that of the sender's side, or that of the receiver's.
#[test]
fn time_to_live_ends() {
    for shards in 1..5 {
        for body in [Body::Udp, tcp(SYN), tcp(ACK), Body::EchoRequest] {
            let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::Nat));
            let packet = one.says(SECOND, (80, 80), body).with_payload(b"a question");
            let first = packet.clone().with_ttl(1);
            assert_told(&mut switch_box, &one, &first, BOX, About::TimeExceeded);
            let second = packet.clone().with_ttl(2);
            assert_told(&mut switch_box, &one, &second, SECOND, About::TimeExceeded);
            let seen = switch_box.one(&packet.with_ttl(3)).seen();
            assert_eq!((seen.port, seen.ttl), (other.vm.backend.port, 1));
            // The second time the error goes to the VM as any client's router's would.
            assert_moved!(switch_box, TtlExpiredAnswered 1, ToSource 2);
        }
        // To a VM's own address the box speaks in its own name.
        let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::Nat));
        let packet = one.says(other.vm.locator, PORTS, Body::Udp).with_ttl(2);
        assert_told(&mut switch_box, &one, &packet, BOX, About::TimeExceeded);
        // What the guest counts itself, the box does not.
        let (mut switch_box, one, other) = two_sides(shards, (Mode::L2, Mode::L2));
        let seen = switch_box.one(&one.says(SECOND, PORTS, Body::Udp).with_ttl(1)).seen();
        assert_eq!((seen.port, seen.ttl), (other.vm.backend.port, 1));
    }
}

/// The receiver is behind a tunnel, in which less fits.
#[test]
fn too_big_for_the_receivers_tunnel() {
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| (1..5).map(move |it| (pair, it))) {
        let tunnel: PortId = TUNNELS[2];
        let fits = MTU - overhead(tunnel);
        let one = Side { address: SERVICE, vm: Vm::old(1, modes.0) };
        let other = Side { address: SECOND, vm: Vm::behind(tunnel, 2, modes.1) };
        let mut switch_box = SwitchBox::new(shards, one.vm);
        let beside = ManagedAddress { address: ip(SECOND), ..managed(other.vm) };
        switch_box.install_beside(Some(beside));
        let packet = one.says(SECOND, PORTS, Body::Udp);
        let ended = switch_box.one(&long(packet.clone(), fits));
        assert_eq!(ended.seen().port, tunnel);
        let packet = long(packet, fits + 1);
        assert_told(&mut switch_box, &one, &packet, SECOND, About::TooBig(fits));
        // Nobody is told about an error.
        let answer = other.says(SERVICE, (80, 40_000), Body::Udp).with_payload(b"an answer");
        let (device, wire) = onto_wire(tunnel, answer.frame());
        let arrived = switch_box.frames(vec![(device, wire)]).remove(0).sent.expect("sent").1;
        let error = about(&arrived, 1000, ERRORS[0], one.speaks_as(), SECOND);
        let ended = switch_box.one(&error.on(one.vm.backend.port));
        assert_eq!(ended.seen().port, tunnel);
    }
}
