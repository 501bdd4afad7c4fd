//! A dataplane without DPDK: real shards, driven by the test.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tidegate_dataplane::{
    counters::ShardCounters,
    packet::Mac,
    pipeline::{Capacity, Import, ImportedSession, Origin, Punt, Shard, ShardSelector, Verdict},
    session::{Connections, SessionRecord},
    steering::{BackendSlot, PortId, PrefixTable, RouteChange, RouteTables, Snapshot},
};
use tidegate_switch::{
    config::PortConfig,
    dataplane::{
        Acknowledged, Counted, Dataplane, DataplaneError, PortFailure, PortInfo, PortStats,
    },
};

/// A port whose link has not been looked at.
const PORT: PortInfo = PortInfo { link_up: false, queues: 1 };
/// The most ports.
const MAX_PORTS: usize = 5;

const SESSIONS: Capacity = Capacity { v4: 256, v6: 256 };

/// What the core owns.
pub(crate) struct Double {
    ports: Vec<Option<PortInfo>>,
    counters: Vec<Arc<ShardCounters>>,
    shards: Shards,
    v4: PrefixTable<u32>,
    v6: PrefixTable<u128>,
}

/// The shards, shared with the test.
#[derive(Clone)]
pub(crate) struct Shards(Arc<Mutex<Inner>>);

struct Inner {
    shards: Vec<Shard>,
    snapshot: Arc<Snapshot>,
    now_ms: u64,
    /// Frames of the control core.
    sent: Vec<(PortId, Vec<u8>)>,
    stuck: bool,
    /// How long a publication takes.
    slowness: Duration,
    stopped: Option<usize>,
    /// Ports that are held, and for how long.
    held: Vec<(PortId, Duration)>,
    selector: ShardSelector,
}

impl Double {
    /// With so many ports from the start.
    pub(crate) fn new(ports: usize, workers: u16) -> (Self, Shards) {
        Self::with_sessions(ports, workers, SESSIONS.v4)
    }

    /// With room for so many sessions on each worker.
    pub(crate) fn with_sessions(ports: usize, workers: u16, v4: u32) -> (Self, Shards) {
        let capacity = Capacity { v4, ..SESSIONS };
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(ShardCounters::default())).collect();
        let selector = ShardSelector::new(workers);
        let connections = Arc::new(Connections::new(64));
        let shards = (0..workers).zip(&counters).map(|(number, counters)| {
            let (connections, counters) = (Arc::clone(&connections), Arc::clone(counters));
            Shard::new(number, selector.clone(), capacity, connections, counters).expect("memory")
        });
        let inner = Inner {
            shards: shards.collect(),
            snapshot: Arc::new(Snapshot::empty()),
            now_ms: 0,
            sent: Vec::new(),
            stuck: false,
            slowness: Duration::ZERO,
            stopped: None,
            held: Vec::new(),
            selector: selector.clone(),
        };
        let shards = Shards(Arc::new(Mutex::new(inner)));
        let (v4, v6) = (PrefixTable::default(), PrefixTable::default());
        (Self { ports: vec![Some(PORT); ports], counters, shards: shards.clone(), v4, v6 }, shards)
    }
}

impl Shards {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics while it holds the lock")
    }

    /// Let a frame arrive on `port`. Gives where it went out and how, `None` when it was dropped.
    pub(crate) fn arrive(
        &self,
        port: PortId,
        mut frame: Vec<u8>,
    ) -> Result<(PortId, Vec<u8>), Verdict> {
        let mut inner = self.lock();
        let (snapshot, now_ms) = (Arc::clone(&inner.snapshot), inner.now_ms);
        let (mut ports, mut verdict) = ([port], [Verdict::Redirect(0)]);
        let mut origin = Origin::Port;
        while let Verdict::Redirect(shard) = verdict[0] {
            let frames = std::slice::from_mut(&mut frame);
            inner.shards[usize::from(shard)].process(
                &snapshot,
                now_ms,
                origin,
                frames,
                &mut ports,
                &mut verdict,
            );
            origin = Origin::Worker;
        }
        match verdict[0] {
            Verdict::Transmit(port, _) => Ok((port, frame)),
            other => Err(other),
        }
    }

    /// Let time pass.
    pub(crate) fn advance(&self, elapsed: Duration) {
        self.lock().now_ms += elapsed.as_millis() as u64;
    }

    /// From now on, workers do not answer; or do again.
    pub(crate) fn stick(&self, stuck: bool) {
        self.lock().stuck = stuck;
    }

    /// From now on, a publication takes so long.
    pub(crate) fn slow_down(&self, slowness: Duration) {
        self.lock().slowness = slowness;
    }

    /// From now on, this worker has ended.
    pub(crate) fn end_worker(&self, worker: usize) {
        self.lock().stopped = Some(worker);
    }

    /// Generation that is in force.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().snapshot.generation
    }

    /// The frames the core sent since the last call.
    pub(crate) fn take_sent(&self) -> Vec<(PortId, Vec<u8>)> {
        std::mem::take(&mut self.lock().sent)
    }
}

impl Dataplane for Double {
    fn workers(&self) -> usize {
        self.counters.len()
    }

