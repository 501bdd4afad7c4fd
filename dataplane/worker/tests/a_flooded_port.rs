//! A flood on one port and an old session on another, on one worker: rings whose transmit side is their receive side, and VMs
//! with the MAC of the port itself, so that each packet goes round for ever. One test, because DPDK starts once per process.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use tidegate_dataplane::{
    packet::{Address as _, Mac},
    pipeline::{BURST, Capacity, Outcome},
    steering::{
        Backend, BackendSlot, Cutover, Destination, Link, ManagedAddress, NextHop, Port, PortId,
        PortRole, Rewrite, Routing, Snapshot,
    },
};
use tidegate_worker::{Idle, PortSpec, Routes, Workers, WorkersConfig};

const ADDRESS: [u8; 4] = [10, 9, 0, 100];
const FLOODED: PortId = PortId(0);
const QUIET: PortId = PortId(1);
/// So many go round on the flooded port: more than a burst, and fewer than one shard has half open.
const FLOOD: u16 = 200;
/// Times that the old session's packet comes round.
const ROUNDS: u64 = 5_000;

fn mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0 as u8])
}

fn backend(slot: u32, port: PortId) -> Backend {
    Backend { slot: BackendSlot(slot), port, mac: mac(port), rewrite: Rewrite::L2 }
}

fn config() -> WorkersConfig {
    let port = |name: &str, device: &str| PortSpec {
        name: name.into(),
        device: device.into(),
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
        cpus: vec![0],
        idle: Idle::Sleep,
        sessions: Capacity { v4: 1024, v6: 1024 },
        ports: vec![port("flooded", "net_ring0"), port("quiet", "net_ring1")],
        max_ports: 2,
    }
}

/// The source is behind the quiet port; the destination, once there is a cutover, behind the flooded one.
fn snapshot(generation: u64, is_cut_over: bool) -> Arc<Snapshot> {
    let port = |id| {
        let (addresses, link) = (vec![0x0a09_0001_u32.ip()], Link::untagged(id));
        Some(Port { mac: mac(id), addresses, role: PortRole::Uplink, link, twin: None })
    };
    let ports = vec![port(FLOODED), port(QUIET)];
    let route = ("10.9.0.0/16".parse().expect("prefix"), NextHop { port: FLOODED, via: None });
    let destination =
        Destination { backend: backend(1, FLOODED), cut_over: Some(Cutover::default()) };
    let address = ManagedAddress {
        address: ADDRESS.into(),
        hosted: true,
        tracked: true,
        epoch: generation as u32,
        home: backend(0, QUIET),
        destination: is_cut_over.then_some(destination),
        quic: None,
    };
    let routing = Routing::plain(&ports, [route], []);
    Arc::new(Snapshot::new(generation, ports, [address], routing).expect("snapshot"))
}

/// A client's SYN, as it comes by this port.
fn syn(by: PortId, client: u16) -> Vec<u8> {
    let [a, b] = client.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac(by).0)
        .ipv4([10, 9, a + 1, b], ADDRESS, 64)
        .tcp(40_000, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .expect("frame");
    frame
}

fn old_of(workers: &Workers) -> u64 {
    workers.counters(0).outcome(Outcome::ToSource)
}

fn flood_of(workers: &Workers) -> u64 {
    workers.counters(0).outcome(Outcome::ToDestination)
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain for: {what}");
        thread::yield_now();
    }
}

#[test]
fn keeps_an_old_session_waiting_for_one_burst_at_most() {
    let mut workers = Workers::start(&config()).expect("workers start");
    workers.publish(&snapshot(1, false)).expect("acknowledged");
    workers.transmit(QUIET, &syn(QUIET, 0)).expect("a buffer");
    wait_for("the old session to begin", || old_of(&workers) > 0);
    workers.publish(&snapshot(2, true)).expect("acknowledged");
    for client in 1..=FLOOD {
        workers.transmit(FLOODED, &syn(FLOODED, client)).expect("a buffer");
    }
    let all_have_begun = || workers.counters(0).live(BackendSlot(1)) == u32::from(FLOOD);
    wait_for("the flood to begin", all_have_begun);

    // What is counted of the flood lies within what is counted of the old session: whatever comes between two looks counts for
    // the latter.
    let old = old_of(&workers);
    let flood = flood_of(&workers);
    wait_for("the old session's packet to come round", || old_of(&workers) >= old + ROUNDS);
    let flood = flood_of(&workers) - flood;
    let old = old_of(&workers) - old;
    let burst = BURST as u64;
    assert!(flood <= burst * (old + 1), "{flood} of the flood beside {old}");

    // And the other way round: there was always a whole burst of it.
    let flood = flood_of(&workers);
    let old = old_of(&workers);
    wait_for("the old session's packet to come round", || old_of(&workers) >= old + ROUNDS);
    let old = old_of(&workers) - old;
    let flood = flood_of(&workers) - flood;
    assert!(flood + burst >= burst * old, "{flood} of the flood beside {old}: it was none");

    assert!(all_have_begun() && workers.counters(0).live(BackendSlot(0)) == 1);
    let counters = workers.counters(0);
    let lost: u64 =
        Outcome::ALL.iter().filter(|it| it.is_drop()).map(|&it| counters.outcome(it)).sum();
    assert_eq!(lost, 0, "all of them went round all the time");
}
