//! ARP: what is answered, what is learned.

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, NetHeaders, PacketBuilder, PacketHeaders,
};
use tidegate_dataplane::{
    packet::Mac,
    pipeline::{Outcome, Punt},
    steering::{ManagedAddress, PortId},
};

use crate::switch_box::{
    Ended, SwitchBox, assert_moved,
    carrier::{TUNNELS, UPLINK_VLAN, VLAN, onto_wire},
    world::{
        BOX, BOX_BY_KERNEL, BOX_INSIDE, BYSTANDER, CLIENT, CLIENT_2, GATEWAY, KERNEL_CLIENT,
        KERNEL_UPLINK, Mode, OLD_PORT, OTHER_PORT, SERVICE, SILENT, TAGGED_CLIENT, TWIN, UNROUTED,
        UPLINK, Vm, host_mac, ip, port_mac,
    },
};

fn frame(operation: ArpOperation, sender: u32, sender_mac: Mac, target: u32, to: Mac) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender_mac.0,
        &sender.to_be_bytes(),
        &[0; 6],
        &target.to_be_bytes(),
    );
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(sender_mac.0, to.0).arp(arp.expect("an ARP packet"));
    builder.write(&mut frame).expect("a frame");
    frame.resize(60, 0);
    frame
}

fn request(sender: u32, target: u32) -> Vec<u8> {
    frame(ArpOperation::REQUEST, sender, host_mac(sender), target, Mac::BROADCAST)
}

fn ask(switch_box: &mut SwitchBox, port: PortId, sender: u32, target: u32) -> Ended {
    switch_box.frames(vec![onto_wire(port, request(sender, target))]).remove(0)
}

/// Assert that `ended` says "`target` is at `mac`" to `asker`, out of `port`.
#[track_caller]
fn assert_answer(ended: &Ended, port: PortId, asker: u32, target: u32) {
    let (out, frame) = ended.sent.as_ref().expect("an answer");
    assert_eq!(*out, port);
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("ARP");
    let Some(NetHeaders::Arp(arp)) = headers.net else { panic!("{headers:?}") };
    assert_eq!(arp.operation, ArpOperation::REPLY);
    assert_eq!(arp.sender_hw_addr(), port_mac(port).0);
    assert_eq!(arp.sender_protocol_addr(), target.to_be_bytes());
    assert_eq!(arp.target_hw_addr(), host_mac(asker).0);
    assert_eq!(arp.target_protocol_addr(), asker.to_be_bytes());
    assert_eq!((&frame[0..6], &frame[6..12]), (&host_mac(asker).0[..], &port_mac(port).0[..]));
}

fn hosting() -> SwitchBox {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let address = ManagedAddress { hosted: true, ..switch_box.address };
    switch_box.install(address, &[]);
    switch_box
}

#[test]
fn own_addresses_are_answered_where_they_are() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    assert_answer(&ask(&mut switch_box, UPLINK, CLIENT, BOX), UPLINK, CLIENT, BOX);
    let inside = ask(&mut switch_box, OTHER_PORT, BYSTANDER, BOX_INSIDE);
    assert_answer(&inside, OTHER_PORT, BYSTANDER, BOX_INSIDE);
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, BOX_INSIDE).outcome, Outcome::ArpSeen);
    assert_eq!(ask(&mut switch_box, OTHER_PORT, BYSTANDER, BOX).outcome, Outcome::ArpSeen);
    assert_moved!(switch_box, NeighbourAnswered 2, ArpSeen 2);
}

#[test]
fn a_managed_address_is_answered_only_while_hosted_and_only_on_the_uplink() {
    let mut at_rest = SwitchBox::new(1, Vm::old(1, Mode::L2));
    assert_eq!(ask(&mut at_rest, UPLINK, CLIENT, SERVICE).outcome, Outcome::ArpSeen);

    let mut switch_box = hosting();
    assert_answer(&ask(&mut switch_box, UPLINK, CLIENT, SERVICE), UPLINK, CLIENT, SERVICE);
    for port in [OLD_PORT, OTHER_PORT] {
        assert_eq!(ask(&mut switch_box, port, BYSTANDER, SERVICE).outcome, Outcome::ArpSeen);
    }
    assert_moved!(switch_box, NeighbourAnswered 1, ArpSeen 2);

    switch_box.set_destination(Vm::new(2, Mode::L2));
    switch_box.release();
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, SERVICE).outcome, Outcome::ArpSeen);
}

#[test]
fn other_addresses_and_replies_are_not_answered() {
    let mut switch_box = hosting();
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, CLIENT_2).outcome, Outcome::ArpSeen);
    let reply = frame(ArpOperation::REPLY, CLIENT, host_mac(CLIENT), SERVICE, port_mac(UPLINK));
    assert_eq!(switch_box.frames(vec![(UPLINK, reply)])[0].outcome, Outcome::ArpSeen);
    assert_moved!(switch_box, ArpSeen 2);
}