    fn change_routes(&mut self, changes: &[RouteChange]) -> Result<RouteTables, DataplaneError> {
        for RouteChange { prefix, hop } in changes {
            match (prefix.address(), hop) {
                (IpAddr::V4(it), Some(hop)) => self.v4.insert(it.to_bits(), prefix.len(), *hop),
                (IpAddr::V4(it), None) => self.v4.remove(it.to_bits(), prefix.len()),
                (IpAddr::V6(it), Some(hop)) => self.v6.insert(it.to_bits(), prefix.len(), *hop),
                (IpAddr::V6(it), None) => self.v6.remove(it.to_bits(), prefix.len()),
            }
        }
        Ok(RouteTables { v4: Arc::new(self.v4.clone()), v6: Arc::new(self.v6.clone()) })
    }

    fn now_ms(&self) -> u64 {
        self.shards.lock().now_ms
    }

    fn stopped_worker(&self) -> Option<usize> {
        self.shards.lock().stopped
    }

    fn ports(&self) -> &[Option<PortInfo>] {
        &self.ports
    }

    fn add_port(&mut self, port: &PortConfig, device: &str) -> Result<(PortId, Mac), PortFailure> {
        if device.contains("broken") {
            return Err(PortFailure::Device(format!("`{device}` is broken")));
        }
        let free = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        if free == MAX_PORTS {
            return Err(PortFailure::Full(format!("{MAX_PORTS} ports already")));
        }
        self.ports.resize(self.ports.len().max(free + 1), None);
        self.ports[free] = Some(PORT);
        Ok((PortId(free as u16), port.mac.unwrap_or(Mac([2, 0, 0, 0, 1, free as u8]))))
    }

    fn remove_port(&mut self, port: PortId) -> Result<(), PortFailure> {
        let taken = self.ports[usize::from(port.0)].take();
        assert!(taken.is_some(), "there is a port {port:?}");
        Ok(())
    }

    fn hold_port(&mut self, port: PortId, time: Duration) -> Result<(), PortFailure> {
        self.shards.lock().held.push((port, time));
        Ok(())
    }

    fn release_port(&mut self, port: PortId) -> Result<u64, PortFailure> {
        let mut inner = self.shards.lock();
        let before = inner.held.len();
        inner.held.retain(|(held, _)| *held != port);
        Ok((before - inner.held.len()) as u64)
    }

    fn refresh_ports(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.link_up = true;
        }
    }

    fn port_stats(&mut self, port: PortId) -> PortStats {
        PortStats { rx_packets: u64::from(port.0) + 1, ..PortStats::default() }
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<Acknowledged, DataplaneError> {
        let slowness = self.shards.lock().slowness;
        std::thread::sleep(slowness);
        let mut inner = self.shards.lock();
        if inner.stuck {
            return Err(DataplaneError::NoAnswer { worker: 1, waited: Duration::from_secs(2) });
        }
        for shard in &mut inner.shards {
            shard.install(&snapshot);
        }
        let counted = snapshot.counted_at_install.iter().map(|&slot| {
            let sum = |of: fn(&ShardCounters, BackendSlot) -> u32| {
                self.counters.iter().map(|counters| u64::from(of(counters, slot))).sum()
            };
            Counted {
                slot,
                live: sum(ShardCounters::at_install),
                begun_by_vm: sum(ShardCounters::at_install_begun_by_vm),
            }
        });
        let counted = counted.collect();
        inner.snapshot = snapshot;
        Ok(Acknowledged { elapsed: Duration::from_nanos(1), counted })
    }

    fn counters(&self, worker: usize) -> &ShardCounters {
        &self.counters[worker]
    }

    fn sessions(
        &mut self,
        addresses: &[IpAddr],
        limit: usize,
    ) -> Result<Vec<(usize, SessionRecord)>, DataplaneError> {
        let inner = self.shards.lock();
        let mut all = Vec::new();
        for (worker, shard) in inner.shards.iter().enumerate() {
            let mut records = Vec::with_capacity((SESSIONS.v4 + SESSIONS.v6) as usize);
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.list(addresses, inner.now_ms, from, u32::MAX, &mut records);
            }
            all.extend(records.into_iter().map(|record| (worker, record)));
        }
        all.truncate(limit);
        Ok(all)
    }

    fn import(&mut self, sessions: &[ImportedSession]) -> Result<Import, DataplaneError> {
        let mut inner = self.shards.lock();
        let Inner { shards, snapshot, now_ms, selector, .. } = &mut *inner;
        let mut total = Import::default();
        for session in sessions {
            let shard = &mut shards[usize::from(selector.shard_of(&session.tuple))];
            total += shard.import(snapshot, std::slice::from_ref(session), *now_ms);
        }
        Ok(total)
    }

    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), DataplaneError> {
        self.shards.lock().sent.push((port, frame.to_vec()));
        Ok(())
    }

    /// Also what a worker does beside packets: forget what is over.
    fn take_punts(&mut self, each: &mut dyn FnMut(Punt)) {
        let mut inner = self.shards.lock();
        let (snapshot, now_ms) = (Arc::clone(&inner.snapshot), inner.now_ms);
        for shard in &mut inner.shards {
            shard.take_punts().for_each(&mut *each);
            shard.sweep(&snapshot, now_ms, SESSIONS.v4);
        }
    }
}
