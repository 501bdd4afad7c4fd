//! Bursts of established sessions through one shard, without DPDK: the cost of parsing, finding, deciding and rewriting.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_dataplane::{
    counters::ShardCounters,
    packet::Mac,
    pipeline::{BURST, Outcome, Shard, ShardSelector, Verdict},
    steering::{
        Backend, BackendSlot, Fib, ManagedAddress, Port, PortId, PortRole, Rewrite, Snapshot,
    },
};

const UPLINK: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ADDRESS: u32 = 0x0a09_0064;
const FRAME_LEN: usize = 60;

fn snapshot() -> Snapshot {
    let port = |role| Port { mac: UPLINK, addresses: Vec::new(), role };
    let home = Backend {
        slot: BackendSlot(0),
        port: PortId(1),
        mac: Mac([2, 0, 0, 0, 1, 0]),
        rewrite: Rewrite::Nat(0x0a08_000b),
    };
    let address = ManagedAddress {
        address: ADDRESS,
        hosted: true,
        tracked: true,
        epoch: 1,
        home,
        destination: None,
    };
    let ports = vec![port(PortRole::Uplink), port(PortRole::Access)];
    Snapshot::new(1, ports, [address], Fib::default(), []).expect("nothing contradicts")
}

/// A TCP segment with ACK from client number `client`.
fn frame(client: u32) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[0..6].copy_from_slice(&UPLINK.0);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    frame[26..30].copy_from_slice(&(0x0b00_0000 + (client >> 4)).to_be_bytes());
    frame[30..34].copy_from_slice(&ADDRESS.to_be_bytes());
    frame[34..36].copy_from_slice(&(1024 + (client & 0xf) as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    frame
}

fn established(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("established");
    group.throughput(Throughput::Elements(BURST as u64));
    for sessions in [1_000u32, 10_000, 100_000] {
        let snapshot = snapshot();
        let counters = Arc::new(ShardCounters::default());
        let mut shard =
            Shard::new(0, ShardSelector::new(1), sessions + 1, counters).expect("memory");
        let ports = [PortId(0); BURST];
        let mut verdicts = [Verdict::Drop(Outcome::Truncated); BURST];
        let mut now_ms = 0;
        let mut next = 0;
        let mut burst = |now_ms| {
            let mut frames: [_; BURST] =
                std::array::from_fn(|at| frame((next + at as u32) % sessions));
            next = (next + BURST as u32) % sessions;
            shard.process(&snapshot, now_ms, &mut frames, &ports, &mut verdicts);
            assert!(matches!(verdicts[0], Verdict::Transmit(_, Outcome::ToSource)));
            black_box(&frames);
        };
        // Every session is adopted before the clock of the benchmark runs; the rate limit wants time to pass.
        for _ in 0..sessions.div_ceil(BURST as u32) {
            now_ms += 10;
            burst(now_ms);
        }
        group.bench_function(BenchmarkId::from_parameter(sessions), |bench| {
            bench.iter(|| burst(now_ms));
        });
    }
    group.finish();
}

criterion_group!(benches, established);
criterion_main!(benches);
