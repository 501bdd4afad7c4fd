//! What a shard tells the control core: single-writer counters, read at any time.
//!
//! The worker that owns the shard is the only writer; it adds with a plain load and store, no locked instruction.
//! Readers are the control core's threads. Figures that must be seen together with an acknowledgement (live counts,
//! counts at install) are written before [`ShardCounters::acknowledge`]'s release store of the generation, so a
//! reader that has seen the generation by [`ShardCounters::generation`] sees them too.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crossbeam_utils::CachePadded;

use crate::{
    pipeline::Outcome,
    steering::{BackendSlot, PortId},
};

/// How many backends can be in use at once: a migration needs two, an address at rest one.
pub const MAX_BACKENDS: usize = 1 << 15;

/// How many ports a box can have.
pub const MAX_PORTS: usize = 256;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Add `count`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Set to `value`. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one shard.
#[derive(Debug)]
pub struct ShardCounters {
    /// Packets taken from ports, and frames taken from the control core. Summed over workers this equals
    /// the sum of all outcomes, but for packets on their way.
    pub received: CachePadded<Counter>,
    /// Packets handed to the worker that owns their session.
    pub redirected: Counter,
    /// Entries in the session table, lingering ones included.
    pub sessions: Counter,
    /// Poll rounds.
    pub polls: Counter,
    /// Times the worker slept for want of packets.
    pub idle_sleeps: Counter,
    /// Sessions that were only begun and had to make room for others.
    pub half_open_evicted: Counter,
    /// QUIC clients whose address changed, and whose connection was known by its ID.
    pub quic_moved: Counter,
    /// Packets of QUIC connections that have no session and an ID nobody knows.
    pub quic_unknown: Counter,
    outcomes: [Counter; Outcome::COUNT],
    transmit_full: Box<[Counter]>,
    generation: CachePadded<AtomicU64>,
    live: Box<[AtomicU32]>,
    live_begun_by_vm: Box<[AtomicU32]>,
    entries: Box<[AtomicU32]>,
    at_install: Box<[AtomicU32]>,
    at_install_begun_by_vm: Box<[AtomicU32]>,
}

impl Default for ShardCounters {
    fn default() -> Self {
        let per_backend = || (0..MAX_BACKENDS).map(|_| AtomicU32::new(0)).collect();
        Self {
            received: CachePadded::default(),
            redirected: Counter::default(),
            sessions: Counter::default(),
            polls: Counter::default(),
            idle_sleeps: Counter::default(),
            half_open_evicted: Counter::default(),
            quic_moved: Counter::default(),
            quic_unknown: Counter::default(),
            outcomes: std::array::from_fn(|_| Counter::default()),
            transmit_full: (0..MAX_PORTS).map(|_| Counter::default()).collect(),
            generation: CachePadded::default(),
            live: per_backend(),
            live_begun_by_vm: per_backend(),
            entries: per_backend(),
            at_install: per_backend(),
            at_install_begun_by_vm: per_backend(),
        }
    }
}

impl ShardCounters {
    /// Packets that ended this way on this worker.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].get()
    }

    /// Count packets that ended this way. Only the owning worker may call this.
    #[inline]
    pub fn count(&self, outcome: Outcome, packets: u64) {
        self.outcomes[outcome as usize].add(packets);
    }

    /// Packets dropped because this port's transmit queue was full; part of [`Outcome::TransmitFull`].
    ///
    /// # Panics
    /// When the port's number is [`MAX_PORTS`] or more.
    #[must_use]
    pub fn transmit_full(&self, port: PortId) -> u64 {
        self.transmit_full[usize::from(port.0)].get()
    }

    /// Count packets that found a port's transmit queue full. Only the owning worker may call this.
    #[inline]
    pub fn count_transmit_full(&self, port: PortId, packets: u64) {
        self.transmit_full[usize::from(port.0)].add(packets);
        self.count(Outcome::TransmitFull, packets);
    }

    /// Live sessions owned by the backend: lingering ones are not live.
    #[must_use]
    pub fn live(&self, slot: BackendSlot) -> u32 {
        self.live[slot.0 as usize].load(Relaxed)
    }

    /// Those of them that the backend began itself.
    #[must_use]
    pub fn live_begun_by_vm(&self, slot: BackendSlot) -> u32 {
        self.live_begun_by_vm[slot.0 as usize].load(Relaxed)
    }

    /// Table entries that name the backend, lingering ones included. A slot may be used anew when this is 0 everywhere.
    #[must_use]
    pub fn entries(&self, slot: BackendSlot) -> u32 {
        self.entries[slot.0 as usize].load(Relaxed)
    }

    /// Live sessions of the backend at the instant the shard took up the last snapshot that asked for them.
    #[must_use]
    pub fn at_install(&self, slot: BackendSlot) -> u32 {
        self.at_install[slot.0 as usize].load(Relaxed)
    }

    /// Those of them that the backend began itself.
    #[must_use]
    pub fn at_install_begun_by_vm(&self, slot: BackendSlot) -> u32 {
        self.at_install_begun_by_vm[slot.0 as usize].load(Relaxed)
    }

    /// The newest snapshot the worker acts on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    pub(crate) fn acknowledge(&self, generation: u64) {
        self.generation.store(generation, Release);
    }

    pub(crate) fn note_at_install(&self, slot: BackendSlot) {
        self.at_install[slot.0 as usize].store(self.live(slot), Relaxed);
        let begun_by_vm = self.live_begun_by_vm(slot);
        self.at_install_begun_by_vm[slot.0 as usize].store(begun_by_vm, Relaxed);
    }

    pub(crate) fn entry_added(&self, slot: BackendSlot, begun_by_vm: bool) {
        bump(&self.entries[slot.0 as usize], 1);
        self.live_changed(slot, begun_by_vm, 1);
    }

    pub(crate) fn entry_closed(&self, slot: BackendSlot, begun_by_vm: bool) {
        self.live_changed(slot, begun_by_vm, u32::MAX);
    }

    pub(crate) fn entry_removed(&self, slot: BackendSlot, begun_by_vm: bool, was_live: bool) {
        bump(&self.entries[slot.0 as usize], u32::MAX);
        if was_live {
            self.entry_closed(slot, begun_by_vm);
        }
    }

    #[inline]
    fn live_changed(&self, slot: BackendSlot, begun_by_vm: bool, by: u32) {
        bump(&self.live[slot.0 as usize], by);
        if begun_by_vm {
            bump(&self.live_begun_by_vm[slot.0 as usize], by);
        }
    }
}

/// Single-writer add modulo 2^32.
#[inline]
fn bump(cell: &AtomicU32, by: u32) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}
