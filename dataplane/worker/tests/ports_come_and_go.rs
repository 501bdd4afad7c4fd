//! Ports that are added and removed while two workers run. One test, because DPDK starts once per process.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use tidegate_dataplane::{
    packet::{Address as _, Mac},
    pipeline::{Capacity, Outcome},
    steering::{
        Backend, BackendSlot, Link, ManagedAddress, NextHop, Port, PortId, PortRole, Rewrite,
        Routing, Snapshot,
    },
};
use tidegate_worker::{Idle, PortError, PortSpec, Routes, Workers, WorkersConfig};

const ADDRESS: u32 = 0x0a09_0064;
const UPLINK: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ACCESS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const GUEST: PortId = PortId(1);
const SECOND: PortId = PortId(2);

fn spec(name: &str, device: &str) -> PortSpec {
    PortSpec { name: name.into(), device: device.into(), mac: None, mac_of: None, mtu: 1500 }
}

/// The rig: workers, the snapshots they have seen, the clients that have sent.
struct Rig {
    workers: Workers,
    generation: u64,
    clients: u16,
}

impl Rig {
    fn new() -> Self {
        let config = WorkersConfig {
            hugepages: false,
            memory_mib: 128,
            mbufs: None,
            routes: Routes::Map,
            eal_args: vec!["--log-level=*:critical".into()],
            cpus: vec![0, 1],
            idle: Idle::Sleep,
            sessions: Capacity { v4: 8192, v6: 1024 },
            ports: vec![spec("uplink", "net_ring0")],
            max_ports: 3,
        };
        let workers = Workers::start(&config).expect("workers start");
        Self { workers, generation: 0, clients: 0 }
    }

    /// Have the workers send the managed address's packets to the guest's port, or know neither.
    fn publish(&mut self, guest: bool) {
        self.generation += 1;
        let port = |device, mac, role| {
            let addresses = vec![0x0a09_0001_u32.ip()];
            Some(Port { mac, addresses, role, link: Link::untagged(device), twin: None })
        };
        let mut ports = vec![port(PortId(0), UPLINK, PortRole::Uplink), None, None];
        if self.workers.ports()[2].is_some() {
            ports[2] = port(SECOND, UPLINK, PortRole::Uplink);
        }
        let mut managed = Vec::new();
        if guest {
            ports[1] = port(GUEST, ACCESS, PortRole::Access);
            let mac = Mac([2, 0, 0, 0, 1, 0]);
            let home = Backend { slot: BackendSlot(0), port: GUEST, mac, rewrite: Rewrite::L2 };
            managed.push(ManagedAddress {
                address: ADDRESS.ip(),
                hosted: true,
                tracked: true,
                epoch: 1,
                home,
                destination: None,
                quic: None,
            });
        }
        let hop = NextHop { port: PortId(0), via: None };
        let route = ("10.9.0.0/24".parse().expect("prefix"), hop);
        let routing = Routing::plain(&ports, [route], []);
        let snapshot = Snapshot::new(self.generation, ports, managed, routing).expect("snapshot");
        self.workers.publish(&Arc::new(snapshot)).expect("acknowledged");
    }

