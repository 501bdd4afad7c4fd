//! The real pipeline on a number of shards, without workers: what arrives is spread over them burst by burst, and what
//! one redirects reaches the other before the next burst.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{
        Capacity, Import, ImportedSession, Origin, Outcome, Punt, Shard, ShardSelector, Verdict,
    },
    session::{Connections, SessionRecord, Tuple},
    steering::{BackendSlot, ManagedAddress, PortId, Snapshot, Timeouts},
};

use crate::{
    model::Counts,
    world::{AGAIN, ports, routing},
};

/// A frame and the device it arrives on or leaves by.
pub(crate) type Frame = (PortId, Vec<u8>);

pub(crate) struct RealBox {
    shards: Vec<Shard>,
    selector: ShardSelector,
    snapshot: Snapshot,
    bursts: usize,
    fed: u64,
}

/// Slots below this are looked at when counts are compared.
pub(crate) const SLOTS: u32 = 128;

impl RealBox {
    /// `count` shards with room for `capacity` sessions of each family.
    pub(crate) fn new(count: u16, capacity: u32) -> Self {
        let selector = ShardSelector::new(count);
        let capacity = Capacity { v4: capacity, v6: capacity };
        let connections = Arc::new(Connections::new(1 << 16));
        let shard = |number| {
            let (selector, connections) = (selector.clone(), Arc::clone(&connections));
            Shard::new(number, selector, capacity, connections, Arc::default()).expect("memory")
        };
        let shards = (0..count).map(shard).collect();
        Self { shards, selector, snapshot: Snapshot::empty(), bursts: 0, fed: 0 }
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Publish these addresses to every shard, which count the live sessions of `counted`.
    pub(crate) fn install<'a>(
        &mut self,
        addresses: impl Iterator<Item = &'a ManagedAddress>,
        timeouts: Timeouts,
        counted: &[BackendSlot],
    ) {
        let (generation, ports) = (self.snapshot.generation + 1, ports());
        let routing = routing(&ports);
        let snapshot = Snapshot::new(generation, ports, addresses.copied(), routing);
        self.snapshot = snapshot.expect("nothing excludes another");
        self.snapshot.timeouts = timeouts;
        self.snapshot.counted_at_install = counted.to_vec();
        for shard in &mut self.shards {
            shard.install(&self.snapshot);
            assert_eq!(shard.counters().generation(), generation);
        }
    }

    /// One burst arrives at one worker. How each packet ended, and what left.
    pub(crate) fn burst(&mut self, now_ms: u64, burst: &[Frame]) -> Vec<(Outcome, Option<Frame>)> {
        self.fed += burst.len() as u64;
        let at = self.bursts % self.shards.len();
        self.bursts += 1;
        let mut ended: Vec<_> = burst.iter().map(|_| None).collect();
        let mut redirects = vec![0; burst.len()];
        let mut rings: Vec<Vec<(usize, Frame)>> = self.shards.iter().map(|_| Vec::new()).collect();
        let mut next = (at, Origin::Port, burst.iter().cloned().enumerate().collect());
        loop {
            let (shard, origin, arrived) = next;
            for (index, verdict, frame) in self.process(shard, now_ms, origin, arrived) {
                let Verdict::Redirect(to) = verdict else {
                    assert!(ended[index].is_none(), "ended twice");
                    ended[index] = Some(self.end(shard, verdict, frame));
                    continue;
                };
                assert_ne!(usize::from(to), shard, "redirected to itself");
                // To the sender's session, from there to the receiver's, and back with what the box says about it.
                let most = if frame.0 == AGAIN { 3 } else { 1 };
                redirects[index] += 1;
                assert!(redirects[index] <= most, "redirected again, from {shard} to {to}");
                rings[usize::from(to)].push((index, frame));
            }
            let Some(shard) = rings.iter().position(|ring| !ring.is_empty()) else { break };
            let arrived = mem::take(&mut rings[shard]);
            next = (shard, Origin::Worker, arrived);
        }
        ended.into_iter().map(|ended| ended.expect("every packet ends")).collect()
    }

    fn process(
        &mut self,
        shard: usize,
        now_ms: u64,
        origin: Origin,
        arrived: Vec<(usize, Frame)>,
    ) -> Vec<(usize, Verdict, Frame)> {
        let (indices, frames): (Vec<_>, Vec<_>) = arrived.into_iter().unzip();
        let (mut ports, mut frames): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let mut verdicts = vec![Verdict::Redirect(u16::MAX); indices.len()];
        let snapshot = &self.snapshot;
        self.shards[shard].process(
            snapshot,
            now_ms,
            origin,
            &mut frames,
            &mut ports,
            &mut verdicts,
        );
        let frames = ports.into_iter().zip(frames);
        let ended = indices.into_iter().zip(verdicts).zip(frames);
        ended.map(|((index, verdict), frame)| (index, verdict, frame)).collect()
    }

