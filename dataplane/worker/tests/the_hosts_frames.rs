//! What reaches the box's own kernel during a flood, by a twin that writes down what it is given. One test, because DPDK
//! starts once per process.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use tidegate_dataplane::{
    packet::{Address as _, Mac, arp},
    pipeline::{Capacity, Outcome},
    steering::{Link, NextHop, Port, PortId, PortRole, Routing, Snapshot},
};
use tidegate_worker::{Idle, PortSpec, Routes, Workers, WorkersConfig};

const UPLINK: PortId = PortId(0);
const TWIN: PortId = PortId(1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn config(written: &Path) -> WorkersConfig {
    let port = |name: &str, device: String| PortSpec {
        name: name.into(),
        device,
        mac: None,
        mac_of: None,
        mtu: 1500,
    };
    WorkersConfig {
        hugepages: false,
        memory_mib: 128,
        mbufs: None,
        routes: Routes::Map,
        eal_args: vec!["--log-level=*:error".into()],
        cpus: vec![0, 1],
        idle: Idle::Sleep,
        sessions: Capacity { v4: 1024, v6: 1024 },
        ports: vec![
            port("uplink", "net_ring0".into()),
            port("twin", format!("net_pcap0,tx_pcap={}", written.display())),
        ],
        max_ports: 2,
    }
}

fn snapshot() -> Arc<Snapshot> {
    let addresses = vec![0x0a09_0001_u32.ip()];
    let role = PortRole::Uplink;
    let uplink = Port { mac: MAC, addresses, role, link: Link::untagged(UPLINK), twin: Some(TWIN) };
    let role = PortRole::Twin(UPLINK);
    let twin =
        Port { mac: MAC, addresses: Vec::new(), role, link: Link::untagged(TWIN), twin: None };
    let ports = vec![Some(uplink), Some(twin)];
    let route = ("10.9.0.0/24".parse().expect("prefix"), NextHop { port: UPLINK, via: None });
    let routing = Routing::plain(&ports, [route], []);
    Arc::new(Snapshot::new(1, ports, Vec::new(), routing).expect("snapshot"))
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER.0, MAC.0)
        .ipv4([10, 9, 0, 9], [10, 9, 0, 1], 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut frame, b"flood")
        .expect("frame");
    frame
}

fn bgp() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER.0, MAC.0)
        .ipv4([10, 9, 0, 9], [10, 9, 0, 1], 1)
        .tcp(179, 40_000, 1, 1000)
        .ack(1)
        .write(&mut frame, b"keepalive")
        .expect("frame");
    frame
}

/// How often each frame is in a capture file.
fn frames_in(capture: &Path) -> HashMap<Vec<u8>, usize> {
    let bytes = fs::read(capture).expect("a capture");
    let mut rest = &bytes[24..];
    let mut frames = HashMap::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let length = u32::from_ne_bytes(header[8..12].try_into().expect("four bytes"));
        let (frame, behind) = behind.split_at(length as usize);
        *frames.entry(frame.to_vec()).or_insert(0) += 1;
        rest = behind;
    }
    frames
}

#[test]
fn a_flood_of_pings_keeps_neither_arp_nor_bgp_from_the_kernel() {
    const BURSTS: usize = 100;
    const PINGS: usize = 48;
    let dir = tempfile::tempdir().expect("dir");
    let written = dir.path().join("twin.pcap");
    let mut workers = Workers::start(&config(&written)).expect("workers start");
    workers.publish(&snapshot()).expect("acknowledged");

    let (arp, bgp, ping) = (arp::announcement(PEER, 0x0a09_0009).to_vec(), bgp(), ping());
    let total = |workers: &Workers, outcome| -> usize {
        (0..workers.count()).map(|it| workers.counters(it).outcome(outcome) as usize).sum()
    };
    for burst in 1..=BURSTS {
        // The pings come first: what they take is gone.
        for frame in [&ping; PINGS].into_iter().chain([&arp, &bgp]) {
            workers.transmit(UPLINK, frame).expect("a buffer");
        }
        let started = Instant::now();
        let ended = || total(&workers, Outcome::ToHost) + total(&workers, Outcome::HostLimited);
        while ended() < burst * (PINGS + 2) {
            assert!(started.elapsed() < Duration::from_secs(5), "{} in burst {burst}", ended());
            thread::sleep(Duration::from_micros(50));
        }
    }
    let limited = total(&workers, Outcome::HostLimited);
    drop(workers);
    let frames = frames_in(&written);
    let count = |frame: &Vec<u8>| frames.get(frame).copied().unwrap_or(0);
    assert_eq!((count(&arp), count(&bgp)), (BURSTS, BURSTS), "{limited} frames were refused");
    assert!(limited > BURSTS * PINGS / 4, "{limited} pings were refused");
    assert_eq!(count(&ping) + limited, BURSTS * PINGS);
}