    /// Each of `count` new clients sends a SYN to the managed address.
    fn send(&mut self, count: u16) {
        for client in self.clients..self.clients + count {
            let [a, b] = client.to_be_bytes();
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], UPLINK.0)
                .ipv4([10, 9, a + 1, b], [10, 9, 0, 100], 64)
                .tcp(10_000, 80, 1, 1000)
                .syn()
                .write(&mut frame, &[])
                .expect("frame");
            self.workers.transmit(PortId(0), &frame).expect("a buffer");
        }
        self.clients += count;
    }

    /// One client sends datagrams to the managed address, numbered from 0.
    fn send_datagrams(&mut self, count: u16) {
        for number in 0..count {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], UPLINK.0)
                .ipv4([10, 9, 0, 9], [10, 9, 0, 100], 64)
                .udp(10_000, 53)
                .write(&mut frame, &number.to_be_bytes())
                .expect("frame");
            self.workers.transmit(PortId(0), &frame).expect("a buffer");
        }
    }

    /// The same for a port that takes none of them, not all at once: rings between workers have bounds of their own.
    fn send_and_keep(&mut self, count: u64) {
        const AT_ONCE: u64 = 64;
        for kept in (0..count).step_by(AT_ONCE as usize) {
            self.send_datagrams(AT_ONCE as u16);
            let all = || u64::from(self.workers.buffers_in_use()) == kept + AT_ONCE;
            self.wait("all to be kept", all);
            // From one worker to the other, and back to the one that has the queue.
            self.let_workers_go_round();
        }
    }

    /// Wait until nothing that was between workers still is.
    fn let_workers_go_round(&self) {
        for worker in [0, 1, 0, 1] {
            let polls = || self.workers.counters(worker).polls.get();
            let before = polls();
            self.wait("a worker to go on", || polls() > before + 3);
        }
    }

    /// Sum over workers.
    fn total(&self, outcome: Outcome) -> u64 {
        let workers = 0..self.workers.count();
        workers.map(|worker| self.workers.counters(worker).outcome(outcome)).sum()
    }

    fn await_total(&self, outcome: Outcome, wanted: u64) {
        self.wait(&format!("{wanted} of {outcome:?}"), || self.total(outcome) == wanted);
    }

    fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            let totals: Vec<_> = Outcome::ALL
                .iter()
                .map(|&outcome| (outcome.name(), self.total(outcome)))
                .filter(|(_, total)| *total > 0)
                .collect();
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "in vain: {what}; {} buffers in use; {totals:?}",
                self.workers.buffers_in_use()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Nothing is lost: each packet has ended, each buffer is back.
    fn assert_nothing_is_lost(&self) {
        let workers = 0..self.workers.count();
        let received = || -> u64 {
            workers.clone().map(|worker| self.workers.counters(worker).received.get()).sum()
        };
        let ended = || Outcome::ALL.iter().map(|&outcome| self.total(outcome)).sum();
        self.wait("every packet to end", || received() == ended());
        self.wait("every buffer to be back", || self.workers.buffers_in_use() == 0);
    }
}

#[test]
fn ports_come_and_go() {
    let mut rig = Rig::new();
    rig.publish(false);
    a_port_carries_packets_from_when_it_is_added(&mut rig);
    packets_to_a_removed_port_end_by_name(&mut rig);
    ports_have_room_and_devices_are_free_again(&mut rig);
    a_port_at_full_speed_goes_without_a_trace(&mut rig);
    what_waits_for_a_first_fragment_goes_with_its_port(&mut rig);
    a_socket_nobody_is_at_comes_and_goes(&mut rig);
    a_held_port_keeps_what_its_device_does_not_take(&mut rig);
    a_released_port_gives_all_it_has_kept(&mut rig);
    a_hold_has_bounds(&mut rig);
}

fn a_port_carries_packets_from_when_it_is_added(rig: &mut Rig) {
    assert_eq!(
        rig.workers.ports().iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, false]
    );
    let guest = spec("vm", "net_null0,no-rx=1");
    assert_eq!(rig.workers.add_port(&guest).expect("opens"), GUEST);
    assert_eq!(rig.workers.ports()[1].expect("there").queues, 2);
    rig.publish(true);
    rig.send(100);
    rig.await_total(Outcome::ToSource, 100);
    assert_eq!(rig.workers.port_stats(GUEST).tx_packets, 100);
}

fn packets_to_a_removed_port_end_by_name(rig: &mut Rig) {
    // The workers still act on a snapshot that names it.
    rig.workers.remove_port(GUEST).expect("closes");
    assert_eq!(rig.workers.ports()[1], None);
    rig.send(100);
    rig.await_total(Outcome::PortGone, 100);
    assert_eq!(rig.total(Outcome::ToSource), 100);
    let again = rig.workers.remove_port(GUEST).expect_err("it is gone");
    assert!(matches!(again, PortError::Unknown { port: GUEST }), "{again}");
    // It comes back under the same name, number and device, and goes on.
    rig.workers.add_port(&spec("vm", "net_null0,no-rx=1")).expect("opens again");
    rig.send(100);
    rig.await_total(Outcome::ToSource, 200);
    assert_eq!(rig.workers.port_stats(GUEST).tx_packets, 100, "counted anew");
    rig.assert_nothing_is_lost();
}

fn ports_have_room_and_devices_are_free_again(rig: &mut Rig) {
    let taken = rig.workers.add_port(&spec("other", "net_null0")).expect_err("in use").to_string();
    assert!(taken.contains("`other`") && taken.contains("File exists"), "{taken}");
    let wrong =
        rig.workers.add_port(&spec("other", "no_such0")).expect_err("no driver").to_string();
    assert!(wrong.contains("no_such0"), "{wrong}");
    let absent =
        rig.workers.add_port(&spec("card", "0000:7f:1f.7")).expect_err("absent").to_string();
    assert!(absent.contains("No such device"), "{absent}");
    assert_eq!(
        rig.workers.add_port(&spec("other", "net_null1,no-rx=1")).expect("opens"),
        PortId(2)
    );
    let full = rig.workers.add_port(&spec("more", "net_null2")).expect_err("full").to_string();
    assert!(full.contains("3 ports") && full.contains("max_ports"), "{full}");
    rig.workers.remove_port(PortId(2)).expect("closes");
}

