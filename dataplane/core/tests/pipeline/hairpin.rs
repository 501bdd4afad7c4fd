//! From one VM of the box to another, each behind its managed address: each has a session with the other.

use tidegate_dataplane::{
    pipeline::Outcome,
    session::SessionRecord,
    steering::{Cutover, Destination, ManagedAddress, PortId, Unknown},
};

use super::fragments::{self, ORDERS, PAYLOAD, in_three, long, whole};
use crate::switch_box::{
    Ended, SwitchBox, assert_moved,
    carrier::{QINQ, TUNNELS, VLAN},
    traffic::{ACK, Body, Flow, GIVEN_UP, Packet, RST, SYN, SYN_ACK, segment, tcp},
    world::{
        CLIENT, Mode, NEW_PORT, OLD_PORT, OTHER_PORT, SECOND, SERVICE, UPLINK, Vm, ip, managed,
    },
};

pub(crate) const PAIRS: [(Mode, Mode); 4] =
    [(Mode::Nat, Mode::Nat), (Mode::Nat, Mode::L2), (Mode::L2, Mode::Nat), (Mode::L2, Mode::L2)];
const PORT: u16 = 40_000;

/// A managed address and a VM behind it.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) address: u32,
    pub(crate) vm: Vm,
}

impl Side {
    /// The address under which its VM serves, as the VM knows it.
    pub(crate) fn speaks_as(&self) -> u32 {
        if self.vm.mode() == Mode::L2 { self.address } else { self.vm.locator }
    }

    /// A packet of this VM to another address.
    pub(crate) fn says(&self, to: u32, ports: (u16, u16), body: Body) -> Packet {
        Packet {
            port: self.vm.backend.port,
            source: self.speaks_as(),
            destination: to,
            source_port: ports.0,
            destination_port: ports.1,
            ..Flow::new(CLIENT, 0).to_service(body)
        }
    }

    fn hops(&self) -> u8 {
        u8::from(self.vm.mode() == Mode::Nat)
    }
}

/// A box before two VMs, one behind [`SERVICE`] and one behind [`SECOND`].
pub(crate) fn two_sides(shards: u16, (one, other): (Mode, Mode)) -> (SwitchBox, Side, Side) {
    let one = Side { address: SERVICE, vm: Vm::old(1, one) };
    let other = Side { address: SECOND, vm: Vm::new(2, other) };
    let mut switch_box = SwitchBox::new(shards, one.vm);
    switch_box.install_beside(Some(second(other.vm)));
    (switch_box, one, other)
}

/// The second address at rest.
fn second(vm: Vm) -> ManagedAddress {
    ManagedAddress { address: ip(SECOND), ..managed(vm) }
}

/// The second address, cut over to `to`.
fn second_cut_over(from: Vm, to: Vm) -> ManagedAddress {
    let cut_over = Some(Cutover { unknown_tcp: Unknown::Source, ..Cutover::default() });
    let destination = Some(Destination { backend: to.backend, cut_over });
    ManagedAddress { epoch: 2, destination, ..second(from) }
}

/// `from` says it to the address of `to`, whose VM gets it as from any client.
#[track_caller]
fn assert_reaches(
    switch_box: &mut SwitchBox,
    from: &Side,
    to: &Side,
    ports: (u16, u16),
    body: Body,
) {
    let packet = from.says(to.address, ports, body).with_payload(b"from VM to VM");
    let seen = switch_box.one(&packet).seen();
    assert_eq!((seen.port, seen.to_mac), (to.vm.backend.port, to.vm.backend.mac), "{body:?}");
    assert_eq!((seen.source, seen.destination), (from.address, to.speaks_as()), "{body:?}");
    assert_eq!(seen.ttl, 64 - from.hops() - to.hops());
    if !matches!(body, Body::Protocol(_)) {
        let identifier = packet.identifier();
        let is_echo = matches!(body, Body::EchoRequest | Body::EchoReply);
        let expected = if is_echo { (identifier, identifier) } else { ports };
        assert_eq!((seen.source_port, seen.destination_port), expected, "{body:?}");
    }
    assert!(seen.payload.ends_with(b"from VM to VM"));
}

/// What is known of the session that somebody has with `address`.
fn session_with(switch_box: &SwitchBox, address: u32) -> Option<SessionRecord> {
    switch_box.sessions_of(&[ip(address)]).into_iter().next()
}

