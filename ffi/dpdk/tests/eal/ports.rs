//! Ports, queues, statistics, and devices that come and go.

use std::thread;

use tidegate_dpdk::{Burst, Error, Mbuf, PoolConfig, PortConfig, QueuePair};

use crate::{Rig, numbers};

/// What a ring of a ring device holds.
const RING_PACKETS: usize = 1023;

fn one(queues: Vec<QueuePair>) -> QueuePair {
    queues.into_iter().next().expect("one queue pair")
}

#[test]
fn ports_are_found_by_name_and_device_string() {
    let rig = Rig::new();
    let names: Vec<_> = rig.eal.ports().expect("ports").into_iter().map(|port| port.name).collect();
    assert!(names.contains(&"net_null0".to_owned()) && names.contains(&rig.ring), "{names:?}");
    let port = rig.eal.port("net_null0,size=64").expect("is there");
    assert_eq!((port.name(), port.driver()), ("net_null0", "net_null"));
    assert!(port.max_queue_pairs() >= 1 && !port.is_started());
    let error = rig.eal.port("net_tap7").expect_err("is not there").to_string();
    assert!(error.contains("net_tap7") && error.contains("net_null0"), "{error}");
}

#[test]
fn a_port_has_one_owner() {
    let rig = Rig::new();
    let port = rig.ring_port();
    assert!(matches!(rig.eal.port(&rig.ring), Err(Error::PortClaimed { .. })));
    let queues = port.start(&PortConfig::default(), &rig.pool).expect("starts");
    drop(port);
    assert!(
        matches!(rig.eal.port(&rig.ring), Err(Error::PortClaimed { .. })),
        "queues own it, too"
    );
    drop(queues);
    drop(rig.ring_port());
}

#[test]
fn packets_pass_a_ring_in_order_and_unchanged() {
    let rig = Rig::new();
    let mut pair = one(rig.ring_port().start(&PortConfig::default(), &rig.pool).expect("starts"));
    let unsent = pair.tx.tx_burst(rig.numbered::<32>(0, 32));
    assert!(unsent.is_empty());
    let mut received = Burst::<64>::new();
    received.push(rig.packet(b"\xff")).expect("room");
    assert_eq!(pair.rx.rx_burst(&mut received), 32, "added behind what is there");
    received.prefetch_data();
    assert_eq!(numbers(&received), [255].into_iter().chain(0..32).collect::<Vec<u8>>());
    assert_eq!(pair.rx.rx_burst(&mut received), 0, "nothing is left");
    assert_eq!(rig.pool.in_use(), 33);
}

#[test]
fn a_full_burst_receives_nothing() {
    let rig = Rig::new();
    let mut pair = one(rig.ring_port().start(&PortConfig::default(), &rig.pool).expect("starts"));
    assert!(pair.tx.tx_burst(rig.numbered::<4>(0, 4)).is_empty());
    let mut full: Burst<2> = rig.numbered(50, 2);
    assert_eq!(pair.rx.rx_burst(&mut full), 0);
    assert_eq!(numbers(&full), [50, 51]);
    full.clear();
    assert_eq!((pair.rx.rx_burst(&mut full), numbers(&full)), (2, vec![0, 1]));
    full.clear();
    assert_eq!((pair.rx.rx_burst(&mut full), numbers(&full)), (2, vec![2, 3]));
}

#[test]
fn a_full_ring_hands_back_the_rest() {
    let rig = Rig::new();
    let port = rig.ring_port();
    let mut pair = one(port.start(&PortConfig::default(), &rig.pool).expect("starts"));
    let mut sent = 0;
    let mut returned = loop {
        let unsent = pair.tx.tx_burst(rig.numbered::<32>(0, 32));
        sent += 32 - unsent.len();
        if !unsent.is_empty() {
            break unsent;
        }
    };
    assert_eq!(sent, RING_PACKETS);
    assert_eq!(numbers(&returned), [31], "the tail, in order");
    assert_eq!(pair.tx.tx_drain(&mut returned), 0, "still full");
    assert_eq!(numbers(&returned), [31]);
    assert_eq!(rig.pool.in_use() as usize, RING_PACKETS + 1, "the ring's and the one handed back");

    let mut received = Burst::<32>::new();
    assert_eq!(pair.rx.rx_burst(&mut received), 32);
    assert_eq!(pair.tx.tx_drain(&mut returned), 1, "room again");
    assert!(returned.is_empty());
    received.clear();
    let mut left = 0;
    while pair.rx.rx_burst(&mut received) > 0 {
        left += received.len();
        received.clear();
    }
    assert_eq!(left, RING_PACKETS + 1 - 32);

    let stats = port.stats().expect("stats");
    assert_eq!(stats.tx_packets as usize, RING_PACKETS + 1);
    assert_eq!(stats.rx_packets as usize, RING_PACKETS + 1);
    port.reset_stats().expect("reset");
    assert_eq!(port.stats().expect("stats").rx_packets, 0);
    let names = port.extended_stats().expect("extended stats");
    assert!(
        names.iter().any(|(name, value)| name == "rx_good_packets" && *value == 0),
        "{names:?}"
    );
}