fn a_port_at_full_speed_goes_without_a_trace(rig: &mut Rig) {
    for round in 1..=20 {
        // It receives as fast as it is polled.
        let busy = rig.workers.add_port(&spec("busy", "net_null1")).expect("opens");
        assert_eq!(busy, PortId(2));
        let polls = |rig: &Rig, worker| rig.workers.counters(worker).polls.get();
        let before = [polls(rig, 0), polls(rig, 1)];
        rig.send(20);
        rig.await_total(Outcome::ToSource, 200 + 20 * round);
        rig.workers.remove_port(busy).expect("closes");
        assert!((0..2).all(|worker| polls(rig, worker) > before[worker]), "both polled on");
    }
    assert!(rig.total(Outcome::NotForUs) > 20, "it did receive");
    rig.assert_nothing_is_lost();
}

fn what_waits_for_a_first_fragment_goes_with_its_port(rig: &mut Rig) {
    assert_eq!(rig.workers.add_port(&spec("second", "net_ring1")).expect("opens"), SECOND);
    rig.publish(true);
    let mut header =
        Ipv4Header::new(8, 64, IpNumber::UDP, [10, 9, 1, 1], [10, 9, 0, 100]).expect("it is short");
    header.fragment_offset = IpFragOffset::try_new(100).expect("in range");
    header.header_checksum = header.calc_header_checksum();
    let mut frame = Vec::new();
    Ethernet2Header {
        source: [2, 0, 0, 0, 0, 9],
        destination: UPLINK.0,
        ether_type: EtherType::IPV4,
    }
    .write(&mut frame)
    .expect("frame");
    header.write(&mut frame).expect("frame");
    frame.extend([0; 8]);
    let gone = rig.total(Outcome::PortGone);
    rig.workers.transmit(SECOND, &frame).expect("a buffer");
    rig.wait("it to be held", || rig.workers.buffers_in_use() == 1);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.workers.buffers_in_use(), 1, "held, not under way");
    rig.workers.remove_port(SECOND).expect("closes");
    assert_eq!((rig.total(Outcome::PortGone), rig.workers.buffers_in_use()), (gone + 1, 0));
    rig.publish(true);
}

/// Two ends of shared memory: nothing is taken at one before the other is there.
fn memif(socket: &Path, role: &str) -> PortSpec {
    let number = u8::from(role == "client");
    let device = format!("net_memif{number},role={role},socket={}", socket.display());
    spec(role, &format!("{device},socket-abstract=no"))
}

fn a_held_port_keeps_what_its_device_does_not_take(rig: &mut Rig) {
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("memif");
    assert_eq!(rig.workers.add_port(&memif(&socket, "server")).expect("opens"), GUEST);
    rig.publish(true);
    let before = [Outcome::ToSource, Outcome::TransmitFull].map(|outcome| rig.total(outcome));
    rig.send_datagrams(3);
    rig.await_total(Outcome::TransmitFull, before[1] + 3);

    let until = rig.workers.now_ms() + 60_000;
    rig.workers.hold_port(GUEST, until).expect("held");
    rig.workers.hold_port(GUEST, until).expect("longer");
    rig.send_and_keep(512);
    assert_eq!(rig.total(Outcome::TransmitFull), before[1] + 3, "nothing is dropped");
    // As soon as the other end takes packets, they go.
    assert_eq!(rig.workers.add_port(&memif(&socket, "client")).expect("opens"), SECOND);
    rig.await_total(Outcome::ToSource, before[0] + 512);
    assert_eq!(rig.workers.port_stats(GUEST).tx_packets, 512);
    assert_eq!(rig.workers.release_port(GUEST).expect("released"), 512);
    assert_eq!(rig.workers.release_port(GUEST).expect("again"), 0);
    // One end after the other: DPDK tells each of the other's end by a thread of its own.
    rig.workers.remove_port(GUEST).expect("closes");
    rig.wait("the other end to see it", || !rig.workers.ports()[2].expect("there").link_up);
    rig.workers.remove_port(SECOND).expect("closes");
    rig.assert_nothing_is_lost();
}