/// RFC 4787, REQ-9, and with the outside address as source: RFC 4787, REQ-9a; RFC 5382, REQ-8. Echoes: RFC 5508, REQ-7;
/// RFC 7857, section 12.
#[test]
fn both_ways_in_every_mode() {
    let conversations = [
        [tcp(SYN), tcp(SYN_ACK)],
        [Body::Udp, Body::Udp],
        [Body::UdpWithoutChecksum, Body::UdpWithoutChecksum],
        [Body::Protocol(132), Body::Protocol(132)],
    ];
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| (1..5).map(move |it| (pair, it))) {
        for [there, back] in conversations {
            let (mut switch_box, one, other) = two_sides(shards, modes);
            for _ in 0..2 {
                assert_reaches(&mut switch_box, &one, &other, (PORT, 80), there);
                assert_reaches(&mut switch_box, &other, &one, (80, PORT), back);
            }
            assert_moved!(switch_box, ToSource 4);
            assert_eq!((switch_box.live(one.vm), switch_box.live(other.vm)), (1, 1));
            let calling = session_with(&switch_box, SERVICE).expect("a session");
            assert_eq!((calling.tuple.client, calling.owner), (ip(SECOND), one.vm.backend.slot));
            let called = session_with(&switch_box, SECOND).expect("a session");
            assert_eq!((called.tuple.client, called.owner), (ip(SERVICE), other.vm.backend.slot));
        }
        // Echoes are between identifiers.
        let (mut switch_box, one, other) = two_sides(shards, modes);
        assert_reaches(&mut switch_box, &one, &other, (PORT, PORT), Body::EchoRequest);
        assert_reaches(&mut switch_box, &other, &one, (PORT, PORT), Body::EchoReply);
        assert_eq!(switch_box.sessions().len(), 2);
    }
}

#[test]
fn a_burst_of_both_and_of_others_keeps_its_order() {
    for shards in 1..5 {
        let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::L2));
        let flow = Flow::new(CLIENT, 7);
        let mut burst = Vec::new();
        for port in 0..20 {
            burst.push(one.says(SECOND, (port, 80), tcp(SYN)));
            burst.push(flow.to_service(Body::Udp));
            burst.push(one.says(SECOND, (port, 80), GIVEN_UP));
        }
        let ended = switch_box.feed(&burst);
        for (packet, ended) in burst.iter().zip(&ended) {
            let to = if packet.destination == SECOND { other.vm } else { one.vm };
            assert_eq!(ended.seen().port, to.backend.port);
        }
        // Had one overtaken the other, there would be a session without end.
        assert_eq!((switch_box.live(one.vm), switch_box.live(other.vm)), (1, 0));
    }
}

/// A VM may call the address it serves under, and is its own client then (RFC 5382, REQ-8).
#[test]
fn a_vm_calls_itself() {
    for shards in 1..5 {
        let (mut switch_box, one, _) = two_sides(shards, (Mode::Nat, Mode::Nat));
        for (there, back) in [(tcp(SYN), tcp(SYN_ACK)), (Body::Udp, Body::Udp)] {
            assert_reaches(&mut switch_box, &one, &one, (PORT, 80), there);
            assert_reaches(&mut switch_box, &one, &one, (80, PORT), back);
        }
        assert_eq!(switch_box.live(one.vm), 4);
        // From a port to the same: both of its sessions are the same.
        assert_reaches(&mut switch_box, &one, &one, (PORT, PORT), Body::EchoRequest);
        assert_reaches(&mut switch_box, &one, &one, (PORT, PORT), Body::EchoReply);
        assert_eq!(switch_box.live(one.vm), 5);
        assert_moved!(switch_box, ToSource 6);
    }
}