#[test]
fn the_null_device_receives_and_frees() {
    let rig = Rig::new();
    let port = rig.eal.port("net_null0").expect("is there");
    let mut pair = one(port.start(&PortConfig::default(), &rig.pool).expect("starts"));
    let mut burst = Burst::<32>::new();
    assert_eq!(pair.rx.rx_burst(&mut burst), 32);
    assert!(burst.as_slice().iter().all(|mbuf| mbuf.len() == 64 && mbuf.is_contiguous()));
    let kept: Mbuf = burst.swap_remove(5).expect("is there");
    assert!(pair.tx.tx_burst(burst).is_empty());
    assert_eq!(rig.pool.in_use(), 1, "the device freed what it took");
    assert_eq!(kept.len(), 64);
    assert!(port.link().expect("link").up);
}

#[test]
fn the_last_queue_stops_the_port_and_it_starts_again() {
    let rig = Rig::new();
    let port = rig.ring_port();
    for round in 0..3 {
        let mut pair = one(port.start(&PortConfig::default(), &rig.pool).expect("starts"));
        assert!(port.is_started() && port.link().expect("link").up);
        assert!(matches!(
            port.start(&PortConfig::default(), &rig.pool),
            Err(Error::PortStarted { .. })
        ));
        assert!(pair.tx.tx_burst(rig.numbered::<1>(round, 1)).is_empty());
        let mut burst = Burst::<4>::new();
        assert_eq!(pair.rx.rx_burst(&mut burst), 1);
        assert_eq!(numbers(&burst), [round]);
        let QueuePair { rx, tx } = pair;
        drop(rx);
        assert!(port.is_started(), "a transmit queue is left");
        drop(tx);
        assert!(!port.is_started() && !port.link().expect("link").up);
    }
}