/// What is kept when a port is released waits on, and what comes later behind it, until the device takes packets again.
fn a_released_port_gives_all_it_has_kept(rig: &mut Rig) {
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("memif");
    rig.workers.add_port(&memif(&socket, "server")).expect("opens");
    let before = [Outcome::ToSource, Outcome::TransmitFull].map(|outcome| rig.total(outcome));
    rig.workers.hold_port(GUEST, rig.workers.now_ms() + 60_000).expect("held");
    rig.send_and_keep(320);
    assert_eq!(rig.workers.release_port(GUEST).expect("released"), 320);
    assert_eq!(rig.workers.release_port(GUEST).expect("again"), 0);
    rig.send_datagrams(20);
    rig.wait("all to be kept", || rig.workers.buffers_in_use() == 340);
    assert_eq!(rig.workers.add_port(&memif(&socket, "client")).expect("opens"), SECOND);
    rig.await_total(Outcome::ToSource, before[0] + 340);
    rig.workers.remove_port(GUEST).expect("closes");
    rig.wait("the other end to see it", || !rig.workers.ports()[2].expect("there").link_up);
    rig.workers.remove_port(SECOND).expect("closes");

    // Where it does not in time, what was kept is dropped, and the hold is over.
    rig.workers.add_port(&memif(&socket, "server")).expect("opens");
    rig.workers.hold_port(GUEST, rig.workers.now_ms() + 60_000).expect("held");
    rig.send_and_keep(64);
    assert_eq!(rig.workers.release_port(GUEST).expect("released"), 64);
    rig.await_total(Outcome::TransmitFull, before[1] + 64);
    rig.send_datagrams(1);
    rig.await_total(Outcome::TransmitFull, before[1] + 65);
    rig.workers.remove_port(GUEST).expect("closes");
    rig.assert_nothing_is_lost();
}

/// It has room for so many packets, ends by itself, and goes with its port.
fn a_hold_has_bounds(rig: &mut Rig) {
    const ROOM: u64 = 2048;
    let dir = tempfile::tempdir().expect("dir");
    let server = memif(&dir.path().join("memif"), "server");
    rig.workers.add_port(&server).expect("opens");
    let dropped = |rig: &Rig| rig.total(Outcome::HoldFull) + rig.total(Outcome::TransmitFull);
    let before = dropped(rig);
    const DEADLINE_MS: u64 = 60_000;
    rig.workers.hold_port(GUEST, rig.workers.now_ms() + DEADLINE_MS).expect("held");
    rig.send_and_keep(ROOM);
    rig.send_datagrams(100);
    rig.wait("as many as have no room to be dropped", || dropped(rig) == before + 100);
    assert!(rig.total(Outcome::HoldFull) > 0);
    let before = rig.total(Outcome::TransmitFull);
    // Its deadline comes, and nobody has released it.
    rig.workers.hold_port(GUEST, rig.workers.now_ms() + 50).expect("shorter");
    rig.await_total(Outcome::TransmitFull, before + ROOM);
    assert_eq!(rig.workers.release_port(GUEST).expect("it is over"), 0);
    rig.send_datagrams(1);
    rig.await_total(Outcome::TransmitFull, before + ROOM + 1);

    let gone = rig.total(Outcome::PortGone);
    rig.workers.hold_port(GUEST, rig.workers.now_ms() + 60_000).expect("held");
    rig.send_datagrams(7);
    rig.wait("all to be kept", || rig.workers.buffers_in_use() == 7);
    rig.workers.remove_port(GUEST).expect("closes");
    assert_eq!(rig.total(Outcome::PortGone), gone + 7);
    let error = rig.workers.hold_port(GUEST, 0).expect_err("no such port");
    assert!(matches!(error, PortError::Unknown { port: GUEST }), "{error}");
    rig.assert_nothing_is_lost();
}

fn a_socket_nobody_is_at_comes_and_goes(rig: &mut Rig) {
    rig.workers.remove_port(GUEST).expect("closes");
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("vm.sock");
    let device = format!("net_vhost0,iface={}", socket.display());
    let before = rig.total(Outcome::TransmitFull);
    for round in 1..=3 {
        assert_eq!(rig.workers.add_port(&spec("vm", &device)).expect("opens"), GUEST);
        assert!(socket.exists());
        assert!(!rig.workers.ports()[1].expect("there").link_up);
        assert_eq!(rig.workers.transmit_full(GUEST), 0, "not what was counted for another port");
        rig.send(10);
        rig.await_total(Outcome::TransmitFull, before + 10 * round);
        assert_eq!(rig.workers.transmit_full(GUEST), 10);
        rig.workers.remove_port(GUEST).expect("closes");
        assert!(!socket.exists());
    }
    rig.assert_nothing_is_lost();
}