    /// Count as a worker does.
    fn end(&self, shard: usize, verdict: Verdict, frame: Frame) -> (Outcome, Option<Frame>) {
        let (outcome, sent) = match verdict {
            Verdict::Transmit(device, outcome) => (outcome, Some((device, frame.1))),
            Verdict::Drop(outcome) => (outcome, None),
            Verdict::Hold(place) => panic!("held in place {place}: only fragments are"),
            Verdict::Redirect(to) => unreachable!("on its way from {shard} to {to}"),
        };
        assert_eq!(outcome.is_drop(), sent.is_none(), "{outcome:?}");
        self.shards[shard].counters().count(outcome, 1);
        (outcome, sent)
    }

    /// Every packet fed ended in exactly one outcome.
    pub(crate) fn check_sum(&self) {
        let of = |counters: &Arc<ShardCounters>| {
            Outcome::ALL.iter().map(|outcome| counters.outcome(*outcome)).sum::<u64>()
        };
        assert_eq!(self.counters().map(of).sum::<u64>(), self.fed, "sum of outcomes");
    }

    pub(crate) fn fed(&self) -> u64 {
        self.fed
    }

    fn counters(&self) -> impl Iterator<Item = &Arc<ShardCounters>> {
        self.shards.iter().map(Shard::counters)
    }

    pub(crate) fn outcome(&self, outcome: Outcome) -> u64 {
        self.counters().map(|counters| counters.outcome(outcome)).sum()
    }

    /// Neighbours that were asked for since the last call.
    pub(crate) fn asked(&mut self) -> BTreeSet<(PortId, IpAddr)> {
        let punts = self.shards.iter_mut().flat_map(Shard::take_punts);
        let resolve = |punt| match punt {
            Punt::Resolve { port, address } => Some((port, address)),
            Punt::Neighbour { .. } => None,
        };
        punts.filter_map(resolve).collect()
    }

    /// Sweep every place of every shard, in `pieces`.
    pub(crate) fn sweep(&mut self, now_ms: u64, pieces: u32) {
        for shard in &mut self.shards {
            let places = shard.places();
            let piece = (places.v4.max(places.v6)).div_ceil(pieces);
            for _ in 0..pieces {
                shard.sweep(&self.snapshot, now_ms, piece);
            }
            shard.assert_half_open_counts();
        }
    }

    pub(crate) fn import(&mut self, now_ms: u64, session: ImportedSession) -> Import {
        let shard = usize::from(self.selector.shard_of(&session.tuple));
        self.shards[shard].import(&self.snapshot, &[session], now_ms)
    }

    /// By slot, where there is any.
    pub(crate) fn counts(&self) -> BTreeMap<BackendSlot, Counts> {
        let counts = |slot| {
            let sum = |of: fn(&ShardCounters, BackendSlot) -> u32| {
                self.counters().map(|counters| of(counters, slot)).sum()
            };
            Counts {
                live: sum(ShardCounters::live),
                begun_by_vm: sum(ShardCounters::live_begun_by_vm),
                entries: sum(ShardCounters::entries),
            }
        };
        let all = (0..SLOTS).map(BackendSlot).map(|slot| (slot, counts(slot)));
        all.filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    /// Live sessions as the shards noted them when last asked to, and those of them begun by the VM.
    pub(crate) fn at_install(&self, slot: BackendSlot) -> (u32, u32) {
        let live = self.counters().map(|counters| counters.at_install(slot)).sum();
        let begun_by_vm = self.counters().map(|counters| counters.at_install_begun_by_vm(slot));
        (live, begun_by_vm.sum())
    }

    /// All sessions of all shards, as listings show them; none may be there twice.
    pub(crate) fn sessions(&self, now_ms: u64) -> BTreeMap<Tuple, SessionRecord> {
        let mut all = BTreeMap::new();
        for shard in &self.shards {
            let mut from = Some(0);
            while let Some(at) = from {
                let mut piece = Vec::with_capacity(256);
                from = shard.list(&[], now_ms, at, 4096, &mut piece);
                for session in piece {
                    let twice = all.insert(session.tuple, session);
                    assert!(twice.is_none(), "listed twice: {session:?}");
                }
            }
        }
        let counted = self.counters().map(|counters| counters.sessions.get()).sum::<u64>();
        assert_eq!(counted, all.len() as u64, "sessions counted and listed");
        all
    }
}
