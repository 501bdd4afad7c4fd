//! Sources that mean something on their link only: their packets leave it for nowhere, and nobody answers them by the routes
//! (RFC 4291, section 2.5.6).

use tidegate_dataplane::pipeline::Outcome;

use crate::{
    complaints::long,
    switch_box::{
        SwitchBox, assert_moved,
        carrier::{MTU, TUNNELS, onto_wire},
        traffic::{ACK, Body, Flow, Packet, SYN, UNREACHABLE, tcp},
        world::{
            BOX, BOX_BY_KERNEL, BYSTANDER, CLIENT, KERNEL_CLIENT, KERNEL_UPLINK, Mode, SERVICE,
            TWIN, UNROUTED, Vm,
        },
    },
};

/// The same from `fe80::99`; ICMP has a checksum that is wrong now, which nobody looks at.
fn on_the_link(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[14 + 8..14 + 24].copy_from_slice(&(0xfe80_u128 << 112 | 0x99).to_be_bytes());
    frame
}

#[test]
fn nothing_of_them_leaves_the_link() {
    for mode in [Mode::L2, Mode::Nat] {
        let vm = Vm::old(1, mode);
        let mut switch_box = SwitchBox::new(1, vm);
        let flow = Flow::new(CLIENT, 7);
        let mut packets = Vec::new();
        let bodies = [Body::Udp, tcp(SYN), tcp(ACK), Body::EchoRequest, Body::Protocol(50)];
        for body in
            bodies.into_iter().chain([Body::FirstFragment, Body::LaterFragment, UNREACHABLE])
        {
            let there = [BYSTANDER, SERVICE, vm.locator, UNROUTED].map(|to| flow.to(to, body));
            packets.extend(there);
            packets.push(flow.sent_by(vm, body));
            packets.push(Flow::new(UNROUTED, 7).sent_by(vm, body));
        }
        packets.push(flow.to(BYSTANDER, Body::Udp).with_ttl(1));
        packets.push(flow.to(SERVICE, Body::Udp).with_ttl(1));
        packets.push(long(flow.to(BYSTANDER, Body::Udp), MTU + 1));
        packets.push(long(flow.to(SERVICE, Body::Udp), MTU + 1));
        for packet in packets {
            let frame = onto_wire(packet.port, on_the_link(&packet));
            let ended = switch_box.frames(vec![frame]).remove(0);
            assert_eq!(ended.outcome, Outcome::LinkLocalSource, "{packet:?}");
        }
        assert_eq!(switch_box.sessions(), []);
    }
}

/// What a guest says in a tunnel is on the link of the tunnel's port.
#[test]
fn nor_a_tunnel() {
    let mut switch_box = SwitchBox::new(1, Vm::behind(TUNNELS[2], 1, Mode::Nat));
    let packet = Flow::new(CLIENT, 7).to(BYSTANDER, Body::Udp).on(TUNNELS[2]);
    switch_box.frames(vec![onto_wire(TUNNELS[2], on_the_link(&packet))]);
    assert_moved!(switch_box, LinkLocalSource 1);
}

#[test]
fn the_box_itself_hears_them() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let to_box = Flow::new(CLIENT, 7).to(BOX, Body::EchoRequest);
    let by_kernel = Flow::new(KERNEL_CLIENT, 7).to(BOX_BY_KERNEL, Body::EchoRequest);
    let by_kernel = by_kernel.on(KERNEL_UPLINK);
    let frames = [to_box, by_kernel].map(|it| (it.port, on_the_link(&it)));
    switch_box.verify = false;
    let ended = switch_box.frames(frames.to_vec());
    assert_eq!(ended[1].sent.as_ref().map(|(port, _)| *port), Some(TWIN));
    assert_moved!(switch_box, ForHost 1, ToHost 1);
}
