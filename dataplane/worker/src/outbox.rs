//! Where packets leave: those waiting for one transmit queue, each with the outcome that counts once it has left.

use arrayvec::ArrayVec;
use tidegate_dataplane::{
    counters::ShardCounters,
    pipeline::{BURST, Outcome},
    steering::PortId,
};
use tidegate_dpdk::{Burst, Mbuf, TxQueue, burst::Drain};

use crate::hold::Hold;

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
    /// While the port is held.
    hold: Option<Box<Hold>>,
}

impl Outbox {
    pub(crate) fn new(port: PortId, queue: TxQueue) -> Self {
        Self { port, queue, burst: Burst::new(), runs: ArrayVec::new(), hold: None }
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
        if self.hold.is_some() {
            return self.flush_held(counters);
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

    /// Keep from now on what the queue does not take. Gives the room back when the port is held already; then it is until
    /// the new hold's end.
    pub(crate) fn hold(&mut self, room: Box<Hold>, until_ms: u64) -> Option<Box<Hold>> {
        match &mut self.hold {
            Some(hold) => {
                hold.extend(until_ms);
                Some(room)
            }
            None => {
                self.hold = Some(room);
                None
            }
        }
    }

    /// Hold the port only until what is kept has left. Gives how many packets had to wait, and the room if all have left.
    pub(crate) fn release(
        &mut self,
        now_ms: u64,
        counters: &ShardCounters,
    ) -> (u64, Option<Box<Hold>>) {
        self.flush(counters);
        let held = self.hold.as_mut().map_or(0, |hold| hold.end(now_ms));
        (held, self.look_after_hold(now_ms, counters))
    }

    /// Send what was kept, as far as the queue takes it, and keep nothing more. Gives the room, if the port was held.
    pub(crate) fn end_hold(&mut self, counters: &ShardCounters) -> Option<Box<Hold>> {
        // What waits in the burst comes behind what is kept.
        self.flush(counters);
        let mut hold = self.hold.take()?;
        while let Some((outcome, mbuf)) = hold.next() {
            self.push(mbuf, outcome, counters);
        }
        self.flush(counters);
        Some(hold)
    }

    /// How many packets are kept.
    pub(crate) fn kept(&self) -> usize {
        self.hold.as_ref().map_or(0, |hold| hold.len())
    }

    /// Try again what is kept. Gives the room when the hold is over.
    pub(crate) fn look_after_hold(
        &mut self,
        now_ms: u64,
        counters: &ShardCounters,
    ) -> Option<Box<Hold>> {
        if self.hold.as_ref()?.is_over(now_ms) {
            return self.end_hold(counters);
        }
        let all_left = self.send_kept(counters);
        self.hold.take_if(|hold| all_left && hold.is_ending())
    }

    /// Whether the port is held here.
    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// As [`Outbox::flush`], while the port is held.
    #[cold]
    fn flush_held(&mut self, counters: &ShardCounters) {
        if self.send_kept(counters) || (self.drop_refused(counters) && self.send_kept(counters)) {
            let sent = self.queue.tx_drain(&mut self.burst);
            self.count_first(sent, counters);
        }
        let Some(hold) = &mut self.hold else { return };
        let mut outcomes =
            self.runs.iter().flat_map(|(outcome, length)| std::iter::repeat_n(*outcome, *length));
        for mbuf in self.burst.drain() {
            // There are as many.
            let outcome = outcomes.next().unwrap_or(Outcome::TransmitFull);
            hold.keep(mbuf, outcome, counters);
        }
        drop(outcomes);
        self.runs.clear();
    }

    /// Of a hold that has no room for the burst, of which the queue took no more, drop the first packet, as
    /// [`Outbox::send_without_first`] does: its driver may refuse it for good, and then it is to take the others. Where the queue is
    /// only full, the oldest makes room for the newest.
    fn drop_refused(&mut self, counters: &ShardCounters) -> bool {
        let waiting = self.burst.len();
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.has_room(waiting)) else {
            return false;
        };
        drop(hold.next());
        counters.count_transmit_full(self.port, 1);
        true
    }

    /// Send what is kept; true when nothing is left of it.
    fn send_kept(&mut self, counters: &ShardCounters) -> bool {
        let Some(hold) = &mut self.hold else { return true };
        while !hold.is_empty() {
            let mut burst: Burst<BURST> = Burst::new();
            let mut outcomes: ArrayVec<Outcome, BURST> = ArrayVec::new();
            while !burst.is_full()
                && let Some((outcome, mbuf)) = hold.next()
            {
                // There is room: the loop's condition.
                let _ = burst.push(mbuf);
                outcomes.push(outcome);
            }
            let sent = self.queue.tx_drain(&mut burst);
            for outcome in outcomes.drain(..sent) {
                counters.count(outcome, 1);
            }
            if !burst.is_empty() {
                let mut left: ArrayVec<Mbuf, BURST> = burst.drain().collect();
                while let (Some(mbuf), Some(outcome)) = (left.pop(), outcomes.pop()) {
                    hold.put_back(mbuf, outcome);
                }
                return false;
            }
        }
        true
    }

    /// Count the first `sent` packets of the burst, which have left, and forget their outcomes.
    fn count_first(&mut self, mut sent: usize, counters: &ShardCounters) {
        while sent > 0
            && let Some((outcome, length)) = self.runs.first_mut()
        {
            let counted = sent.min(*length);
            counters.count(*outcome, counted as u64);
            sent -= counted;
            *length -= counted;
            if *length == 0 {
                self.runs.remove(0);
            }
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
