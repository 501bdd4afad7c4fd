//! Backends behind another switch: what the service says of tunnels, and what their packets look like.

use etherparse::{IpHeaders, PacketBuilder, SlicedPacket, TransportSlice, UdpHeader};
use tidegate_api::switch::{Backend, Encap, EncapKind, Rewrite};
use tidegate_dataplane::{
    packet::{Mac, arp},
    pipeline::{Outcome, Verdict},
};
use tonic::Code;

use crate::{
    refusals::refused,
    testbox::{TestBox, backend, east, west},
    wire::{CLIENT, CLIENT_MAC, EAST, GATEWAY_MAC, UPLINK, UPLINK_MAC},
};

/// A switch on the uplink's link: the client's machine, whose MAC is known.
const REMOTE: &str = "10.9.0.2";
/// Another one, whose MAC is not.
const SILENT: &str = "10.9.0.7";
const LOCAL: &str = "10.9.0.1";
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 8, 0x0c];
const SERVICE: [u8; 4] = [10, 8, 0, 100];

fn vxlan(vni: u32) -> Encap {
    Encap {
        kind: EncapKind::Vxlan.into(),
        remote: REMOTE.to_owned(),
        local: LOCAL.to_owned(),
        vni,
        udp_port: 0,
    }
}

fn behind(encap: Encap) -> Backend {
    Backend { encap: Some(encap), ..west() }
}

/// Behind IP in IP, where there are no MACs.
fn behind_ipip() -> Backend {
    let encap = Encap { kind: EncapKind::Ipip.into(), ..vxlan(0) };
    let (mac, port, name) = (String::new(), String::new(), "red".to_owned());
    Backend { mac, port, name, ..behind(encap) }
}

#[tokio::test]
async fn malformed_tunnels_name_the_field() {
    let mut tested = TestBox::start().await;
    let kind = |kind: EncapKind| Encap { kind: kind.into(), ..vxlan(0) };
    let cases: [(Encap, &[&str]); 12] = [
        (Encap { kind: 0, ..vxlan(1) }, &["home.encap.vni: 1 goes with"]),
        (Encap { kind: 0, ..vxlan(0) }, &["home.encap.kind: 0", "ENCAP_KIND_VXLAN"]),
        (Encap { kind: 9, ..vxlan(0) }, &["home.encap.kind: 9"]),
        (Encap { vni: 7, ..kind(EncapKind::Gue) }, &["home.encap.vni: 7", "VXLAN only"]),
        (vxlan(1 << 24), &["home.encap.vni: 16777216", "16777215"]),
        (Encap { udp_port: 65536, ..vxlan(1) }, &["home.encap.udp_port: 65536"]),
        (Encap { udp_port: 9, ..kind(EncapKind::Ipip) }, &["home.encap.udp_port: 9", "no UDP"]),
        (Encap { remote: "x".into(), ..vxlan(1) }, &["home.encap.remote: `x`"]),
        (Encap { local: String::new(), ..vxlan(1) }, &["home.encap.local: ``"]),
        (Encap { local: "10.9.0.3".into(), ..vxlan(1) }, &["home.encap.local: 10.9.0.3", LOCAL]),
        (Encap { remote: LOCAL.into(), ..vxlan(1) }, &["home.encap.remote: 10.9.0.1", "own"]),
        (Encap { remote: "2001:db8::1".into(), ..vxlan(1) }, &["home.encap.remote", "one family"]),
    ];
    for (encap, says) in cases {
        refused(tested.add(behind(encap)).await, Code::InvalidArgument, says);
    }
    let with_mac = Backend { mac: east().mac, ..behind_ipip() };
    refused(tested.add(with_mac).await, Code::InvalidArgument, &["home.mac", "no Ethernet"]);
    let without = Backend { mac: String::new(), ..behind(vxlan(1)) };
    refused(tested.add(without).await, Code::InvalidArgument, &["home.mac"]);
    let elsewhere = Backend { port: "north".into(), ..behind(vxlan(1)) };
    refused(tested.add(elsewhere).await, Code::NotFound, &["home.port", "`north`"]);
    tested.stop().await;
}

#[tokio::test]
async fn what_is_asked_for_is_shown() {
    let mut tested = TestBox::start().await;
    let home = tested.add(behind(vxlan(7))).await.expect("add").home.expect("a home");
    let expected = Encap { udp_port: 4789, ..vxlan(7) };
    assert_eq!((home.encap, home.port.as_str()), (Some(expected), "west"));
    let destination = tested.set_destination(behind_ipip()).await.expect("destination");
    let destination = destination.destination.expect("a destination");
    assert_eq!((destination.port.as_str(), destination.mac.as_str()), ("uplink", ""));
    assert_eq!(destination.encap.expect("a tunnel").kind(), EncapKind::Ipip);
    tested.stop().await;
}

