//! Where packets leave: those waiting for one transmit queue, each with the outcome that counts once it has left.

use arrayvec::ArrayVec;
use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{BURST, Outcome},
    steering::PortId,
};
use tidegate_dpdk::{Burst, Mbuf, TxQueue, burst::Drain};

/// Times a full queue is tried again before packets are dropped.
const RETRIES: u32 = 2;

/// Where a worker sends packets of a port.
pub(crate) enum Exit {
    /// Nowhere: there is no such port.
    None,
    /// By its own queue.
    Own(Box<Outbox>),
    /// By that worker's queue: the port has fewer queues than there are workers.
    Worker(u16),
}

pub(crate) struct Outbox {
    port: PortId,
    queue: TxQueue,
    burst: Burst<BURST>,
    /// Outcome and number of packets in a row that end alike; together as many as there are in the burst.
    runs: ArrayVec<(Outcome, usize), BURST>,
}

impl Outbox {
    pub(crate) fn new(port: PortId, queue: TxQueue) -> Self {
        Self { port, queue, burst: Burst::new(), runs: ArrayVec::new() }
    }

    /// Whether nothing waits here.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.burst.is_empty()
    }

    /// Add a packet; a full burst is sent at once.
    #[inline]
    pub(crate) fn push(&mut self, mbuf: Mbuf, outcome: Outcome, counters: &ShardCounters) {
        if self.burst.is_full() {
            self.flush(counters);
        }
        // There is room: flush() empties the burst.
        let _ = self.burst.push(mbuf);
        self.runs.push((outcome, 1));
    }

    /// Add packets that end alike.
    #[inline]
    pub(crate) fn extend(
        &mut self,
        mut mbufs: Drain<'_>,
        outcome: Outcome,
        counters: &ShardCounters,
    ) {
        while mbufs.len() > 0 {
            if self.burst.is_full() {
                self.flush(counters);
            }
            self.runs.push((outcome, self.burst.take_from(&mut mbufs)));
        }
    }

    /// Send what is there, and count it.
    #[inline]
    pub(crate) fn flush(&mut self, counters: &ShardCounters) {
        let waiting = self.burst.len();
        if waiting == 0 {
            return;
        }
        let sent = self.send();
        let mut uncounted = sent;
        for (outcome, length) in self.runs.drain(..) {
            let counted = length.min(uncounted);
            counters.count(outcome, counted as u64);
            uncounted -= counted;
        }
        if sent < waiting {
            counters.count_transmit_full(self.port, (waiting - sent) as u64);
            self.burst.clear();
        }
    }

    /// Give the queue what it takes, and return how much that was; the rest stays, without what it refused.
    #[inline]
    fn send(&mut self) -> usize {
        let mut sent = self.queue.tx_drain(&mut self.burst);
        let mut tries = 0;
        while !self.burst.is_empty() && tries < RETRIES {
            let taken = self.queue.tx_drain(&mut self.burst);
            sent += taken;
            tries += 1;
            if taken == 0 {
                return self.send_without_first(sent);
            }
        }
        sent
    }

    /// As [`Outbox::send`], of a queue that took `sent` packets and will not go on: either it is full, or its driver refuses
    /// the first of the rest, as net_tap does one that is longer than its MTU, and then it is to take the others with it.
    #[cold]
    fn send_without_first(&mut self, mut sent: usize) -> usize {
        loop {
            self.remove_first(sent);
            let taken = self.queue.tx_drain(&mut self.burst);
            sent += taken;
            if taken == 0 || self.burst.is_empty() {
                return sent;
            }
        }
    }

    /// Drop the first packet, before which `sent` have left.
    fn remove_first(&mut self, sent: usize) {
        let mut rest = Burst::new();
        let mut mbufs = self.burst.drain();
        drop(mbufs.next());
        rest.take_from(&mut mbufs);
        drop(mbufs);
        self.burst = rest;
        let mut before = sent;
        for (_, length) in &mut self.runs {
            if before < *length {
                *length -= 1;
                return;
            }
            before -= *length;
        }
    }
}
