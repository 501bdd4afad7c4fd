//! What the core does on the links: announcements, neighbours.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    packet::{Mac, arp},
    steering::{IpPrefix, NextHop, PortId},
};
use tidegate_switch::kernel::{Change, KernelRoute};

use crate::{
    testbox::{PATIENCE, TestBox, east, west},
    wire::{EAST, GATEWAY_MAC, Tcp, UPLINK, UPLINK_MAC, WEST},
};

/// ARP frames the core sent, as port, sender MAC, sender and target.
fn sent(tested: &TestBox) -> Vec<(PortId, Mac, u32, u32)> {
    let read = |(port, frame): (PortId, Vec<u8>)| {
        let packet = arp::read(&frame).expect("ARP");
        (port, packet.sender_mac, packet.sender, packet.target)
    };
    tested.shards.take_sent().into_iter().map(read).collect()
}

#[tokio::test]
async fn a_takeover_is_announced_three_times_on_uplinks_only() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let announcement = (UPLINK, Mac(UPLINK_MAC), 0x0a08_0064, 0x0a08_0064);
    assert_eq!(sent(&tested), [announcement; 3]);
    tested.takeover().await.expect("again");
    tested.abort().await.expect("abort");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sent(&tested).len() < 3, "given back, announced no more");
    tested.stop().await;
}

/// A VLAN of the uplink, and one of an access port.
const VLANS: &str = r#"
    [[port]]
    name = "uplink.300"
    on = "uplink"
    vlan = "300"
    addresses = ["10.6.0.1/24"]
    role = "uplink"
    [[port]]
    name = "east.100.7"
    on = "east"
    vlan = "100.7"
    addresses = ["10.5.0.1/24"]
    role = "access"
"#;

#[tokio::test]
async fn frames_of_a_vlan_carry_its_tags() {
    let mut tested = TestBox::start_with(VLANS).await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let frames = tested.shards.take_sent();
    let (tagged, untagged): (Vec<_>, Vec<_>) =
        frames.into_iter().partition(|(_, frame)| frame[12..16] == [0x81, 0, 1, 44]);
    assert_eq!((tagged.len(), untagged.len()), (3, 3), "each uplink, three times");
    for (device, mut frame) in tagged {
        frame.drain(12..16);
        assert_eq!((device, arp::read(&frame).expect("ARP").sender), (UPLINK, 0x0a08_0064));
    }
    // A missing neighbour on the other VLAN is asked for there.
    Tcp { address: [10, 5, 0, 9], ..tested.tcp(1) }.talk().expect_err("the neighbour is not known");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let [(device, frame)] = &tested.shards.take_sent()[..] else { panic!("one question") };
    assert_eq!((*device, &frame[12..20]), (EAST, &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 7][..]));
    tested.stop().await;
}

#[tokio::test]
async fn neighbours_are_learned_in_bursts() {
    let tested = TestBox::start().await;
    let before = tested.shards.generation();
    let host = |n: u8| Mac([2, 0, 0, 0, 7, n]);
    for n in 10..16 {
        let hello = arp::announcement(host(n), 0x0a09_0000 | u32::from(n));
        let _ = tested.shards.arrive(UPLINK, hello.to_vec());
    }
    // One that lies about being the box itself, and one from another link.
    let _ = tested.shards.arrive(UPLINK, arp::announcement(host(66), 0x0a09_0001).to_vec());
    let _ = tested.shards.arrive(UPLINK, arp::announcement(host(67), 0x0a07_0001).to_vec());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let published = tested.shards.generation() - before;
    assert!((1..=2).contains(&published), "{published} snapshots for one burst");
    // Known now: said again, nothing happens.
    let _ = tested.shards.arrive(UPLINK, arp::announcement(host(10), 0x0a09_000a).to_vec());
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(tested.shards.generation() - before, published);
    tested.stop().await;
}

#[tokio::test]
async fn a_missing_neighbour_is_asked_for_on_every_link_it_can_be_on() {
    let tested = TestBox::start().await;
    for _ in 0..5 {
        // To 10.8.0.100, which is not managed here: plain forwarding.
        tested.tcp(1).talk().expect_err("the neighbour is not known");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let question = |port| (port, Mac(GATEWAY_MAC), 0x0a08_0001, 0x0a08_0064);
    assert_eq!(sent(&tested), [question(EAST), question(WEST)], "once a second at most");
    // The answer comes, and packets pass.
    let answer = arp::announcement(Mac([2, 0, 0, 0, 8, 9]), 0x0a08_0064);
    let _ = tested.shards.arrive(EAST, answer.to_vec());
    let passes = async {
        while tested.tcp(1).talk() != Ok(EAST) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, passes).await.expect("learned");
    tested.stop().await;
}

#[tokio::test]
async fn a_burst_of_the_kernels_changes_shares_snapshots_and_holds_no_request_up() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    tested.takeover().await.expect("takeover");
    tested.set_destination(west()).await.expect("destination");
    let slowness = Duration::from_millis(40);
    tested.shards.slow_down(slowness);
    let before = tested.shards.generation();
    let [one, other] = [[10, 8, 0, 8], [10, 8, 0, 9]].map(IpAddr::from);
    let behind = |port, via| Change::Neighbour(port, via, Some(Mac([2, 0, 0, 0, 8, 9])));
    tested.tell_of_kernel(vec![behind(EAST, one), behind(WEST, other)]);
    let prefix: IpPrefix = "10.77.0.0/16".parse().expect("a prefix");
    for n in 0..60 {
        let (port, via) = if n % 2 == 0 { (EAST, one) } else { (WEST, other) };
        let route = KernelRoute::Next(NextHop { port, via: Some(via) });
        tested.tell_of_kernel(vec![Change::Route(prefix, Some(route))]);
    }
    // Behind the one under way, with one of its own; one more when the burst was over before it came.
    let begun = Instant::now();
    tested.cutover().await.expect("cutover");
    let (took, published) = (begun.elapsed(), tested.shards.generation() - before);
    assert!((1..=4).contains(&published), "{published} snapshots for 61 batches and a cutover");
    assert!(took < slowness * 10, "{took:?}");
    let follows = async {
        while (Tcp { address: [10, 77, 0, 1], ..tested.tcp(1) }).talk() != Ok(WEST) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, follows).await.expect("the last word is in force");
    let published = tested.shards.generation() - before;
    assert!(published <= 4, "{published} snapshots in all");
    tested.stop().await;
}