#[test]
fn queues_move_to_threads_and_stop_the_port_there() {
    let rig = Rig::new();
    let port = rig.ring_port();
    let config = PortConfig { queue_pairs: 2, ..PortConfig::default() };
    let queues = port.start(&config, &rig.pool).expect("starts");
    let threads = queues.into_iter().map(|mut pair| {
        let burst: Burst<32> = rig.numbered(pair.rx.number() as u8 * 32, 32);
        thread::spawn(move || {
            let expected = numbers(&burst);
            assert!(pair.tx.tx_burst(burst).is_empty());
            let mut back = Burst::<32>::new();
            assert_eq!(pair.rx.rx_burst(&mut back), 32);
            assert_eq!(numbers(&back), expected, "each queue is its own ring");
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("no panic");
    }
    assert!(!port.is_started());
}

#[test]
fn mac_and_promiscuous_can_be_set() {
    let rig = Rig::new();
    let port = rig.eal.port("net_null0").expect("is there");
    let (first, second) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let config = PortConfig { mac: Some(first), promiscuous: true, ..PortConfig::default() };
    let queues = port.start(&config, &rig.pool).expect("starts");
    assert_eq!(port.mac().expect("mac"), first);
    port.set_mac(second).expect("can be set while started");
    assert_eq!(port.mac().expect("mac"), second);
    assert!(matches!(port.set_mac([0; 6]), Err(Error::Call { .. })), "zero is no address");
    assert_eq!(port.mtu().expect("mtu"), 1500);
    drop(queues);

    let ring = rig.ring_port();
    let config = PortConfig { promiscuous: true, ..PortConfig::default() };
    let queues = ring.start(&config, &rig.pool).expect("starts");
    assert!(ring.promiscuous().expect("promiscuous"));
    ring.set_promiscuous(false).expect("can be set");
    assert!(!ring.promiscuous().expect("promiscuous"));
    drop(queues);
}

#[test]
fn what_a_port_cannot_do_is_refused_with_numbers() {
    let rig = Rig::new();
    let port = rig.ring_port();
    let refused =
        |config: PortConfig| port.start(&config, &rig.pool).expect_err("is refused").to_string();
    let many =
        refused(PortConfig { queue_pairs: port.max_queue_pairs() + 1, ..PortConfig::default() });
    assert!(many.contains(&format!("1 to {}", port.max_queue_pairs())), "{many}");
    let none = refused(PortConfig { queue_pairs: 0, ..PortConfig::default() });
    assert!(none.contains("0 queue pairs"), "{none}");
    let small = refused(PortConfig { mtu: 1, ..PortConfig::default() });
    assert!(small.contains("MTU 1 asked"), "{small}");
    let jumbo = refused(PortConfig { mtu: 9000, ..PortConfig::default() });
    assert!(jumbo.contains("9026 bytes per mbuf") && jumbo.contains("2048"), "{jumbo}");
    assert!(!port.is_started());
}

#[test]
fn a_device_comes_and_goes_but_not_under_its_owner() {
    let rig = Rig::new();
    rig.eal.attach("net_null7,size=128").expect("attaches");
    let again = rig.eal.attach("net_null7").expect_err("is there already").to_string();
    assert!(again.contains("net_null7") && again.contains("File exists"), "{again}");
    let port = rig.eal.port("net_null7").expect("is there");
    assert!(matches!(rig.eal.detach("net_null7"), Err(Error::PortClaimed { .. })));
    let mut pair = one(port.start(&PortConfig::default(), &rig.pool).expect("starts"));
    drop(port);
    assert!(matches!(rig.eal.detach("net_null7"), Err(Error::PortClaimed { .. })));
    let mut burst = Burst::<8>::new();
    assert_eq!(pair.rx.rx_burst(&mut burst), 8);
    assert_eq!(burst.as_slice()[7].len(), 128);
    drop(pair);
    rig.eal.detach("net_null7").expect("is free now");
    assert_eq!(burst.as_slice()[7].len(), 128, "packets outlive the device");
    assert!(matches!(rig.eal.port("net_null7"), Err(Error::NoSuchPort { .. })));
    assert!(rig.eal.detach("net_null7").is_err());
    assert!(rig.eal.attach("no_such_driver0").is_err());
}

/// Packets of one pool may be sent by a port that receives into another.
#[test]
fn mbufs_return_to_their_own_pool() {
    let rig = Rig::new();
    let name = format!("{}b", rig.pool.name());
    let config = PoolConfig { mbufs: 255, cache: 0, ..PoolConfig::default() };
    let other = rig.eal.create_pool(&name, &config).expect("pool");
    let port = rig.eal.port("net_null0").expect("is there");
    let mut pair = one(port.start(&PortConfig::default(), &other).expect("starts"));
    let mut burst = Burst::<32>::new();
    rig.pool.alloc_burst(&mut burst, 16);
    assert_eq!(pair.rx.rx_burst(&mut burst), 16);
    assert_eq!((rig.pool.in_use(), other.in_use()), (16, 16));
    assert!(pair.tx.tx_burst(burst).is_empty());
    assert_eq!((rig.pool.in_use(), other.in_use()), (0, 0));
}

/// A capture file that holds one packet of numbered bytes.
fn capture(length: u32) -> tempfile::NamedTempFile {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const VERSION_2_4: u32 = 2 | 4 << 16;
    const ETHERNET: u32 = 1;
    let header = [MAGIC, VERSION_2_4, 0, 0, 65_535, ETHERNET, 0, 0, length, length];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend((0..length).map(|i| i as u8));
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), bytes).expect("written");
    file
}

/// The capture device does not keep to the MTU: what is longer than a buffer comes as a chain.
#[test]
fn a_chain_is_told_refused_and_freed_whole() {
    let rig = Rig::new();
    let config = PoolConfig { mbufs: 63, cache: 0, data_bytes: 600, socket: None };
    let pool = rig.eal.create_pool("short", &config).expect("pool");
    let file = capture(1500);
    let device = format!("net_pcap0,rx_pcap={}", file.path().display());
    rig.eal.attach(&device).expect("attaches");
    let port = rig.eal.port(&device).expect("is there");
    for bulk in [false, true] {
        let short = PortConfig { mtu: 500, ..PortConfig::default() };
        let mut pair = one(port.start(&short, &pool).expect("starts"));
        let mut burst = Burst::<4>::new();
        assert_eq!(pair.rx.rx_burst(&mut burst), 1);
        assert_eq!(pool.in_use(), 3, "1500 bytes in buffers of 600");
        let mbuf = &mut burst.as_mut_slice()[0];
        assert!(!mbuf.is_contiguous());
        assert_eq!((mbuf.len(), mbuf.packet_len()), (600, 1500));
        assert!(mbuf.data().iter().enumerate().all(|(i, &byte)| byte == i as u8));
        assert!(mbuf.append(1).is_none() && !mbuf.trim_back(1) && !mbuf.set_data(b"x"));
        assert!(!mbuf.linearize(), "does not fit into one buffer");
        assert!(mbuf.trim_front(14) && mbuf.prepend(4).is_some());
        assert_eq!((mbuf.len(), mbuf.packet_len()), (590, 1490));
        if bulk {
            drop(burst);
        } else {
            drop(burst.pop());
        }
        assert_eq!(pool.in_use(), 0);
    }
    drop(port);
    rig.eal.detach("net_pcap0").expect("is free");
}
