//! Neighbours over IPv6: what `links.rs` is over IPv4.

use std::{net::Ipv6Addr, time::Duration};

use etherparse::{IpNumber, PacketBuilder};
use tidegate_dataplane::{
    packet::{
        Mac,
        neighbour::{self, Message, Solicitation},
    },
    pipeline::{Outcome, Verdict},
    steering::PortId,
};

use crate::{
    testbox::{PATIENCE, TestBox},
    wire::{CLIENT_MAC, EAST, GATEWAY_MAC, UPLINK, UPLINK_MAC, WEST},
};

const CONFIG: &str = r#"
    [api]
    listen = ["unix:/run/unused.sock"]
    [workers]
    cpus = [0, 1]
    [[port]]
    name = "uplink"
    device = "net_null0"
    addresses = ["2001:db8:9::1/64", "fe80::9/64"]
    role = "uplink"
    [[port]]
    name = "east"
    device = "net_null1"
    mac = "02:00:00:00:00:fe"
    addresses = ["2001:db8:8::1/64", "fe80::1/64"]
    role = "access"
    [[port]]
    name = "west"
    device = "net_null2"
    mac = "02:00:00:00:00:fe"
    addresses = ["2001:db8:8::1/64", "fe80::1/64"]
    role = "access"
    [[route]]
    to = "2001:db8:66::/48"
    via = "fe80::66"
    port = "uplink"
"#;
const NOT_KNOWN: Result<PortId, Verdict> = Err(Verdict::Drop(Outcome::NeighbourUnknown));

fn ip(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

fn host(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 7, last])
}

/// Send a packet from a client on the uplink; gives the port it left by.
fn send(tested: &TestBox, to: &str) -> Result<PortId, Verdict> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, UPLINK_MAC).ipv6(
        ip("2001:db8:9::2").octets(),
        ip(to).octets(),
        64,
    );
    let mut frame = Vec::new();
    // Protocol 59 is "nothing follows".
    builder.write(&mut frame, IpNumber(59), &[]).expect("a frame");
    tested.shards.arrive(UPLINK, frame).map(|(port, _)| port)
}

/// `address` says on `port` that it is at `mac`.
fn advertise(tested: &TestBox, port: PortId, address: &str, mac: Mac) {
    let told = neighbour::advertisement(mac, ip(address).to_bits());
    let dropped = tested.shards.arrive(port, told.to_vec());
    assert_eq!(dropped, Err(Verdict::Drop(Outcome::NeighbourSeen)));
}

/// Questions the core sent, with their ports.
fn asked(tested: &TestBox) -> Vec<(PortId, Solicitation)> {
    let read = |(port, frame): (PortId, Vec<u8>)| match neighbour::read(&frame) {
        Some(Message::Solicitation(asked)) => (port, asked),
        other => panic!("no question: {other:?}"),
    };
    tested.shards.take_sent().into_iter().map(read).collect()
}

fn question(port: PortId, mac: [u8; 6], source: &str, target: &str) -> (PortId, Solicitation) {
    let (source, target) = (ip(source).to_bits(), ip(target).to_bits());
    let mac = Mac(mac);
    (port, Solicitation { source, frame_source: mac, source_mac: Some(mac), target })
}

async fn passes(tested: &TestBox, to: &str, port: PortId) {
    let passes = async {
        while send(tested, to) != Ok(port) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, passes).await.expect("learned");
}

#[tokio::test]
async fn a_missing_neighbour_is_asked_for_on_every_link_it_can_be_on() {
    let tested = TestBox::start_configured(CONFIG).await;
    for _ in 0..5 {
        assert_eq!(send(&tested, "2001:db8:8::64"), NOT_KNOWN);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let on = |port| question(port, GATEWAY_MAC, "2001:db8:8::1", "2001:db8:8::64");
    assert_eq!(asked(&tested), [on(EAST), on(WEST)], "once a second at most");
    advertise(&tested, WEST, "2001:db8:8::64", host(1));
    passes(&tested, "2001:db8:8::64", WEST).await;
    tested.stop().await;
}

#[tokio::test]
async fn a_link_local_router_is_asked_for_and_believed_on_its_link_alone() {
    let tested = TestBox::start_configured(CONFIG).await;
    assert_eq!(send(&tested, "2001:db8:66::1"), NOT_KNOWN);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(asked(&tested), [question(UPLINK, UPLINK_MAC, "fe80::9", "fe80::66")]);
    advertise(&tested, EAST, "fe80::66", host(66));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(send(&tested, "2001:db8:66::1"), NOT_KNOWN, "a guest has the router's address");
    advertise(&tested, UPLINK, "fe80::66", host(1));
    passes(&tested, "2001:db8:66::1", UPLINK).await;
    tested.stop().await;
}

#[tokio::test]
async fn who_asks_the_box_is_answered_and_learned() {
    let tested = TestBox::start_configured(CONFIG).await;
    let before = tested.shards.generation();
    let asks = |source: &str, target: &str| {
        let (source, target) = (ip(source).to_bits(), ip(target).to_bits());
        let answer = tested.shards.arrive(EAST, neighbour::solicitation(host(5), source, target));
        let (port, frame) = answer.expect("an answer");
        assert!(matches!(neighbour::read(&frame), Some(Message::Advertisement(_))));
        assert_eq!((port, Mac::read(&frame)), (EAST, host(5)));
    };
    asks("fe80::5", "fe80::1");
    asks("2001:db8:8::5", "2001:db8:8::1");
    passes(&tested, "2001:db8:8::5", EAST).await;
    // The box was not asked about it, and said again, nothing happens.
    let published = tested.shards.generation();
    asks("fe80::5", "fe80::1");
    asks("2001:db8:8::5", "2001:db8:8::1");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(tested.shards.generation(), published);
    assert!((1..=2).contains(&(published - before)), "{} snapshots", published - before);
    tested.stop().await;
}
