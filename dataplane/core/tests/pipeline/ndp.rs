//! Neighbour discovery: what is answered, what is learned. What `arp.rs` is over IPv4.

use std::net::IpAddr;

use etherparse::{Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
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
        KERNEL_UPLINK, LINK_LOCAL_GATEWAY, Mode, OLD_PORT, OTHER_PORT, ROUTER, SERVICE, SILENT,
        TAGGED_CLIENT, TWIN, UNROUTED, UPLINK, Vm, host_mac, ip, port_mac,
    },
};

/// Kinds of options, and an advertisement's flags.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// A guest on its own link.
const GUEST: u128 = 0xfe80 << 112 | 0x99;
const GUEST_MAC: Mac = Mac([6, 0, 0, 0, 0, 0x99]);
const ALL_NODES: u128 = 0xff02 << 112 | 1;

fn bits(address: u32) -> u128 {
    of(ip(address))
}

fn of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V6(address) => address.to_bits(),
        IpAddr::V4(address) => panic!("{address} is of IPv4"),
    }
}

/// The solicited-node group of an address (RFC 4291, section 2.7.1).
fn group(address: u128) -> u128 {
    0xff02 << 112 | 0x1_ff00_0000 | (address & 0xff_ffff)
}

fn option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], &mac.0[..]].concat()
}

/// An ICMPv6 message from `sender` with its MAC, to a group of the link.
fn frame(
    (sender, mac): (u128, Mac),
    to: u128,
    kind: (u8, u8),
    target: u128,
    options: &[u8],
) -> Vec<u8> {
    let [a, b, c, d] = (to as u32).to_be_bytes();
    let builder = PacketBuilder::ethernet2(mac.0, [0x33, 0x33, a, b, c, d])
        .ipv6(sender.to_be_bytes(), to.to_be_bytes(), 255)
        .icmpv6_raw(kind.0, 0, [kind.1, 0, 0, 0]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[&target.to_be_bytes(), options].concat()).expect("a frame");
    frame
}

/// `sender` asks who `target` is, and says who it is itself.
fn solicitation(sender: u128, mac: Mac, target: u128) -> Vec<u8> {
    let options = if sender == 0 { Vec::new() } else { option(SOURCE, mac) };
    frame((sender, mac), group(target), (135, 0), target, &options)
}

/// `target` says to all that it is at `mac`.
fn advertisement(target: u128, mac: Mac, flags: u8) -> Vec<u8> {
    frame((target, mac), ALL_NODES, (136, flags), target, &option(TARGET, mac))
}

fn one(switch_box: &mut SwitchBox, port: PortId, frame: Vec<u8>) -> Ended {
    switch_box.frames(vec![onto_wire(port, frame)]).remove(0)
}

fn ask(switch_box: &mut SwitchBox, port: PortId, sender: u32, target: u32) -> Ended {
    one(switch_box, port, solicitation(bits(sender), host_mac(sender), bits(target)))
}

/// Assert that `ended` says "`target` is at `mac`" to these, out of `port`, as a router or as a host.
#[track_caller]
fn assert_told(ended: &Ended, port: PortId, to: (u128, Mac), target: u128, is_router: bool) {
    let (out, frame) = ended.sent.as_ref().expect("an answer");
    assert_eq!(*out, port);
    assert_eq!(frame[..12], [to.1.0, port_mac(port).0].concat());
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let ip = packet.net.as_ref().and_then(|net| net.ipv6_ref()).expect("IPv6").header();
    assert_eq!((ip.source(), ip.destination()), (target.to_be_bytes(), to.0.to_be_bytes()));
    assert_eq!((ip.hop_limit(), frame.len()), (255, 14 + 40 + usize::from(ip.payload_length())));
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(ip.source(), ip.destination()), "checksum");
    let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else { panic!("type") };
    assert_eq!((flags.router, flags.solicited), (is_router, to.0 != ALL_NODES));
    assert!(flags.r#override);
    let said = [&target.to_be_bytes(), &option(TARGET, port_mac(port))[..]].concat();
    assert_eq!(icmp.payload(), said);
}

#[track_caller]
fn assert_answer(ended: &Ended, port: PortId, asker: u32, target: u32, is_router: bool) {
    assert_told(ended, port, (bits(asker), host_mac(asker)), bits(target), is_router);
}

