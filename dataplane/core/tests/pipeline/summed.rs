//! UDP-Lite and DCCP: known by their addresses, and with checksums over these. SCTP, GRE and ESP have none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_dataplane::pipeline::Outcome;

use crate::{
    OVER_IPV6,
    switch_box::{
        SwitchBox, assert_moved,
        fragments::cut,
        summed::{DCCP, UDP_LITE, is_intact},
        traffic::{Body, Flow},
        world::{CLIENT, Mode, SERVICE, UPLINK, Vm, ip},
    },
};

const IP_LEN: usize = if OVER_IPV6 { 40 } else { 20 };
/// Where the checksum is in the frame.
const SUM: usize = 14 + IP_LEN + 6;

fn summed(protocol: u8, covered: u8) -> Body {
    Body::Summed { protocol, covered }
}

/// Datagrams as a Linux kernel writes them to its own loopback address, from port 40000 to 9000.
#[test]
fn a_kernel_and_the_judge_agree() {
    let partial = b"partial coverage";
    let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    for (address, covered, checksum) in
        [(v4, 0, [0xd6, 0x00]), (v4, 8, [0x41, 0xec]), (v6, 0, [0xd4, 0x01]), (v6, 8, [0x3f, 0xed])]
    {
        let mut packet = vec![0x9c, 0x40, 0x23, 0x28, 0, covered, checksum[0], checksum[1]];
        packet.extend(partial);
        assert!(is_intact(UDP_LITE, address, address, &packet), "{address}, {covered}");
        packet[6] ^= 1;
        assert!(!is_intact(UDP_LITE, address, address, &packet));
    }
}

/// Every frame that leaves is verified when it is read.
#[test]
fn both_ways_whatever_is_covered() {
    for mode in [Mode::Nat, Mode::L2] {
        for (protocol, covered) in [(UDP_LITE, [0, 8, 11]), (DCCP, [0, 1, 2])] {
            let vm = Vm::old(1, mode);
            let mut switch_box = SwitchBox::new(2, vm);
            let flow = Flow::new(CLIENT, 40_000);
            for (covered, payload) in covered.into_iter().zip([&b"odd"[..], b"", b"payload"]) {
                let there = flow.to_service(summed(protocol, covered)).with_payload(payload);
                let seen = switch_box.one(&there).seen();
                assert_eq!((seen.source, seen.destination), (CLIENT, vm.speaks_as()));
                assert!(seen.payload.ends_with(payload));
                let back = flow.sent_by(vm, summed(protocol, covered)).with_payload(payload);
                let seen = switch_box.one(&back).seen();
                assert_eq!((seen.port, seen.source, seen.destination), (UPLINK, SERVICE, CLIENT));
            }
            // Ports say nothing: all of it is one session.
            let other = Flow { service_port: 7, ..Flow::new(CLIENT, 1) };
            switch_box.one(&other.to_service(summed(protocol, 0)));
            assert_moved!(switch_box, ToSource 4, ToClient 3);
            assert_eq!(switch_box.live(vm), 1);
        }
    }
}

/// RFC 3828, section 3.1: a sum of zero is sent as all ones, and zero is a mistake that the box does not cover up.
#[test]
fn zero_is_no_checksum_of_udp_lite() {
    let vm = Vm::old(1, Mode::Nat);
    let mut switch_box = SwitchBox::new(1, vm);
    let packets =
        (1..=u16::MAX).map(|port| Flow::new(CLIENT, port).sent_by(vm, summed(UDP_LITE, 8)));
    let ended = switch_box.feed(&packets.collect::<Vec<_>>());
    let sums = ended.iter().map(|ended| {
        let (_, frame) = ended.sent.as_ref().expect("sent");
        [frame[SUM], frame[SUM + 1]]
    });
    assert_eq!(sums.filter(|sum| *sum == [0xff, 0xff]).count(), 1);

    switch_box.verify = false;
    let mut frame = Flow::new(CLIENT, 1).to_service(summed(UDP_LITE, 8)).frame();
    frame[SUM..SUM + 2].fill(0);
    let ended = switch_box.frames(vec![(UPLINK, frame)]).remove(0);
    assert_eq!(ended.sent.expect("sent").1[SUM..SUM + 2], [0, 0]);
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    for protocol in [UDP_LITE, DCCP] {
        let vm = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(1, vm);
        switch_box.verify = false;
        let mut frame = Flow::new(CLIENT, 1).to_service(summed(protocol, 1)).frame();
        frame[SUM] ^= 0x40;
        let (_, sent) = switch_box.frames(vec![(UPLINK, frame)]).remove(0).sent.expect("sent");
        assert!(!is_intact(protocol, ip(CLIENT), ip(vm.locator), &sent[14 + IP_LEN..]));
    }
}

#[test]
fn a_header_without_checksum_is_none() {
    for protocol in [UDP_LITE, DCCP] {
        let mut switch_box = SwitchBox::new(1, Vm::old(1, Mode::Nat));
        let short = Flow::new(CLIENT, 1).to_service(Body::Protocol(protocol));
        for (payload, outcome) in
            [(&b""[..], Outcome::BadTransport), (b"7 bytes", Outcome::BadTransport)]
        {
            assert_eq!(switch_box.one(&short.clone().with_payload(payload)).outcome, outcome);
        }
        assert!(switch_box.sessions().is_empty());
    }
}

/// The first fragment has the checksum of all, and the others have none.
#[test]
fn fragments_are_put_together_right() {
    for protocol in [UDP_LITE, DCCP] {
        let vm = Vm::old(1, Mode::Nat);
        let mut switch_box = SwitchBox::new(1, vm);
        let payload = b"long enough to be cut up into three fragments or four";
        let whole = Flow::new(CLIENT, 7).to_service(summed(protocol, 0)).with_payload(payload);
        for order in [[0, 1, 2], [2, 1, 0]] {
            let pieces = cut(&whole.frame(), 9, 24);
            let fed = order.map(|at| (UPLINK, pieces[at].clone()));
            let ended = switch_box.frames(fed.to_vec());
            let sent: Vec<_> = ended.into_iter().map(|ended| ended.sent.expect("sent").1).collect();
            let joined = crate::switch_box::fragments::joined(&sent).expect("all of it");
            assert!(is_intact(protocol, ip(CLIENT), ip(vm.locator), &joined[14 + IP_LEN..]));
        }
    }
}
