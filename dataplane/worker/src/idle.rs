//! What a worker does between packets.

use std::{thread, time::Duration};

use crate::Idle;

/// Polls in vain before the first sleep: about as long as a burst takes to arrive at a busy port.
const PATIENCE: u32 = 2_000;
/// The longest sleep. It bounds the latency of the first packet after silence, and of an acknowledgement.
const LONGEST_US: u64 = 200;

/// Counts polls in vain.
pub(crate) struct Idler {
    idle: Idle,
    in_vain: u32,
}

impl Idler {
    pub(crate) fn new(idle: Idle) -> Self {
        Self { idle, in_vain: 0 }
    }

    /// A poll found something.
    #[inline]
    pub(crate) fn busy(&mut self) {
        self.in_vain = 0;
    }

    /// A poll found nothing. Returns whether the worker slept.
    #[inline]
    pub(crate) fn rest(&mut self) -> bool {
        tidegate_dpdk::pause();
        if self.idle == Idle::Poll {
            return false;
        }
        self.in_vain = self.in_vain.saturating_add(1);
        if self.in_vain < PATIENCE {
            return false;
        }
        let longer = 10 * u64::from(self.in_vain - PATIENCE + 1);
        thread::sleep(Duration::from_micros(longer.min(LONGEST_US)));
        true
    }
}