fn learned(port: PortId, address: u32, mac: Mac) -> Punt {
    Punt::Neighbour { port, address: ip(address), mac, overrides: true }
}

fn at_rest() -> SwitchBox {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    // Links and groups are not of the network that `wire` knows; what leaves is judged here.
    switch_box.verify = false;
    switch_box
}

fn hosting() -> SwitchBox {
    let mut switch_box = at_rest();
    let address = ManagedAddress { hosted: true, ..switch_box.address };
    switch_box.install(address, &[]);
    switch_box
}

#[test]
fn own_addresses_are_answered_where_they_are_as_a_router_s() {
    let mut switch_box = at_rest();
    assert_answer(&ask(&mut switch_box, UPLINK, CLIENT, BOX), UPLINK, CLIENT, BOX, true);
    let inside = ask(&mut switch_box, OTHER_PORT, BYSTANDER, BOX_INSIDE);
    assert_answer(&inside, OTHER_PORT, BYSTANDER, BOX_INSIDE, true);
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, BOX_INSIDE).outcome, Outcome::NeighbourSeen);
    assert_eq!(ask(&mut switch_box, OTHER_PORT, BYSTANDER, BOX).outcome, Outcome::NeighbourSeen);
    assert_moved!(switch_box, NeighbourAnswered 2, NeighbourSeen 2);
}

#[test]
fn a_guest_finds_its_gateway_on_its_own_link_alone() {
    let mut switch_box = at_rest();
    let gateway = of(LINK_LOCAL_GATEWAY.into());
    let ended = one(&mut switch_box, OLD_PORT, solicitation(GUEST, GUEST_MAC, gateway));
    assert_told(&ended, OLD_PORT, (GUEST, GUEST_MAC), gateway, true);
    // Later it looks whether the gateway is still there, without saying who it is (RFC 4861, section 7.2.2).
    let mut still_there = frame((GUEST, GUEST_MAC), gateway, (135, 0), gateway, &[]);
    still_there[..6].copy_from_slice(&port_mac(OLD_PORT).0);
    let ended = one(&mut switch_box, OLD_PORT, still_there);
    assert_told(&ended, OLD_PORT, (GUEST, GUEST_MAC), gateway, true);
    let elsewhere = one(&mut switch_box, UPLINK, solicitation(GUEST, GUEST_MAC, gateway));
    assert_eq!(elsewhere.outcome, Outcome::NeighbourSeen);
    assert_moved!(switch_box, NeighbourAnswered 2, NeighbourSeen 1);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn a_managed_address_is_answered_as_a_host_s_while_hosted_and_only_on_the_uplink() {
    let mut switch_box = at_rest();
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, SERVICE).outcome, Outcome::NeighbourSeen);

    let mut switch_box = hosting();
    assert_answer(&ask(&mut switch_box, UPLINK, CLIENT, SERVICE), UPLINK, CLIENT, SERVICE, false);
    for port in [OLD_PORT, OTHER_PORT] {
        let ended = ask(&mut switch_box, port, BYSTANDER, SERVICE);
        assert_eq!(ended.outcome, Outcome::NeighbourSeen);
    }
    assert_moved!(switch_box, NeighbourAnswered 1, NeighbourSeen 2);

    switch_box.set_destination(Vm::new(2, Mode::L2));
    switch_box.release();
    assert_eq!(ask(&mut switch_box, UPLINK, CLIENT, SERVICE).outcome, Outcome::NeighbourSeen);
}