#[tokio::test]
async fn one_tunnel_is_one_place() {
    let mut tested = TestBox::start().await;
    tested.add(behind(vxlan(7))).await.expect("add");
    let beside = Backend { mac: east().mac, name: "red".into(), ..behind(vxlan(7)) };
    refused(tested.set_destination(beside).await, Code::InvalidArgument, &["same port", "L2"]);
    let here = Backend { name: "red".into(), ..behind(vxlan(7)) };
    refused(tested.set_destination(here).await, Code::InvalidArgument, &["already lives"]);
    let other_gateway = Backend { port: "east".into(), ..backend("red", "east", 9) };
    let other_gateway = Backend {
        encap: Some(vxlan(7)),
        rewrite: Rewrite::Nat.into(),
        locator: "10.8.0.9".into(),
        ..other_gateway
    };
    let says = &["10.9.0.2", "another port as their gateway"];
    refused(tested.set_destination(other_gateway).await, Code::InvalidArgument, says);
    let gue = Encap { kind: EncapKind::Gue.into(), udp_port: 4789, ..vxlan(0) };
    let mixed = Backend { mac: String::new(), name: "red".into(), ..behind(gue) };
    let says = &["encap.udp_port: 4789", "other kind"];
    refused(tested.set_destination(mixed).await, Code::InvalidArgument, says);
    let next_door = Backend { name: "red".into(), ..behind(vxlan(8)) };
    tested.set_destination(next_door).await.expect("another tunnel");
    tested.stop().await;
}

/// A frame of the guest to the client, wrapped by the switch it is behind.
fn from_guest(vni: u8) -> Vec<u8> {
    let mut inner = vec![8, 0, 0, 0, 0, 0, vni, 0];
    let packet = PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC).ipv4(SERVICE, CLIENT, 64);
    packet.udp(80, 7).write(&mut inner, b"hello").expect("a frame");
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC).ipv4(CLIENT, [10, 9, 0, 1], 64);
    packet.udp(0xd000, 4789).write(&mut frame, &inner).expect("a frame");
    frame
}

/// The frame inside of one that was sent to the other end, and the VNI.
fn inside(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("{packet:?}") };
    assert_eq!(udp.destination_port(), 4789);
    let vni = u32::from_be_bytes(udp.payload()[4..8].try_into().expect("a VNI")) >> 8;
    (vni, udp.payload()[8..].to_vec())
}

#[tokio::test]
async fn a_migration_to_behind_another_switch_and_back() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.tcp(1).open();
    tested.set_destination(behind(vxlan(7))).await.expect("destination");
    assert_eq!(tested.cutover().await.expect("cutover").old_sessions, 1);
    assert_eq!(tested.tcp(1).talk(), Ok(EAST), "the old session stays");

    let hello = PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC).ipv4(CLIENT, SERVICE, 64);
    let mut frame = Vec::new();
    hello.udp(7, 80).write(&mut frame, b"hello").expect("a frame");
    let (device, wrapped) = tested.shards.arrive(UPLINK, frame.clone()).expect("sent");
    assert_eq!((device, &wrapped[..12]), (UPLINK, &[CLIENT_MAC, UPLINK_MAC].concat()[..]));
    let (vni, inner) = inside(&wrapped);
    assert_eq!((vni, &inner[..12]), (7, &[GUEST_MAC, GATEWAY_MAC].concat()[..]));

    let (device, answer) = tested.shards.arrive(UPLINK, from_guest(7)).expect("sent");
    let (ip, payload) = IpHeaders::from_slice(&answer[14..]).expect("IP");
    assert_eq!((device, ip.ipv4().expect("IPv4").0.source), (UPLINK, SERVICE));
    let (udp, payload) = UdpHeader::from_slice(payload.payload).expect("UDP");
    assert_eq!((udp.source_port, payload), (80, &b"hello"[..]));
    let stranger = tested.shards.arrive(UPLINK, from_guest(8));
    assert_eq!(stranger, Err(Verdict::Drop(Outcome::ForHost)), "no tunnel of this box");

    tested.abort().await.expect("abort");
    assert_eq!(tested.shards.arrive(UPLINK, frame).map(|(port, _)| port), Ok(EAST));
    let gone = tested.shards.arrive(UPLINK, from_guest(7));
    assert_eq!(gone, Err(Verdict::Drop(Outcome::ForHost)), "the tunnel went with its last backend");
    tested.stop().await;
}

#[tokio::test]
async fn the_other_end_is_asked_for() {
    let mut tested = TestBox::start().await;
    let encap = Encap { remote: SILENT.to_owned(), ..vxlan(7) };
    tested.add(behind(encap)).await.expect("add");
    assert_eq!(tested.tcp(1).talk(), Err(Verdict::Drop(Outcome::NeighbourUnknown)));
    let asked = async {
        loop {
            let sent = tested.shards.take_sent();
            if let Some((port, frame)) = sent.first() {
                return (*port, arp::read(frame).expect("ARP").target);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let asked = tokio::time::timeout(crate::testbox::PATIENCE, asked).await.expect("asked");
    assert_eq!(asked, (UPLINK, 0x0a09_0007));
    let answer = arp::announcement(Mac([2, 0, 0, 0, 9, 7]), 0x0a09_0007);
    let _ = tested.shards.arrive(UPLINK, answer.to_vec());
    let passes = async {
        while tested.tcp(1).talk() != Ok(UPLINK) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::testbox::PATIENCE, passes).await.expect("learned");
    tested.stop().await;
}
