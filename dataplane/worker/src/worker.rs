//! One worker: a loop on one CPU that owns its queues and its shard.
//!
//! A round: orders of the control core, bursts from the ports, packets from other workers, transmit, upkeep. Nothing in
//! it waits, locks or allocates; the one system call is the sleep of an idle worker.

use std::{mem, sync::Arc};

use tidegate_dataplane::{
    pipeline::{BURST, Outcome, Shard, Verdict},
    steering::{PortId, Snapshot},
};
use tidegate_dpdk::{Burst, Mbuf, RxQueue, clock};

use crate::{
    idle::Idler,
    link::{Listing, Order, Report, WorkerEnd},
    mesh::{MeshEnd, Parcel},
    outbox::Outbox,
};

/// Rounds between two pieces of upkeep while packets flow.
const UPKEEP_EVERY: u32 = 256;
/// Table entries looked at in one piece of upkeep or listing.
const UPKEEP_ENTRIES: u32 = 128;

/// Where a worker sends packets of a port.
pub(crate) enum Exit {
    /// By its own queue.
    Own(Box<Outbox>),
    /// By that worker's queue: the port has fewer queues than there are workers.
    Worker(u16),
}

pub(crate) struct Worker {
    pub(crate) shard: Shard,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) link: WorkerEnd,
    pub(crate) mesh: MeshEnd,
    /// Its receive queues.
    pub(crate) entries: Vec<(PortId, RxQueue)>,
    /// By port.
    pub(crate) exits: Vec<Exit>,
    pub(crate) idler: Idler,
    pub(crate) listing: Option<Box<Listing>>,
    pub(crate) tsc_per_ms: u64,
    pub(crate) stopped: bool,
}

impl Worker {
    /// Run until told to stop.
    pub(crate) fn run(mut self) {
        self.shard.install(&self.snapshot);
        let started = clock::tsc();
        let mut rounds = 0u32;
        while !self.stopped {
            // One reading per round: sessions live for seconds.
            let now_ms = (clock::tsc() - started) / self.tsc_per_ms;
            self.take_orders();
            let packets = self.receive(now_ms) + self.take_parcels(now_ms);
            for exit in &mut self.exits {
                if let Exit::Own(outbox) = exit {
                    outbox.flush(self.shard.counters());
                }
            }
            rounds = rounds.wrapping_add(1);
            self.shard.counters().polls.add(1);
            if packets > 0 {
                self.idler.busy();
            } else if self.listing.is_none() && self.idler.rest() {
                self.shard.counters().idle_sleeps.add(1);
            }
            if packets == 0 || rounds.is_multiple_of(UPKEEP_EVERY) {
                self.upkeep(now_ms);
            }
        }
        for exit in &mut self.exits {
            if let Exit::Own(outbox) = exit {
                outbox.flush(self.shard.counters());
            }
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.link.orders.pop() {
            match order {
                Order::Install(snapshot) => {
                    self.shard.install(&snapshot);
                    let retired = mem::replace(&mut self.snapshot, snapshot);
                    self.link.answer(Report::Retired(retired));
                }
                Order::List(listing) => self.listing = Some(listing),
                Order::Transmit(port, mbuf) => {
                    self.shard.counters().received.add(1);
                    self.leave(port, Outcome::Originated, mbuf);
                }
                Order::Stop => self.stopped = true,
            }
        }
    }

    /// One burst from each receive queue. Returns how many packets there were.
    #[inline]
    fn receive(&mut self, now_ms: u64) -> usize {
        let mut total = 0;
        for entry in 0..self.entries.len() {
            let mut burst: Burst<BURST> = Burst::new();
            let (port, queue) = &mut self.entries[entry];
            let (port, count) = (*port, queue.rx_burst(&mut burst));
            if count > 0 {
                burst.prefetch_data();
                self.shard.counters().received.add(count as u64);
                self.process(&[port; BURST], &mut burst, now_ms);
                total += count;
            }
        }
        total
    }

    /// Packets other workers have handed over. Returns how many there were.
    #[inline]
    fn take_parcels(&mut self, now_ms: u64) -> usize {
        let mut total = 0;
        for other in 0..self.mesh.from.len() {
            let mut burst: Burst<BURST> = Burst::new();
            let mut ports = [PortId(0); BURST];
            while !burst.is_full() {
                let Some(ring) = &mut self.mesh.from[other] else { break };
                match ring.pop() {
                    Ok(Parcel::Process(port, mbuf)) => {
                        ports[burst.len()] = port;
                        // There is room: the loop's condition.
                        let _ = burst.push(mbuf);
                        total += 1;
                    }
                    Ok(Parcel::Transmit(port, outcome, mbuf)) => {
                        self.leave(port, outcome, mbuf);
                        total += 1;
                    }
                    Err(_) => break,
                }
            }
            if !burst.is_empty() {
                self.process(&ports, &mut burst, now_ms);
            }
        }
        total
    }

    #[inline]
    fn process(&mut self, ports: &[PortId; BURST], burst: &mut Burst<BURST>, now_ms: u64) {
        let mut verdicts = [Verdict::Drop(Outcome::Truncated); BURST];
        let frames = burst.as_mut_slice();
        self.shard.process(&self.snapshot, now_ms, frames, ports, &mut verdicts);
        for ((mbuf, verdict), &port) in burst.drain().zip(verdicts).zip(ports) {
            match verdict {
                Verdict::Transmit(port, outcome) => self.leave(port, outcome, mbuf),
                Verdict::Redirect(owner) => self.redirect(owner, port, mbuf),
                Verdict::Drop(outcome) => self.shard.counters().count(outcome, 1),
            }
        }
        for punt in self.shard.take_punts() {
            self.link.notice(punt);
        }
    }

    /// Send a finished packet out by `port`, by whichever worker has a queue there.
    #[inline]
    fn leave(&mut self, port: PortId, outcome: Outcome, mbuf: Mbuf) {
        match self.exits.get_mut(usize::from(port.0)) {
            Some(Exit::Own(outbox)) => outbox.push(mbuf, outcome, self.shard.counters()),
            Some(&mut Exit::Worker(owner)) => {
                self.hand_over(owner, Parcel::Transmit(port, outcome, mbuf));
            }
            // Snapshots name only ports there are.
            None => self.shard.counters().count(Outcome::NoRoute, 1),
        }
    }

    #[inline]
    fn redirect(&mut self, owner: u16, port: PortId, mbuf: Mbuf) {
        self.shard.counters().redirected.add(1);
        self.hand_over(owner, Parcel::Process(port, mbuf));
    }

    #[inline]
    fn hand_over(&mut self, worker: u16, parcel: Parcel) {
        let ring = self.mesh.to.get_mut(usize::from(worker)).and_then(Option::as_mut);
        if ring.is_none_or(|ring| ring.push(parcel).is_err()) {
            self.shard.counters().count(Outcome::RingFull, 1);
        }
    }

    /// A bounded piece of expiry and of a listing under way.
    fn upkeep(&mut self, now_ms: u64) {
        self.shard.sweep(&self.snapshot, now_ms, UPKEEP_ENTRIES);
        if let Some(mut listing) = self.listing.take() {
            let Listing { address, records, next } = &mut *listing;
            let from = next.unwrap_or(0);
            *next = self.shard.list(*address, now_ms, from, UPKEEP_ENTRIES, records);
            if next.is_none() || records.len() == records.capacity() {
                self.link.answer(Report::Listed(listing));
            } else {
                self.listing = Some(listing);
            }
        }
    }
}
