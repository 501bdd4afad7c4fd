//! Frames that a worker or a driver refuses, among others that must not suffer. One test, because DPDK starts once per
//! process.

use std::{
    fs,
    path::Path,
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use tidegate_dataplane::{
    packet::{Address as _, Mac},
    pipeline::{Capacity, Outcome},
    steering::{Link, NextHop, Port, PortId, PortRole, Routing, Snapshot},
};
use tidegate_worker::{Idle, PortSpec, Routes, Workers, WorkersConfig};

const TWIN: PortId = PortId(0);
const UPLINK: PortId = PortId(1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn spec(name: &str, device: String) -> PortSpec {
    PortSpec { name: name.into(), device, mac: None, mac_of: None, mtu: 1500 }
}

fn config(twin: String) -> WorkersConfig {
    WorkersConfig {
        hugepages: false,
        memory_mib: 128,
        mbufs: None,
        routes: Routes::Map,
        eal_args: vec!["--log-level=*:error".into()],
        cpus: vec![0],
        idle: Idle::Sleep,
        sessions: Capacity { v4: 1024, v6: 1024 },
        ports: vec![spec("twin", twin)],
        max_ports: 2,
    }
}

fn snapshot() -> Arc<Snapshot> {
    let port = |device, addresses, role, twin| {
        Some(Port { mac: MAC, addresses, role, link: Link::untagged(device), twin })
    };
    let address = 0x0a09_0001_u32.ip();
    let ports = vec![
        port(TWIN, Vec::new(), PortRole::Twin(UPLINK), None),
        port(UPLINK, vec![address], PortRole::Uplink, Some(TWIN)),
    ];
    let route = ("10.9.0.0/24".parse().expect("prefix"), NextHop { port: UPLINK, via: None });
    let routing = Routing::plain(&ports, [route], []);
    Arc::new(Snapshot::new(1, ports, Vec::new(), routing).expect("snapshot"))
}

/// A ping to the box.
fn ping(payload_len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC.0)
        .ipv4([10, 9, 0, 9], [10, 9, 0, 1], 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut frame, &vec![7; payload_len])
        .expect("frame");
    frame
}

/// A device that receives these frames in one burst, once.
fn replay(frames: &[Vec<u8>], capture: &Path) -> String {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const VERSION_2_4: u32 = 2 | 4 << 16;
    const ETHERNET: u32 = 1;
    let words =
        |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let mut bytes = words(&[MAGIC, VERSION_2_4, 0, 0, 65_535, ETHERNET]);
    for frame in frames {
        let length = frame.len() as u32;
        bytes.extend(words(&[0, 0, length, length]));
        bytes.extend(frame);
    }
    fs::write(capture, bytes).expect("written");
    format!("net_pcap0,rx_pcap={}", capture.display())
}

/// Have the box receive these frames, and wait until each has ended.
fn receive(workers: &mut Workers, frames: &[Vec<u8>]) {
    let dir = tempfile::tempdir().expect("dir");
    // Not all outcomes: the kernel sends frames of its own.
    let ended = |workers: &Workers| -> u64 {
        let ends = [Outcome::ToHost, Outcome::Segmented, Outcome::TransmitFull];
        ends.map(|outcome| workers.counters(0).outcome(outcome)).iter().sum()
    };
    let before = ended(workers);
    let device = replay(frames, &dir.path().join("frames.pcap"));
    assert_eq!(workers.add_port(&spec("uplink", device)).expect("opens"), UPLINK);
    let started = Instant::now();
    while ended(workers) < before + frames.len() as u64 {
        assert!(started.elapsed() < Duration::from_secs(5), "not all frames ended");
        thread::sleep(Duration::from_millis(1));
    }
    workers.remove_port(UPLINK).expect("closes");
}

#[test]
fn frames_nobody_takes() {
    // Its name is this process's, for there may be others.
    let twin = format!("net_tap0,iface=tg{}", process::id());
    let mut workers = Workers::start(&config(twin)).expect("workers start; TAP needs root");
    workers.publish(&snapshot()).expect("acknowledged");
    // TAP receives into buffers that it has at hand.
    let at_rest = workers.buffers_in_use();
    a_chain_is_dropped_and_what_is_beside_it_goes_on(&mut workers);
    what_a_driver_refuses_costs_no_others(&mut workers);
    what_a_driver_refuses_does_not_hold_up_a_held_port(&mut workers);
    assert_eq!(workers.buffers_in_use(), at_rest);
}

fn a_chain_is_dropped_and_what_is_beside_it_goes_on(workers: &mut Workers) {
    // Whole by its header, and longer than a buffer by what follows.
    let mut chain = ping(1000);
    chain.resize(3000, 0);
    receive(workers, &[ping(10), chain.clone(), chain, ping(20), ping(30)]);
    let counters = workers.counters(0);
    let ends = [Outcome::Segmented, Outcome::ToHost].map(|outcome| counters.outcome(outcome));
    assert_eq!(ends, [2, 3]);
    assert_eq!(workers.port_stats(TWIN).tx_packets, 3);
}

/// TAP takes nothing longer than its MTU, and stops at it.
fn what_a_driver_refuses_costs_no_others(workers: &mut Workers) {
    let mut frames = vec![ping(100); 60];
    for refused in [0, 20, 22, 40, 59] {
        frames[refused] = ping(1600);
    }
    let count = |workers: &Workers, outcome| workers.counters(0).outcome(outcome);
    let (sent, bytes) = (count(workers, Outcome::ToHost), workers.port_stats(TWIN).tx_bytes);
    receive(workers, &frames);
    assert_eq!(count(workers, Outcome::TransmitFull), 5);
    assert_eq!(count(workers, Outcome::ToHost) - sent, 55);
    // It is the long ones that are missing, not as many others.
    let short = 55 * ping(100).len() as u64;
    assert_eq!(workers.port_stats(TWIN).tx_bytes - bytes, short);
}

/// It is dropped when what waits behind it fills the hold: until then the port may just be full.
fn what_a_driver_refuses_does_not_hold_up_a_held_port(workers: &mut Workers) {
    const BEHIND: u64 = 2048 + 100;
    let drops = |workers: &Workers| {
        let ends = [Outcome::TransmitFull, Outcome::HoldFull];
        ends.map(|outcome| workers.counters(0).outcome(outcome))
    };
    let [refused, hold_full] = drops(workers);
    let sent = workers.port_stats(TWIN).tx_packets;
    let until = workers.now_ms() + 60_000;
    workers.hold_port(TWIN, until).expect("held");
    workers.transmit(TWIN, &ping(1600)).expect("a buffer");
    for _ in 0..BEHIND {
        workers.transmit(TWIN, &ping(100)).expect("a buffer");
    }
    let started = Instant::now();
    while workers.port_stats(TWIN).tx_packets < sent + BEHIND {
        let ended = (drops(workers), workers.port_stats(TWIN).tx_packets - sent);
        assert!(started.elapsed() < Duration::from_secs(5), "{ended:?}");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(drops(workers), [refused + 1, hold_full]);
    workers.release_port(TWIN).expect("released");
}
