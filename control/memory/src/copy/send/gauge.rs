//! How far a copy is, written by its lanes and read by whoever asks.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What a rate is taken over.
const WINDOW: Duration = Duration::from_secs(1);

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes on the wire: zero pages are left out, heads are counted.
    pub sent_bytes: u64,
    /// Bytes of the objects that are dealt with.
    pub covered_bytes: u64,
    /// Bytes of all objects.
    pub total_bytes: u64,
    /// Bytes on the wire per second, over the last second.
    pub rate_bytes_per_s: u64,
}

/// Counters of one copy. Each is added to by all lanes; only sums are read, so nothing is ordered by them.
#[derive(Debug)]
pub(super) struct Gauge {
    sent_bytes: AtomicU64,
    covered_bytes: AtomicU64,
    total_bytes: u64,
}

impl Gauge {
    pub(super) fn new(total_bytes: u64) -> Self {
        Self { sent_bytes: AtomicU64::new(0), covered_bytes: AtomicU64::new(0), total_bytes }
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn covered(&self, bytes: u64) {
        self.covered_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Progress {
        Progress {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            // What is sent again was covered before.
            covered_bytes: self.covered_bytes.load(Ordering::Relaxed).min(self.total_bytes),
            total_bytes: self.total_bytes,
            rate_bytes_per_s: 0,
        }
    }
}

/// Makes rates of a gauge that is read again and again.
#[derive(Default)]
pub(super) struct Reporter(VecDeque<(Instant, u64)>);

impl Reporter {
    pub(super) fn read(&mut self, gauge: &Gauge) -> Progress {
        let (now, mut progress) = (Instant::now(), gauge.now());
        self.0.push_back((now, progress.sent_bytes));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        let ns = now.duration_since(since).as_nanos();
        if ns > 0 {
            let bytes = u128::from(progress.sent_bytes - before);
            progress.rate_bytes_per_s = (bytes * 1_000_000_000 / ns) as u64;
        }
        progress
    }
}
