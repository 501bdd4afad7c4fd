//! What a held port keeps leaves in its order, and before what comes later. One test, because DPDK starts once per process.
//!
//! The port is one end of shared memory with room for few packets, and takes none before the other end is there. What
//! comes out there leaves by a port that writes it to a file.

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use tidegate_dataplane::{
    packet::{Address as _, Mac},
    pipeline::{Capacity, Outcome},
    steering::{Link, Port, PortId, PortRole, Routing, Snapshot},
};
use tidegate_worker::{Idle, PortSpec, Routes, Workers, WorkersConfig};

const HELD: PortId = PortId(0);
const RECORD: PortId = PortId(1);
const FAR: PortId = PortId(2);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Kept before the other end takes any: many times what it has room for, and no whole number of bursts.
const KEPT: u32 = 1500;
/// That come while what is kept leaves: kept and these fit in a hold together.
const LATER: u32 = 200;
/// That come when the port is held no more, a few at a time.
const AFTER: u32 = 10 * AT_ONCE;
const AT_ONCE: u32 = 8;

fn spec(name: &str, device: String) -> PortSpec {
    PortSpec { name: name.into(), device, mac: None, mac_of: None, mtu: 1500 }
}

fn end(dir: &Path, role: &str) -> PortSpec {
    let number = u8::from(role == "client");
    let socket = dir.join("memif");
    let device = format!("net_memif{number},role={role},socket={}", socket.display());
    // 16 packets.
    spec(role, format!("{device},socket-abstract=no,rsize=4"))
}

fn config(dir: &Path) -> WorkersConfig {
    let record = format!("net_pcap0,tx_pcap={}", dir.join("record").display());
    WorkersConfig {
        hugepages: false,
        memory_mib: 128,
        mbufs: None,
        routes: Routes::Map,
        eal_args: vec!["--log-level=*:critical".into()],
        cpus: vec![0],
        idle: Idle::Sleep,
        sessions: Capacity { v4: 1024, v6: 1024 },
        ports: vec![end(dir, "server"), spec("record", record)],
        max_ports: 3,
    }
}

/// What comes by the far end leaves by the recorder as it is.
fn snapshot() -> Arc<Snapshot> {
    let port = |device, role, twin| {
        let addresses = vec![0x0a09_0001_u32.ip()];
        Some(Port { mac: MAC, addresses, role, link: Link::untagged(device), twin })
    };
    let ports = vec![
        port(HELD, PortRole::Access, None),
        port(RECORD, PortRole::Uplink, Some(FAR)),
        port(FAR, PortRole::Twin(RECORD), None),
    ];
    let routing = Routing::plain(&ports, [], []);
    Arc::new(Snapshot::new(1, ports, Vec::new(), routing).expect("snapshot"))
}

/// Send numbered datagrams by the held port.
fn send(workers: &mut Workers, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC.0, [2, 0, 0, 0, 1, 0])
            .ipv4([10, 9, 0, 9], [10, 9, 0, 100], 64)
            .udp(10_000, 53)
            .write(&mut frame, &number.to_be_bytes())
            .expect("frame");
        workers.transmit(HELD, &frame).expect("a buffer");
    }
}

/// The numbers in a recording, in their order.
fn recorded(path: &Path) -> Vec<u32> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let bytes = fs::read(path).expect("recorded");
    let mut rest = &bytes[FILE_HEADER..];
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_ne_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let (packet, behind) = rest[PACKET_HEADER..].split_at(len);
        numbers.push(u32::from_be_bytes(packet[len - 4..].try_into().expect("four bytes")));
        rest = behind;
    }
    numbers
}

fn wait_for(what: &str, wanted: u32, count: impl Fn() -> u64) {
    let started = Instant::now();
    while count() < u64::from(wanted) {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(10), "{} of {wanted} {what}", count());
        thread::yield_now();
    }
}

#[test]
fn what_is_kept_leaves_in_its_order_and_before_what_comes_later() {
    let dir = tempfile::tempdir().expect("dir");
    let mut workers = Workers::start(&config(dir.path())).expect("workers start");
    let until = workers.now_ms() + 60_000;
    workers.hold_port(HELD, until).expect("held");
    send(&mut workers, 0..KEPT);
    wait_for("kept", KEPT, || u64::from(workers.buffers_in_use()));
    assert_eq!(workers.add_port(&end(dir.path(), "client")).expect("opens"), FAR);
    workers.publish(&snapshot()).expect("acknowledged");
    let came_out = |workers: &Workers| workers.counters(0).outcome(Outcome::FromHost);
    // What comes now finds a port that takes packets, and others that have waited.
    wait_for("came out", 1, || came_out(&workers));
    send(&mut workers, KEPT..KEPT + LATER);
    wait_for("came out", KEPT + LATER, || came_out(&workers));
    let held = workers.release_port(HELD).expect("released");
    assert!(held >= u64::from(KEPT), "{held}");
    let all = KEPT + LATER + AFTER;
    for number in (KEPT + LATER..all).step_by(AT_ONCE as usize) {
        send(&mut workers, number..number + AT_ONCE);
        wait_for("came out", number + AT_ONCE, || came_out(&workers));
    }
    workers.remove_port(RECORD).expect("closes");
    let numbers = recorded(&dir.path().join("record"));
    let first_wrong = numbers.iter().zip(0..).find(|(number, place)| **number != *place);
    assert_eq!(first_wrong, None, "the first that is not in its place");
    assert_eq!(numbers.len(), all as usize);
}