/// Both addresses migrate, one after the other: old conversations stay where both their ends are, new ones go.
#[test]
fn during_migrations_of_both() {
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| [1, 3].map(move |it| (pair, it))) {
        let (mut switch_box, one, other) = two_sides(shards, modes);
        let new_one = Side { vm: Vm::behind(VLAN, 3, modes.1), ..one };
        let new_other = Side { vm: Vm::behind(QINQ, 4, modes.0), ..other };
        assert_reaches(&mut switch_box, &one, &other, (1, 80), tcp(SYN));
        switch_box.set_destination(new_one.vm);
        assert_eq!(switch_box.cutover(Unknown::Source), 1);
        assert_reaches(&mut switch_box, &other, &one, (80, 1), tcp(SYN_ACK));
        assert_reaches(&mut switch_box, &new_one, &other, (2, 80), tcp(SYN));
        assert_reaches(&mut switch_box, &other, &new_one, (80, 2), tcp(SYN_ACK));
        assert_reaches(&mut switch_box, &other, &new_one, (3, 80), Body::Udp);

        switch_box.install_beside(Some(second_cut_over(other.vm, new_other.vm)));
        assert_reaches(&mut switch_box, &one, &other, (1, 80), tcp(ACK));
        assert_reaches(&mut switch_box, &new_one, &other, (2, 80), tcp(ACK));
        assert_reaches(&mut switch_box, &new_one, &new_other, (4, 80), tcp(SYN));
        assert_reaches(&mut switch_box, &new_other, &new_one, (80, 4), tcp(SYN_ACK));
        let live = [one, new_one, other, new_other].map(|side| switch_box.live(side.vm));
        assert_eq!(live, [1, 3, 3, 1], "{modes:?}");
        // The source of the first is let go of when its one conversation has ended.
        assert_reaches(&mut switch_box, &other, &one, (80, 1), segment(ACK, 1001, 2000));
        assert_reaches(&mut switch_box, &one, &other, (1, 80), segment(RST, 2000, 0));
        switch_box.advance(switch_box.timeouts.tcp_reset_ms + 1);
        switch_box.sweep();
        let live = [one, new_one, other, new_other].map(|side| switch_box.live(side.vm));
        assert_eq!(live, [0, 3, 2, 1], "{modes:?}");
    }
}

/// Whose words they are is asked on the way out, as for words to any client; the receiver hears nothing of what is refused.
#[test]
fn a_clone_has_no_more_rights_towards_a_vm() {
    let (mut switch_box, one, other) = two_sides(2, (Mode::L2, Mode::Nat));
    let twin = Side { vm: Vm::behind(VLAN, 3, Mode::L2), ..one };
    let says = |side: &Side, port, body| side.says(SECOND, (port, 80), body);
    switch_box.one(&says(&twin, 1, tcp(SYN)));
    assert_moved!(switch_box, Spoofed 1);
    assert_reaches(&mut switch_box, &one, &other, (1, 80), tcp(SYN));
    switch_box.set_destination(twin.vm);
    switch_box.moved();
    switch_box.one(&says(&twin, 2, tcp(SYN)));
    assert_moved!(switch_box, BeforeCutover 1);
    switch_box.cutover(Unknown::Source);
    switch_box.one(&says(&twin, 1, tcp(RST)));
    switch_box.one(&says(&twin, 2, tcp(ACK)));
    assert_moved!(switch_box, OtherOwner 1, StaleClone 1);
    assert_eq!((switch_box.live(other.vm), switch_box.sessions().len()), (1, 2));
    // Nor does anybody speak as a VM who is none.
    for port in [UPLINK, OTHER_PORT, NEW_PORT] {
        switch_box.one(&says(&one, 3, Body::Udp).on(port));
    }
    assert_moved!(switch_box, Spoofed 3);
}

/// One may call the other by its own address, and be answered.
#[test]
fn by_a_vms_own_address() {
    for shards in 1..5 {
        let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::Nat));
        for (there, back) in [(tcp(SYN), tcp(SYN_ACK)), (Body::Udp, Body::Udp)] {
            let seen = switch_box.one(&one.says(other.vm.locator, (PORT, 80), there)).seen();
            assert_eq!((seen.port, seen.source), (NEW_PORT, SERVICE));
            assert_eq!((seen.destination, seen.ttl), (other.vm.locator, 62));
            let seen = switch_box.one(&other.says(SERVICE, (80, PORT), back)).seen();
            assert_eq!((seen.port, seen.source), (OLD_PORT, other.vm.locator));
            assert_eq!((seen.destination, seen.ttl), (one.vm.locator, 62));
        }
        assert_moved!(switch_box, Forwarded 2, ToSource 2);
        assert_eq!((switch_box.live(one.vm), switch_box.live(other.vm)), (2, 2));
    }
}

/// Before it serves, a destination with an address of its own uses that: it is a client of all, of its own source too.
#[test]
fn a_destination_before_cutover() {
    for shards in 1..5 {
        let (mut switch_box, one, other) = two_sides(shards, (Mode::Nat, Mode::Nat));
        let vm = Vm::behind(VLAN, 3, Mode::Nat);
        let new = Side { vm, ..one };
        switch_box.set_destination(vm);
        for side in [one, other] {
            let seen = switch_box.one(&new.says(side.address, (PORT, 80), tcp(SYN))).seen();
            assert_eq!((seen.port, seen.source), (side.vm.backend.port, vm.locator));
            assert_eq!((seen.destination, seen.ttl), (side.vm.locator, 62));
        }
        assert_moved!(switch_box, ToSource 2);
        assert_eq!((switch_box.live(one.vm), switch_box.live(other.vm)), (1, 1));
        assert_eq!(switch_box.live(vm), 0);
    }
}

