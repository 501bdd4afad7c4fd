//! Ports that share a device under VLAN tags (IEEE 802.1Q, 802.1ad).

use tidegate_dataplane::{pipeline::Outcome, steering::Unknown};

use crate::switch_box::{
    SwitchBox, assert_moved,
    carrier::{QINQ, UPLINK_VLAN, VLAN},
    traffic::{Body, Flow, SYN, tcp},
    world::{
        BYSTANDER, CLIENT, Mode, OTHER_PORT, SERVICE, TAGGED_CLIENT, UPLINK, Vm, host_mac, port_mac,
    },
};

#[test]
fn in_by_one_vlan_and_out_by_another() {
    for (home, tags) in
        [(VLAN, &[0x81, 0, 0, 100][..]), (QINQ, &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 7])]
    {
        for mode in [Mode::Nat, Mode::L2] {
            let vm = Vm::behind(home, 1, mode);
            let mut switch_box = SwitchBox::new(1, vm);
            let flow = Flow::new(TAGGED_CLIENT, 7);
            let ended = switch_box.one(&flow.to_service(tcp(SYN)).on(UPLINK_VLAN));
            let seen = ended.seen();
            assert_eq!(
                (seen.port, seen.from_mac, seen.to_mac),
                (home, port_mac(home), vm.backend.mac)
            );
            let (device, frame) = ended.wire.expect("sent");
            assert_eq!((device, &frame[12..12 + tags.len()]), (OTHER_PORT, tags));
            let ended = switch_box.one(&flow.sent_by(vm, tcp(SYN)));
            let seen = ended.seen();
            assert_eq!(
                (seen.port, seen.source, seen.to_mac),
                (UPLINK_VLAN, SERVICE, host_mac(TAGGED_CLIENT))
            );
            assert_eq!(ended.wire.expect("sent").0, UPLINK);
            assert_moved!(switch_box, ToSource 1, ToClient 1);
        }
    }
}

#[test]
fn plain_forwarding_changes_tags() {
    let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::L2));
    let flow = Flow::new(TAGGED_CLIENT, 7);
    let seen = switch_box.one(&flow.to(BYSTANDER, Body::Udp).on(UPLINK_VLAN)).seen();
    assert_eq!((seen.port, seen.ttl), (OTHER_PORT, 63));
    let back = Flow::new(BYSTANDER, 7).to(TAGGED_CLIENT, Body::Udp).on(OTHER_PORT);
    assert_eq!(switch_box.one(&back).seen().port, UPLINK_VLAN);
    assert_moved!(switch_box, Forwarded 2);
}

#[test]
fn tags_that_no_port_has() {
    let mut switch_box = SwitchBox::new(1, Vm::behind(VLAN, 1, Mode::L2));
    let packet = Flow::new(CLIENT, 7).to(BYSTANDER, Body::Udp);
    let tagged = |tags: &[u8]| {
        let mut frame = packet.frame();
        frame.splice(12..12, tags.iter().copied());
        (UPLINK, frame)
    };
    let mut outcome = |tags: &[u8]| switch_box.frames(vec![tagged(tags)]).remove(0).outcome;
    // Another VLAN, that of another device, the outer one alone, three of them, and one cut short.
    for tags in [
        &[0x81, 0, 0, 99][..],
        &[0x81, 0, 0, 100],
        &[0x88, 0xa8, 0, 200],
        &[0x81, 0, 1, 44, 0x81, 0, 1, 44, 0x81, 0, 1, 44],
    ] {
        assert_eq!(outcome(tags), Outcome::UnknownVlan, "{tags:x?}");
    }
    // The port of a VLAN has its own MAC.
    assert_eq!(outcome(&[0x81, 0, 1, 44]), Outcome::NotForUs);
    // A priority is no VLAN.
    assert_eq!(outcome(&[0x81, 0, 0xe0, 0]), Outcome::Forwarded);
    for len in 14..22 {
        let (port, mut frame) = tagged(&[0x88, 0xa8, 0, 200, 0x81, 0, 0, 7]);
        frame.truncate(len);
        let ended = switch_box.frames(vec![(port, frame)]).remove(0);
        assert_eq!(ended.outcome, Outcome::UnknownVlan, "{len} bytes");
    }
}

/// The port tells the VMs apart: two VLANs of one device are two ports.
#[test]
fn the_clone_on_another_vlan_of_the_same_device() {
    let (old, new) = (Vm::behind(VLAN, 1, Mode::L2), Vm::behind(QINQ, 2, Mode::L2));
    let mut switch_box = SwitchBox::new(3, old);
    let flow = Flow::new(CLIENT, 7);
    switch_box.one(&flow.to_service(Body::Udp));
    switch_box.set_destination(new);
    assert_eq!(switch_box.one(&flow.sent_by(new, Body::Udp)).outcome, Outcome::OtherOwner);
    assert_eq!(switch_box.cutover(Unknown::Source), 1);
    assert_eq!(switch_box.one(&flow.sent_by(new, Body::Udp)).outcome, Outcome::OtherOwner);
    assert_eq!(switch_box.one(&flow.sent_by(old, Body::Udp)).outcome, Outcome::ToClient);
    // The same frame without its tags comes from neither.
    let untagged = flow.sent_by(old, Body::Udp).on(OTHER_PORT);
    assert_eq!(switch_box.one(&untagged).outcome, Outcome::Spoofed);
}
