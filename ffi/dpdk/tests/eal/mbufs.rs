//! Pools, mbufs and bursts.

use std::thread;

use proptest::prelude::*;
use tidegate_dpdk::{Burst, Error, PoolConfig};

use crate::{POOL_MBUFS, Rig, numbers};

#[test]
fn a_dropped_mbuf_is_back_in_its_pool() {
    let rig = Rig::new();
    let mbuf = rig.pool.alloc().expect("an mbuf");
    assert_eq!((mbuf.len(), mbuf.packet_len(), mbuf.is_contiguous()), (0, 0, true));
    assert_eq!((rig.pool.in_use(), rig.pool.available()), (1, POOL_MBUFS - 1));
    drop(mbuf);
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn a_burst_is_allocated_whole_or_not_at_all() {
    let rig = Rig::new();
    // Without caches, where other lcores may hold mbufs of the shared pool.
    let config = PoolConfig { mbufs: 63, cache: 0, ..PoolConfig::default() };
    let pool = rig.eal.create_pool("uncached", &config).expect("pool");
    let mut first = Burst::<32>::new();
    let mut second = Burst::<32>::new();
    assert_eq!(pool.alloc_burst(&mut first, 32), 32);
    assert_eq!(pool.alloc_burst(&mut second, 32), 0, "only 31 are left");
    assert_eq!(pool.alloc_burst(&mut second, 31), 31);
    assert!(pool.alloc().is_none());
    drop(first);
    assert_eq!(pool.in_use(), 31);
    assert_eq!(pool.alloc_burst(&mut second, 10), 1, "the burst has room for one");
    drop(second);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn data_grows_and_shrinks_within_the_buffer() {
    let rig = Rig::new();
    let mut mbuf = rig.packet(b"payload");
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (128, 2048 - 7));

    mbuf.prepend(3).expect("headroom").copy_from_slice(b"ip ");
    mbuf.append(4).expect("tailroom").copy_from_slice(b" end");
    assert_eq!(mbuf.data(), b"ip payload end");
    assert_eq!((mbuf.len(), mbuf.packet_len()), (14, 14));

    assert!(mbuf.trim_front(3) && mbuf.trim_back(4));
    mbuf.data_mut()[0] = b'P';
    assert_eq!(mbuf.data(), b"Payload");

    assert!(mbuf.prepend(129).is_none() && mbuf.append(2042).is_none());
    assert!(mbuf.prepend(usize::MAX).is_none() && mbuf.append(usize::MAX).is_none());
    assert!(!mbuf.trim_front(8) && !mbuf.trim_back(8));
    assert!(!mbuf.set_data(&[0; 2049]));
    assert_eq!(mbuf.data(), b"Payload", "what is refused changes nothing");

    assert!(mbuf.linearize());
    assert!(mbuf.set_data(&[7; 2048]));
    assert_eq!((mbuf.len(), mbuf.tailroom()), (2048, 0));
    assert!(mbuf.prepend(128).is_some());
    assert_eq!((mbuf.len(), mbuf.headroom()), (2176, 0));
}

#[test]
fn a_full_burst_gives_the_mbuf_back() {
    let rig = Rig::new();
    let mut burst: Burst<2> = rig.numbered(0, 2);
    assert!(burst.is_full());
    let refused = burst.push(rig.packet(b"x")).expect_err("is full");
    assert_eq!(refused.data(), b"x");
    assert_eq!(rig.pool.in_use(), 3);
}

#[test]
fn what_is_not_drained_is_freed() {
    let rig = Rig::new();
    let mut burst: Burst<8> = rig.numbered(0, 8);
    let mut drain = burst.drain();
    assert_eq!(drain.len(), 8);
    let kept = drain.next().expect("first");
    drop(drain);
    assert!(burst.is_empty());
    assert_eq!((kept.data(), rig.pool.in_use()), (&[0][..], 1));
}

#[test]
fn a_drain_is_divided_and_moved_in_order() {
    let rig = Rig::new();
    let mut burst: Burst<8> = rig.numbered(0, 8);
    let mut to: Burst<4> = rig.numbered(20, 1);
    let mut drain = burst.drain();
    let mut front = drain.take_front(5);
    assert_eq!((front.len(), drain.len()), (5, 3));
    assert_eq!(to.take_from(&mut front), 3);
    assert_eq!(to.take_from(&mut front), 0);
    assert_eq!(numbers(&to), [20, 0, 1, 2]);
    drop(front);
    assert_eq!(drain.take_front(9).map(|mbuf| mbuf.data()[0]).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(drain.len(), 0);
    assert_eq!(rig.pool.in_use(), 4);
}

#[test]
fn forgetting_a_drain_leaves_no_second_owner() {
    let rig = Rig::new();
    let mut burst: Burst<4> = rig.numbered(0, 4);
    let pulled: Vec<_> = {
        let mut drain = burst.drain();
        let pulled = drain.by_ref().collect();
        std::mem::forget(drain);
        pulled
    };
    assert!(burst.is_empty());
    drop(burst);
    assert_eq!(rig.pool.in_use(), 4);
    drop(pulled);
}

#[test]
fn mbufs_are_freed_on_any_thread() {
    let rig = Rig::new();
    let burst: Burst<32> = rig.numbered(0, 32);
    let single = rig.packet(b"x");
    let thread = thread::spawn(move || {
        assert_eq!(numbers(&burst), (0..32).collect::<Vec<u8>>());
        drop((burst, single));
    });
    thread.join().expect("no panic");
}

#[test]
fn pool_errors_name_the_pool() {
    let rig = Rig::new();
    let config = PoolConfig { mbufs: 7, cache: 0, ..PoolConfig::default() };
    let text = |name: &str, config: &PoolConfig| {
        rig.eal.create_pool(name, config).expect_err("is refused").to_string()
    };
    let taken = text(rig.pool.name(), &config);
    assert!(taken.contains(rig.pool.name()) && taken.contains("File exists"), "{taken}");
    let huge = text("huge", &PoolConfig { mbufs: 1 << 24, ..config.clone() });
    assert!(huge.contains("Cannot allocate memory"), "{huge}");
    let cache = text("cache", &PoolConfig { cache: 4096, ..config.clone() });
    assert!(cache.contains("Invalid argument"), "{cache}");
    let wide = text("wide", &PoolConfig { data_bytes: u16::MAX, ..config.clone() });
    assert!(wide.contains("Invalid argument"), "{wide}");
    assert!(matches!(rig.eal.create_pool("a\0b", &config), Err(Error::NulByte { .. })));
}

/// One step on a burst; numbers are taken modulo what makes sense.
#[derive(Debug, Clone)]
enum Step {
    Push,
    Pop,
    SwapRemove(usize),
    AppendOther(u8),
    DrainSome(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Push),
        2 => Just(Step::Pop),
        2 => (0_usize..20).prop_map(Step::SwapRemove),
        2 => (0_u8..9).prop_map(Step::AppendOther),
        1 => (0_usize..20).prop_map(Step::DrainSome),
        1 => Just(Step::Clear),
    ]
}

/// A burst behaves as a vector of at most 16, and owns exactly its mbufs.
#[test]
fn a_burst_is_a_bounded_vector() {
    let rig = Rig::new();
    let strategy = prop::collection::vec(step(), 0..60);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    proptest!(config, |(steps in strategy)| {
        let mut burst = Burst::<16>::new();
        let mut oracle: Vec<u8> = Vec::new();
        let mut next = 0_u8;
        for step in steps {
            match step {
                Step::Push => {
                    let pushed = burst.push(rig.packet(&[next])).is_ok();
                    prop_assert_eq!(pushed, oracle.len() < 16);
                    if pushed { oracle.push(next); }
                    next = next.wrapping_add(1);
                }
                Step::Pop => {
                    prop_assert_eq!(burst.pop().map(|mbuf| mbuf.data()[0]), oracle.pop());
                }
                Step::SwapRemove(index) => {
                    let expected = (index < oracle.len()).then(|| oracle.swap_remove(index));
                    prop_assert_eq!(burst.swap_remove(index).map(|mbuf| mbuf.data()[0]), expected);
                }
                Step::AppendOther(count) => {
                    let mut other: Burst<8> = rig.numbered(100, count.min(8));
                    burst.append(&mut other);
                    let fits = (16 - oracle.len()).min(usize::from(count.min(8)));
                    oracle.extend((100..).take(fits));
                    prop_assert_eq!(numbers(&other), (100..100 + count.min(8)).skip(fits).collect::<Vec<_>>());
                }
                Step::DrainSome(count) => {
                    let drained: Vec<u8> = burst.drain().take(count).map(|mbuf| mbuf.data()[0]).collect();
                    prop_assert_eq!(&drained[..], &oracle[..count.min(oracle.len())]);
                    oracle.clear();
                }
                Step::Clear => { burst.clear(); oracle.clear(); }
            }
            prop_assert_eq!(numbers(&burst), oracle.clone());
            prop_assert_eq!(rig.pool.in_use() as usize, oracle.len());
        }
    });
}
