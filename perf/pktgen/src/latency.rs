//! How long packets were under way, and which of them the generator itself may have delayed.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told from a longer one, seconds.
const LONGEST_S: u64 = 10;
/// Decimal digits that are kept.
const DIGITS: u8 = 3;

/// Latencies of one kind of packets, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Packets.
    pub packets: u64,
    /// Shortest.
    pub min_us: f64,
    /// Half of them are no longer.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// What was measured while it was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Every packet, both directions.
    pub all: Quantiles,
    /// From client to VM.
    pub to_vm: Quantiles,
    /// From VM to client.
    pub to_client: Quantiles,
    /// Those of `all` that were not under way during a stall of the generator.
    pub undisturbed: Quantiles,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToVm,
    ToClient,
}

/// The histograms, in ticks.
pub(crate) struct Recorder {
    /// By [`Way`].
    all: [Histogram<u64>; 2],
    undisturbed: Histogram<u64>,
    /// Packets sent from here on are recorded, and those sent before `until`.
    from: u64,
    until: u64,
    tsc_hz: u64,
}

impl Recorder {
    pub(crate) fn new(tsc_hz: u64) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_S * tsc_hz, DIGITS)
                .expect("bounds and digits are in range")
        };
        Self {
            all: [histogram(), histogram()],
            undisturbed: histogram(),
            from: u64::MAX,
            until: u64::MAX,
            tsc_hz,
        }
    }

    /// Record packets sent from `now` on.
    pub(crate) fn start(&mut self, now: u64) {
        (self.from, self.until) = (now, u64::MAX);
    }

    /// Record none sent later.
    pub(crate) fn stop(&mut self, now: u64) {
        self.until = now;
    }

    /// A packet sent at `stamp` has arrived; the generator last stood still at `stalled`.
    #[inline]
    pub(crate) fn record(&mut self, way: Way, stamp: u64, now: u64, stalled: u64) {
        if stamp < self.from || stamp >= self.until {
            return;
        }
        let ticks = now.saturating_sub(stamp);
        self.all[way as usize].saturating_record(ticks);
        if stamp > stalled {
            self.undisturbed.saturating_record(ticks);
        }
    }

    pub(crate) fn summary(&self) -> Latency {
        let [to_vm, to_client] = &self.all;
        let mut all = to_vm.clone();
        all.add(to_client).expect("the bounds are the same");
        let quantiles = |it: &Histogram<u64>| self.quantiles(it);
        Latency {
            all: quantiles(&all),
            to_vm: quantiles(to_vm),
            to_client: quantiles(to_client),
            undisturbed: quantiles(&self.undisturbed),
        }
    }

    fn quantiles(&self, histogram: &Histogram<u64>) -> Quantiles {
        let us = |ticks: u64| ticks as f64 * 1e6 / self.tsc_hz as f64;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Quantiles {
            packets: histogram.len(),
            min_us: us(histogram.min()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_and_what_is_marked() {
        let mut recorder = Recorder::new(1_000_000_000);
        recorder.record(Way::ToVm, 500, 1_500, 0);
        recorder.start(1_000);
        recorder.record(Way::ToVm, 999, 2_000, 0);
        for n in 0..98 {
            recorder.record(Way::ToVm, 1_000 + n, 6_000 + n, 0);
        }
        // Under way while the generator stood still, until 50,000.
        recorder.record(Way::ToClient, 10_000, 51_000, 50_000);
        recorder.stop(60_000);
        recorder.record(Way::ToClient, 60_000, 61_000, 50_000);
        let latency = recorder.summary();
        let packets = [latency.all, latency.to_vm, latency.to_client, latency.undisturbed];
        assert_eq!(packets.map(|it| it.packets), [99, 98, 1, 98]);
        assert!((latency.all.p50_us - 5.0).abs() < 0.01 && (latency.all.max_us - 41.0).abs() < 0.1);
        assert!((latency.undisturbed.max_us - 5.0).abs() < 0.01, "{latency:?}");
    }
}
