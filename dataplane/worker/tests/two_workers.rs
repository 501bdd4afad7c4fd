//! Two workers on real DPDK ports: rings whose transmit side is their receive side, so that a frame sent out comes back
//! in. One test, because DPDK starts once per process.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::{Ipv4Header, PacketBuilder};
use tidegate_dataplane::{
    packet::{Address as _, Mac, arp},
    pipeline::{Capacity, Outcome, Punt},
    steering::{
        Backend, BackendSlot, Cutover, Destination, Link, ManagedAddress, NextHop, Port, PortId,
        PortRole, Rewrite, Routing, Snapshot,
    },
};
use tidegate_worker::{Counted, Idle, PortSpec, Routes, Workers, WorkersConfig};

const ADDRESS: u32 = 0x0a09_0064;
const UPLINK: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SOURCE: Backend = backend(0, 1);
/// Another managed address, whose VM is behind the uplink.
const CALLER_ADDRESS: u32 = 0x0a09_0065;
const CALLER: Backend = backend(2, 0);
const CLIENTS: u16 = 200;
/// As many as one shard has room for before they are answered.
const CALLS: u16 = 60;

const fn backend(slot: u32, port: u16) -> Backend {
    let mac = Mac([2, 0, 0, 0, 1, slot as u8]);
    Backend { slot: BackendSlot(slot), port: PortId(port), mac, rewrite: Rewrite::L2 }
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
        cpus: vec![0, 1],
        idle: Idle::Sleep,
        sessions: Capacity { v4: 1024, v6: 1024 },
        ports: vec![
            port("uplink", "net_ring0"),
            port("vm0", "net_null0,no-rx=1"),
            port("vm1", "net_null1,no-rx=1"),
        ],
        max_ports: 3,
    }
}

fn snapshot(generation: u64, destination: Option<Destination>) -> Arc<Snapshot> {
    let port = |device, mac, role| {
        let addresses = vec![0x0a09_0001_u32.ip()];
        Some(Port { mac, addresses, role, link: Link::untagged(PortId(device)), twin: None })
    };
    let access = Mac([2, 0, 0, 0, 0, 2]);
    let ports = vec![
        port(0, UPLINK, PortRole::Uplink),
        port(1, access, PortRole::Access),
        port(2, access, PortRole::Access),
    ];
    let route = ("10.9.0.0/24".parse().expect("prefix"), NextHop { port: PortId(0), via: None });
    let address = ManagedAddress {
        address: ADDRESS.ip(),
        hosted: true,
        tracked: true,
        epoch: generation as u32,
        home: SOURCE,
        destination,
        quic: None,
    };
    let caller = ManagedAddress {
        address: CALLER_ADDRESS.ip(),
        epoch: 1,
        home: CALLER,
        destination: None,
        ..address
    };
    let routing = Routing::plain(&ports, [route], []);
    let addresses = [address, caller];
    let mut snapshot = Snapshot::new(generation, ports, addresses, routing).expect("snapshot");
    snapshot.counted_at_install = destination.map(|_| SOURCE.slot).into_iter().collect();
    Arc::new(snapshot)
}

fn syn(client: u16) -> Vec<u8> {
    let [a, b] = client.to_be_bytes();
    syn_of([10, 9, a + 1, b], 10_000 + client)
}

fn syn_of(source: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], UPLINK.0)
        .ipv4(source, [10, 9, 0, 100], 64)
        .tcp(port, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .expect("frame");
    frame
}

/// A client's UDP datagram in three fragments, the first last.
fn fragments_backwards(client: u16) -> Vec<Vec<u8>> {
    let [a, b] = client.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], UPLINK.0)
        .ipv4([10, 9, a + 1, b], [10, 9, 0, 100], 64)
        .udp(10_000 + client, 80)
        .write(&mut frame, &[7; 1000])
        .expect("frame");
    let (link, rest) = frame.split_at(14);
    let (ip, _) = Ipv4Header::from_slice(rest).expect("IPv4");
    let pieces = rest[20..].chunks(400).zip([0u16, 50, 100]).map(|(piece, offset)| {
        let mut ip = ip.clone();
        (ip.identification, ip.dont_fragment) = (client, false);
        ip.fragment_offset = offset.try_into().expect("an offset");
        ip.more_fragments = offset < 100;
        ip.set_payload_len(piece.len()).expect("a length");
        ip.header_checksum = ip.calc_header_checksum();
        [link, &ip.to_bytes(), piece].concat()
    });
    pieces.rev().collect()
}

/// Sum over workers.
fn total(workers: &Workers, outcome: Outcome) -> u64 {
    (0..workers.count()).map(|worker| workers.counters(worker).outcome(outcome)).sum()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(5), "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn send_syns(workers: &mut Workers, clients: std::ops::Range<u16>) {
    for client in clients {
        workers.transmit(PortId(0), &syn(client)).expect("a buffer");
    }
}

