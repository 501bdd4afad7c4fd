//! Packets that a port does not take now, kept in their order until it does.
//!
//! While a guest is paused its queue takes nothing, and what clients send meanwhile would be dropped. A port that is *held*
//! loses none of it: what its device refuses waits here, and goes before what comes later. Nothing else changes, so that
//! holding a port early or long costs nothing. Released, it ends as soon as nothing is kept: a guest that has just been continued takes
//! what has waited when its processors come to it. A hold ends by itself at its deadline: whoever asked for it may have died.
//!
//! The room is made and freed by the control core.

use std::collections::VecDeque;

use tidegate_dataplane::{counters::ShardCounters, pipeline::Outcome, steering::PortId};
use tidegate_dpdk::Mbuf;

/// Packets that one worker keeps for a port.
pub(crate) const DEPTH: usize = 2048;
/// What is kept of a released port goes within this time, or is dropped.
const PARTING_MS: u64 = 1000;

/// Packets that wait for a port, each with the outcome that counts once it has left.
pub(crate) struct Hold {
    waiting: VecDeque<(Outcome, Mbuf)>,
    /// On the workers' clock.
    until_ms: u64,
    /// Packets that had to wait, ever.
    held: u64,
    /// Released: it ends when nothing is kept.
    is_ending: bool,
}

/// An order to hold a port or to release it, and the answer.
pub(crate) struct HoldOrder {
    pub(crate) port: PortId,
    pub(crate) until_ms: u64,
    /// To hold: room to take, which comes back when there was a hold already. Released: what was there, when nothing is kept
    /// any more.
    pub(crate) room: Option<Box<Hold>>,
    /// Released: packets that had to wait.
    pub(crate) held: u64,
}

impl Hold {
    pub(crate) fn new(until_ms: u64) -> Self {
        Self { waiting: VecDeque::with_capacity(DEPTH), until_ms, held: 0, is_ending: false }
    }

    pub(crate) fn extend(&mut self, until_ms: u64) {
        self.until_ms = until_ms;
        self.is_ending = false;
    }

    /// End it when nothing is kept. Gives how many packets had to wait; 0 when that was asked before.
    pub(crate) fn end(&mut self, now_ms: u64) -> u64 {
        if self.is_ending {
            return 0;
        }
        self.is_ending = true;
        self.until_ms = self.until_ms.min(now_ms + PARTING_MS);
        self.held
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so many more have room.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.waiting.len() + more <= DEPTH
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keep a packet behind all others; when there is no room, drop it.
    pub(crate) fn keep(&mut self, mbuf: Mbuf, outcome: Outcome, counters: &ShardCounters) {
        if self.has_room(1) {
            self.waiting.push_back((outcome, mbuf));
            self.held += 1;
        } else {
            counters.count(Outcome::HoldFull, 1);
        }
    }

    /// The packet that has waited longest.
    pub(crate) fn next(&mut self) -> Option<(Outcome, Mbuf)> {
        self.waiting.pop_front()
    }

    /// Put back a packet that was [next](Self::next): there is room, it came from here.
    pub(crate) fn put_back(&mut self, mbuf: Mbuf, outcome: Outcome) {
        self.waiting.push_front((outcome, mbuf));
    }
}