/// An address without sessions is one side or both.
#[test]
fn where_no_sessions_are_kept() {
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| [1, 3].map(move |it| (pair, it))) {
        for kept in [(false, true), (true, false), (false, false)] {
            let (mut switch_box, one, other) = two_sides(shards, modes);
            let at_rest = switch_box.address;
            switch_box.install(ManagedAddress { tracked: kept.0, ..at_rest }, &[]);
            let beside = ManagedAddress { tracked: kept.1, ..second(other.vm) };
            switch_box.install_beside(Some(beside));
            assert_reaches(&mut switch_box, &one, &other, (PORT, 80), tcp(SYN));
            assert_reaches(&mut switch_box, &other, &one, (80, PORT), tcp(SYN_ACK));
            assert_moved!(switch_box, ToSource 2);
            let live = (switch_box.live(one.vm), switch_box.live(other.vm));
            assert_eq!(live, (u32::from(kept.0), u32::from(kept.1)));
        }
    }
}

/// A tunnel is a port like others.
#[test]
fn through_tunnels() {
    for (near, far) in TUNNELS.into_iter().zip(TUNNELS.into_iter().cycle().skip(1)) {
        for (modes, shards) in PAIRS.into_iter().zip([1, 2, 3, 4]) {
            let one = Side { address: SERVICE, vm: Vm::behind(near, 1, modes.0) };
            let other = Side { address: SECOND, vm: Vm::behind(far, 2, modes.1) };
            let mut switch_box = SwitchBox::new(shards, one.vm);
            switch_box.install_beside(Some(second(other.vm)));
            for (from, to, ports, body) in
                [(one, other, (PORT, 80), tcp(SYN)), (other, one, (80, PORT), tcp(SYN_ACK))]
            {
                let seen = switch_box.one(&from.says(to.address, ports, body)).seen();
                assert_eq!((seen.port, seen.source), (to.vm.backend.port, from.address));
                assert_eq!((seen.destination, seen.source_port), (to.speaks_as(), ports.0));
            }
            assert_moved!(switch_box, ToSource 2);
        }
    }
}

/// Each pass has its own gatherer, and perhaps its own session's shard.
#[test]
fn fragments_in_every_order() {
    for (modes, shards) in PAIRS.into_iter().flat_map(|pair| (1..5).map(move |it| (pair, it))) {
        let (mut switch_box, one, other) = two_sides(shards, modes);
        let mut identification = 0;
        for (port, order) in (1..5).flat_map(|port| ORDERS.map(move |order| (port, order))) {
            for one_by_one in [false, true] {
                identification += 1;
                let packet = long(one.says(SECOND, (port, 80), Body::Udp));
                let pieces = in_three(&packet, identification);
                let frames = order.iter().map(|&at| pieces[at].clone()).collect();
                let ended = fragments::feed(&mut switch_box, frames, one_by_one);
                let late: Vec<Ended> = ended.into_iter().flatten().collect();
                assert_eq!(late.len(), 3, "{shards} shards, {order:?}");
                let seen = whole(&late);
                assert_eq!((seen.port, seen.source), (other.vm.backend.port, SERVICE));
                assert_eq!((seen.destination, seen.payload), (other.speaks_as(), PAYLOAD.to_vec()));
                assert_eq!((seen.source_port, seen.destination_port), (port, 80));
            }
        }
        assert_eq!(switch_box.live(other.vm), 4);
        assert_moved!(switch_box, ToSource 4 * 6 * 2 * 3);
    }
}

/// What is on its way from one worker to another while an address goes is as from any client to nobody.
#[test]
fn the_receiver_goes_meanwhile() {
    let (mut switch_box, one, _) = two_sides(1, (Mode::L2, Mode::L2));
    let frame = one.says(SECOND, (PORT, 80), Body::Udp).frame();
    let ended = switch_box.frames(vec![(PortId::HAIRPIN, frame.clone())]).remove(0);
    assert_eq!(ended.outcome, Outcome::ToSource);
    switch_box.install_beside(None);
    switch_box.frames(vec![(PortId::HAIRPIN, frame.clone()), (PortId(u16::MAX - 1), frame)]);
    assert_moved!(switch_box, ToSource 1, NeighbourUnknown 1, NotForUs 1);
}