#[test]
fn sessions_live_on_one_shard_and_cutover_is_counted() {
    let mut workers = Workers::start(&config()).expect("workers start");
    assert_eq!(workers.ports().iter().flatten().count(), 3);
    assert_eq!(workers.count(), 2);
    let acknowledged = workers.publish(&snapshot(1, None)).expect("acknowledged");
    assert_eq!(acknowledged.counted, []);

    send_syns(&mut workers, 0..CLIENTS);
    wait_for("old sessions to begin", || total(&workers, Outcome::ToSource) == u64::from(CLIENTS));
    let sessions = workers.sessions(&[ADDRESS.ip()], usize::MAX).expect("a listing");
    assert_eq!(sessions.len(), usize::from(CLIENTS));
    // Both shards have their part, whichever worker's queue the packets came by.
    for worker in 0..2 {
        let here = sessions.iter().filter(|(at, _)| *at == worker).count();
        assert!(here > usize::from(CLIENTS) / 4, "worker {worker} has {here}");
        assert_eq!(u64::from(workers.counters(worker).live(SOURCE.slot)), here as u64);
    }
    assert_eq!(workers.sessions(&[], 7).expect("a listing").len(), 7);

    let destination = Destination { backend: backend(1, 2), cut_over: Some(Cutover::default()) };
    let acknowledged = workers.publish(&snapshot(2, Some(destination))).expect("acknowledged");
    let counted = Counted { slot: SOURCE.slot, live: CLIENTS.into(), begun_by_vm: 0 };
    assert_eq!(acknowledged.counted, [counted]);

    // Old clients again (retransmitted SYN) stay; new ones go to the destination.
    send_syns(&mut workers, 0..CLIENTS + 50);
    wait_for("new sessions to begin", || total(&workers, Outcome::ToDestination) == 50);
    wait_for("old ones to stay", || total(&workers, Outcome::ToSource) == 2 * u64::from(CLIENTS));

    // Later fragments wait for their first, on either worker, and follow it; without it they do not wait for ever.
    for client in 0..CLIENTS {
        for frame in fragments_backwards(client) {
            workers.transmit(PortId(0), &frame).expect("a buffer");
        }
    }
    let datagrams = 3 * u64::from(CLIENTS);
    wait_for("fragments to follow", || total(&workers, Outcome::ToDestination) == 50 + datagrams);
    for client in CLIENTS..CLIENTS + 20 {
        workers.transmit(PortId(0), &fragments_backwards(client)[0]).expect("a buffer");
    }
    wait_for("others to expire", || total(&workers, Outcome::FragmentExpired) == 20);

    // One VM calls another: its sessions are all on the shard of the one address and port it calls, the other's are spread.
    let before = total(&workers, Outcome::ToDestination);
    for port in 0..CALLS {
        workers.transmit(PortId(0), &syn_of([10, 9, 0, 101], 20_000 + port)).expect("a buffer");
    }
    let called = before + u64::from(CALLS);
    wait_for("calls", || total(&workers, Outcome::ToDestination) == called);
    let live = |slot| [0, 1].map(|worker| workers.counters(worker).live(slot));
    let [here, there] = live(CALLER.slot);
    assert!(here + there == u32::from(CALLS) && here * there == 0, "{here} and {there}");
    let from_caller = workers.sessions(&[ADDRESS.ip()], usize::MAX).expect("a listing");
    let from_caller = from_caller.iter().filter(|(_, it)| it.tuple.client == CALLER_ADDRESS.ip());
    let [here, there] = [0, 1].map(|at| from_caller.clone().filter(|(on, _)| *on == at).count());
    assert!(here + there == usize::from(CALLS) && here.min(there) > 10, "{here} and {there}");

    // An announcement of a host on the link, looped back, is noticed.
    let mac = Mac([2, 0, 0, 0, 0, 0x77]);
    workers.transmit(PortId(0), &arp::announcement(mac, 0x0a09_0007)).expect("a buffer");
    let mut noticed = None;
    wait_for("the neighbour", || {
        noticed = workers.take_punts().next();
        noticed.is_some()
    });
    assert_eq!(
        noticed,
        Some(Punt::Neighbour {
            port: PortId(0),
            address: 0x0a09_0007_u32.ip(),
            mac,
            overrides: true
        })
    );

    let received: u64 = (0..2).map(|worker| workers.counters(worker).received.get()).sum();
    let ended: u64 = Outcome::ALL.iter().map(|&outcome| total(&workers, outcome)).sum();
    assert_eq!(received, ended, "every packet ends in one outcome");
    let redirected: u64 = (0..2).map(|worker| workers.counters(worker).redirected.get()).sum();
    assert!(redirected > 0, "a ring has one queue, so some packets changed workers");
    wait_for("idle workers to sleep", || workers.counters(1).idle_sleeps.get() > 0);
}