#[test]
fn frames_that_are_not_ipv4_over_ethernet_are_bad() {
    let mut switch_box = hosting();
    let whole = request(CLIENT, SERVICE);
    let mut other_protocol = whole.clone();
    other_protocol[16] = 0x86;
    let mut other_operation = whole.clone();
    other_operation[21] = 3;
    let bad = [whole[..41].to_vec(), whole[..14].to_vec(), other_protocol, other_operation];
    switch_box.frames(bad.map(|frame| (UPLINK, frame)).to_vec());
    assert_moved!(switch_box, BadArp 4);
}

#[test]
fn senders_on_the_link_are_learned_once() {
    let mut switch_box = hosting();
    let stranger = frame(ArpOperation::REPLY, SILENT, host_mac(SILENT), BOX, port_mac(UPLINK));
    switch_box.frames(vec![(UPLINK, stranger.clone()), (UPLINK, stranger)]);
    let learned = Punt::Neighbour {
        port: UPLINK,
        address: ip(SILENT),
        mac: host_mac(SILENT),
        overrides: true,
    };
    assert_eq!(switch_box.take_punts(), [learned]);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn a_changed_mac_is_learned_and_a_known_one_is_not() {
    let mut switch_box = hosting();
    ask(&mut switch_box, UPLINK, CLIENT, BOX);
    assert_eq!(switch_box.take_punts(), []);
    let moved = Mac([6, 9, 9, 9, 9, 9]);
    let announced = frame(ArpOperation::REQUEST, CLIENT, moved, CLIENT, Mac::BROADCAST);
    switch_box.frames(vec![(UPLINK, announced)]);
    let learned =
        Punt::Neighbour { port: UPLINK, address: ip(CLIENT), mac: moved, overrides: true };
    assert_eq!(switch_box.take_punts(), [learned]);
}

#[test]
fn a_sender_behind_another_port_than_its_route_is_left_to_the_control_core() {
    let mut switch_box = hosting();
    ask(&mut switch_box, OTHER_PORT, SILENT, BOX_INSIDE);
    let noticed = Punt::Neighbour {
        port: OTHER_PORT,
        address: ip(SILENT),
        mac: host_mac(SILENT),
        overrides: true,
    };
    assert_eq!(switch_box.take_punts(), [noticed]);
}

#[test]
fn senders_that_cannot_be_neighbours_are_not_learned() {
    let mut switch_box = hosting();
    // Without route, in a probe's place, and the managed address itself.
    ask(&mut switch_box, UPLINK, UNROUTED, BOX);
    ask(&mut switch_box, UPLINK, 0, BOX);
    ask(&mut switch_box, UPLINK, SERVICE, BOX);
    let group = frame(ArpOperation::REPLY, SILENT, Mac::BROADCAST, BOX, port_mac(UPLINK));
    switch_box.frames(vec![(UPLINK, group)]);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn what_is_the_kernel_s_is_left_to_it() {
    let mut switch_box = hosting();
    let ended = ask(&mut switch_box, KERNEL_UPLINK, KERNEL_CLIENT, BOX_BY_KERNEL);
    assert_eq!(ended.sent, Some((TWIN, request(KERNEL_CLIENT, BOX_BY_KERNEL))));
    let hosted = ask(&mut switch_box, KERNEL_UPLINK, KERNEL_CLIENT, SERVICE);
    assert_answer(&hosted, KERNEL_UPLINK, KERNEL_CLIENT, SERVICE);
    assert_moved!(switch_box, ToHost 1, NeighbourAnswered 1);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn a_hosted_address_is_answered_for_with_tags() {
    let mut switch_box = hosting();
    let ended = ask(&mut switch_box, UPLINK_VLAN, TAGGED_CLIENT, SERVICE);
    assert_answer(&ended, UPLINK_VLAN, TAGGED_CLIENT, SERVICE);
    assert_eq!(ended.wire.expect("sent").0, UPLINK);
    let ended = ask(&mut switch_box, VLAN, TAGGED_CLIENT, SERVICE);
    assert_eq!(ended.outcome, Outcome::ArpSeen, "not towards guests");
}

/// A guest behind VXLAN asks who its gateway is, as on any link.
#[test]
fn the_gateway_is_answered_for_inside_vxlan() {
    for port in [TUNNELS[2], TUNNELS[5]] {
        let guest = Vm::behind(port, 1, Mode::L2).locator;
        let mut switch_box = hosting();
        let ended = ask(&mut switch_box, port, guest, GATEWAY);
        assert_answer(&ended, port, guest, GATEWAY);
        assert_eq!(ended.wire.expect("sent").0, OTHER_PORT);
        ask(&mut switch_box, port, guest, GATEWAY + 7);
        assert_moved!(switch_box, NeighbourAnswered 1, ArpSeen 1);
    }
}
