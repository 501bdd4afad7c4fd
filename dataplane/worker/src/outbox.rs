//! Packets waiting to leave by one transmit queue, each with the outcome that counts once it has left.

use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{BURST, Outcome},
    steering::PortId,
};
use tidegate_dpdk::{Burst, Mbuf, TxQueue};

/// Times a full queue is tried again before packets are dropped.
const RETRIES: u32 = 2;

pub(crate) struct Outbox {
    port: PortId,
    queue: TxQueue,
    burst: Burst<BURST>,
    outcomes: [Outcome; BURST],
}

impl Outbox {
    pub(crate) fn new(port: PortId, queue: TxQueue) -> Self {
        Self { port, queue, burst: Burst::new(), outcomes: [Outcome::Forwarded; BURST] }
    }

    /// Add a packet; a full burst is sent at once.
    #[inline]
    pub(crate) fn push(&mut self, mbuf: Mbuf, outcome: Outcome, counters: &ShardCounters) {
        if self.burst.is_full() {
            self.flush(counters);
        }
        self.outcomes[self.burst.len()] = outcome;
        // There is room: flush() empties the burst.
        let _ = self.burst.push(mbuf);
    }

    /// Send what is there, and count it.
    #[inline]
    pub(crate) fn flush(&mut self, counters: &ShardCounters) {
        let waiting = self.burst.len();
        if waiting == 0 {
            return;
        }
        let mut sent = self.queue.tx_drain(&mut self.burst);
        let mut tries = 0;
        while sent < waiting && tries < RETRIES {
            sent += self.queue.tx_drain(&mut self.burst);
            tries += 1;
        }
        // Neighbours mostly ended alike: one addition for each run.
        for run in self.outcomes[..sent].chunk_by(|a, b| a == b) {
            counters.count(run[0], run.len() as u64);
        }
        if sent < waiting {
            counters.count_transmit_full(self.port, (waiting - sent) as u64);
            self.burst.clear();
        }
    }
}
