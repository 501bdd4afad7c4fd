//! The safe API against real DPDK, without hugepages, devices or privileges: EAL runs on ordinary memory with
//! ring and null devices.
//!
//! EAL starts once per process, so all tests of this binary share it and one pool, one at a time (one process
//! per test works as well). Every test checks at its end that each mbuf is back in the pool.

mod fib;
mod hash;
mod lcores;
mod mbufs;
mod ports;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tidegate_dpdk::{Burst, Eal, Mbuf, PktMbufPool, PoolConfig, Port};

/// Mbufs in the tests' pool: more than a ring device holds (1023).
const POOL_MBUFS: u32 = 2047;

/// One test's share of DPDK.
struct Rig {
    eal: Eal,
    pool: PktMbufPool,
    /// A ring device of this test: what is sent on a queue is received from it.
    ring: String,
    _one_test_at_a_time: MutexGuard<'static, ()>,
}

impl Rig {
    fn new() -> Self {
        static SHARED: OnceLock<(Eal, PktMbufPool)> = OnceLock::new();
        static ONE_TEST: Mutex<()> = Mutex::new(());
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let guard = ONE_TEST.lock().unwrap_or_else(PoisonError::into_inner);
        let (eal, pool) = SHARED
            .get_or_init(|| {
                let eal = Eal::init(arguments()).expect("EAL starts");
                let config = PoolConfig { mbufs: POOL_MBUFS, cache: 32, ..PoolConfig::default() };
                let pool = eal.create_pool("tests", &config).expect("pool");
                (eal, pool)
            })
            .clone();
        assert_eq!(pool.in_use(), 0, "an earlier test left mbufs out");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let ring = format!("net_ring{number}");
        eal.attach(&ring).expect("ring device");
        Self { eal, pool, ring, _one_test_at_a_time: guard }
    }

    fn ring_port(&self) -> Port {
        self.eal.port(&self.ring).expect("ring port")
    }

    /// An mbuf that holds these bytes.
    fn packet(&self, bytes: &[u8]) -> Mbuf {
        let mut mbuf = self.pool.alloc().expect("an mbuf");
        assert!(mbuf.set_data(bytes));
        mbuf
    }

    /// A burst of one-byte packets with consecutive numbers.
    fn numbered<const N: usize>(&self, from: u8, count: u8) -> Burst<N> {
        let mut burst = Burst::new();
        for number in from..from + count {
            burst.push(self.packet(&[number])).expect("room");
        }
        burst
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.pool.in_use(), 0, "mbufs are missing from the pool");
            self.eal.detach(&self.ring).expect("no handle is left");
        }
    }
}

/// One main and two worker lcores, all on the first CPU this process may use.
fn arguments() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let cpu = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(|list| list.trim().split([',', '-']).next())
        .expect("a CPU");
    let lcores = format!("--lcores=0@{cpu},1@{cpu},2@{cpu}");
    let fixed = "--no-huge --no-shconf -m 256 --no-pci --no-telemetry --log-level=error";
    std::iter::once("test")
        .chain(fixed.split(' '))
        .map(str::to_owned)
        .chain([lcores, "--vdev=net_null0,size=64".to_owned()])
        .collect()
}

/// The first byte of each packet.
fn numbers<const N: usize>(burst: &Burst<N>) -> Vec<u8> {
    burst.as_slice().iter().map(|mbuf| mbuf.data()[0]).collect()
}