#[test]
fn who_looks_for_duplicates_is_told_with_all_others() {
    let mut switch_box = hosting();
    for (target, is_router) in [(BOX, true), (SERVICE, false)] {
        let probe = solicitation(0, host_mac(CLIENT), bits(target));
        let ended = one(&mut switch_box, UPLINK, probe);
        let all = (ALL_NODES, Mac([0x33, 0x33, 0, 0, 0, 1]));
        assert_told(&ended, UPLINK, all, bits(target), is_router);
    }
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn advertised_neighbours_are_learned_once() {
    let mut switch_box = hosting();
    let stranger = advertisement(bits(SILENT), host_mac(SILENT), OVERRIDE);
    switch_box.frames(vec![(UPLINK, stranger.clone()), (UPLINK, stranger)]);
    assert_eq!(switch_box.take_punts(), [learned(UPLINK, SILENT, host_mac(SILENT))]);
    assert_eq!(switch_box.take_punts(), []);
    assert_moved!(switch_box, NeighbourSeen 2);
}

#[test]
fn an_answer_is_learned_and_says_whether_it_overrides() {
    let mut switch_box = hosting();
    let options = option(TARGET, host_mac(SILENT));
    for (flags, overrides) in [(SOLICITED | OVERRIDE, true), (SOLICITED, false)] {
        let sender = (bits(SILENT), host_mac(SILENT));
        let mut answer = frame(sender, bits(BOX), (136, flags), bits(SILENT), &options);
        answer[..6].copy_from_slice(&port_mac(UPLINK).0);
        one(&mut switch_box, UPLINK, answer);
        let (port, address, mac) = (UPLINK, ip(SILENT), host_mac(SILENT));
        let learned = Punt::Neighbour { port, address, mac, overrides };
        assert_eq!(switch_box.take_punts(), [learned]);
    }
}

#[test]
fn who_asks_the_box_is_learned_if_it_says_its_mac() {
    let mut switch_box = hosting();
    for target in [BOX, SERVICE] {
        ask(&mut switch_box, UPLINK, SILENT, target);
        assert_eq!(switch_box.take_punts(), [learned(UPLINK, SILENT, host_mac(SILENT))]);
    }
    let sender = (bits(SILENT), host_mac(SILENT));
    let silent = frame(sender, group(bits(BOX)), (135, 0), bits(BOX), &[]);
    assert_eq!(one(&mut switch_box, UPLINK, silent).outcome, Outcome::NeighbourAnswered);
    // What is asked of others is not the box's to hear (RFC 4861, section 7.2.3).
    assert_eq!(ask(&mut switch_box, UPLINK, SILENT, CLIENT_2).outcome, Outcome::NeighbourSeen);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn a_changed_mac_is_learned_and_a_known_one_is_not() {
    let mut switch_box = hosting();
    ask(&mut switch_box, UPLINK, CLIENT, BOX);
    let known = advertisement(bits(ROUTER), host_mac(ROUTER), OVERRIDE);
    one(&mut switch_box, UPLINK, known);
    assert_eq!(switch_box.take_punts(), []);
    let moved = Mac([6, 9, 9, 9, 9, 9]);
    one(&mut switch_box, UPLINK, advertisement(bits(CLIENT), moved, OVERRIDE));
    assert_eq!(switch_box.take_punts(), [learned(UPLINK, CLIENT, moved)]);
}

#[test]
fn a_neighbour_behind_another_port_than_its_route_is_left_to_the_control_core() {
    let mut switch_box = hosting();
    ask(&mut switch_box, OTHER_PORT, SILENT, BOX_INSIDE);
    assert_eq!(switch_box.take_punts(), [learned(OTHER_PORT, SILENT, host_mac(SILENT))]);
    // No route says on which links a router's link-local address is.
    one(&mut switch_box, OTHER_PORT, advertisement(GUEST, GUEST_MAC, OVERRIDE));
    let address = std::net::Ipv6Addr::from_bits(GUEST).into();
    let noticed = Punt::Neighbour { port: OTHER_PORT, address, mac: GUEST_MAC, overrides: true };
    assert_eq!(switch_box.take_punts(), [noticed]);
}

#[test]
fn who_cannot_be_a_neighbour_is_not_learned() {
    let mut switch_box = hosting();
    // Without route, the managed address itself, and the box itself.
    for address in [UNROUTED, SERVICE, BOX] {
        ask(&mut switch_box, UPLINK, address, BOX);
        let told = advertisement(bits(address), host_mac(address), OVERRIDE);
        one(&mut switch_box, UPLINK, told);
    }
    let own = of(LINK_LOCAL_GATEWAY.into());
    one(&mut switch_box, OLD_PORT, advertisement(own, GUEST_MAC, OVERRIDE));
    one(&mut switch_box, UPLINK, advertisement(bits(SILENT), Mac::BROADCAST, OVERRIDE));
    let sender = (bits(SILENT), host_mac(SILENT));
    let nowhere = frame(sender, ALL_NODES, (136, OVERRIDE), bits(SILENT), &[]);
    one(&mut switch_box, UPLINK, nowhere);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn what_is_not_valid_is_neither_answered_nor_learned() {
    let mut switch_box = hosting();
    let question = solicitation(bits(SILENT), host_mac(SILENT), bits(BOX));
    let told = advertisement(bits(SILENT), host_mac(SILENT), OVERRIDE);
    for good in [&question, &told] {
        // From beyond the link, cut short, damaged.
        let mut routed = good.clone();
        routed[21] = 254;
        let mut damaged = good.clone();
        damaged[70] ^= 1;
        for bad in [routed, good[..good.len() - 1].to_vec(), good[..55].to_vec(), damaged] {
            assert_eq!(one(&mut switch_box, UPLINK, bad).outcome, Outcome::BadNeighbour);
        }
        let (to, kind) = (group(bits(BOX)), (good[54], 0));
        for options in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[9, 2, 0, 0, 0, 0, 0, 0], &[2]] {
            let bad = frame((bits(SILENT), host_mac(SILENT)), to, kind, bits(BOX), options);
            assert_eq!(one(&mut switch_box, UPLINK, bad).outcome, Outcome::BadNeighbour);
        }
    }
    let answer_to_all = advertisement(bits(SILENT), host_mac(SILENT), SOLICITED);
    let options = option(SOURCE, host_mac(SILENT));
    let from_nowhere =
        frame((0, host_mac(SILENT)), group(bits(BOX)), (135, 0), bits(BOX), &options);
    for bad in [answer_to_all, from_nowhere] {
        assert_eq!(one(&mut switch_box, UPLINK, bad).outcome, Outcome::BadNeighbour);
    }
    assert_moved!(switch_box, BadNeighbour 16);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn other_messages_of_the_link_are_not_the_box_s() {
    let mut switch_box = hosting();
    for kind in [133, 134, 137] {
        let message = frame((GUEST, GUEST_MAC), ALL_NODES, (kind, 0), bits(BOX), &[]);
        assert_eq!(one(&mut switch_box, UPLINK, message).outcome, Outcome::Group);
    }
}

#[test]
fn what_is_the_kernel_s_is_left_to_it() {
    let mut switch_box = hosting();
    let (asker, mac) = (bits(KERNEL_CLIENT), host_mac(KERNEL_CLIENT));
    let mut beyond = solicitation(asker, mac, bits(BOX_BY_KERNEL));
    beyond[21] = 254;
    let questions = [
        solicitation(asker, mac, bits(BOX_BY_KERNEL)),
        advertisement(asker, mac, OVERRIDE),
        beyond,
    ];
    for question in questions {
        let ended = one(&mut switch_box, KERNEL_UPLINK, question.clone());
        assert_eq!(ended.sent, Some((TWIN, question)));
    }
    let hosted = ask(&mut switch_box, KERNEL_UPLINK, KERNEL_CLIENT, SERVICE);
    assert_answer(&hosted, KERNEL_UPLINK, KERNEL_CLIENT, SERVICE, false);
    assert_moved!(switch_box, ToHost 3, NeighbourAnswered 1);
    assert_eq!(switch_box.take_punts(), []);
}

#[test]
fn a_hosted_address_is_answered_for_with_tags() {
    let mut switch_box = hosting();
    let ended = ask(&mut switch_box, UPLINK_VLAN, TAGGED_CLIENT, SERVICE);
    assert_answer(&ended, UPLINK_VLAN, TAGGED_CLIENT, SERVICE, false);
    assert_eq!(ended.wire.expect("sent").0, UPLINK);
    let ended = ask(&mut switch_box, VLAN, TAGGED_CLIENT, SERVICE);
    assert_eq!(ended.outcome, Outcome::NeighbourSeen, "not towards guests");
}

/// A guest behind VXLAN asks who its gateway is, as on any link; the other tunnels have none.
#[test]
fn the_gateway_is_answered_for_inside_vxlan() {
    for port in TUNNELS {
        let guest = Vm::behind(port, 1, Mode::L2).locator;
        let mut switch_box = hosting();
        let ended = ask(&mut switch_box, port, guest, GATEWAY);
        ask(&mut switch_box, port, guest, GATEWAY + 7);
        if port == TUNNELS[2] || port == TUNNELS[5] {
            assert_answer(&ended, port, guest, GATEWAY, true);
            assert_eq!(ended.wire.expect("sent").0, OTHER_PORT);
            assert_moved!(switch_box, NeighbourAnswered 1, NeighbourSeen 1);
        } else {
            assert_moved!(switch_box, Group 2);
        }
    }
}
