//! What the packet path has to reach.

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Bound {
    /// Whether `value` keeps it. What is not a number does not.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// Which of a metric's numbers is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Ours ÷ theirs; theirs ÷ ours where the peer is first.
    Ratio,
    /// Ours.
    Ours,
}

/// A metric's target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The metric.
    pub metric: &'static str,
    /// Which number.
    pub of: Of,
    /// Its bound.
    pub bound: Bound,
}

const fn target(metric: &'static str, of: Of, bound: Bound) -> Target {
    Target { metric, of, bound }
}

/// All targets. A metric without one is shown for information.
pub const TARGETS: &[Target] = &[
    target("packet_cycles_vs_5tswap", Of::Ratio, Bound::AtMost(1.5)),
    target("throughput_vs_ovs_ct_nat", Of::Ratio, Bound::AtLeast(20.0)),
    target("packet_tsc_1m", Of::Ours, Bound::AtMost(250.0)),
    target("packet_cycles_8m_vs_64k", Of::Ratio, Bound::AtMost(1.6)),
    target("lookup_vs_rte_hash", Of::Ratio, Bound::AtLeast(1.5)),
    target("new_session_ns", Of::Ours, Bound::AtMost(220.0)),
    target("session_churn_per_s", Of::Ours, Bound::AtLeast(3_000_000.0)),
    target("bytes_per_session", Of::Ours, Bound::AtMost(64.0)),
    target("cutover_1m_ms", Of::Ours, Bound::AtMost(1.0)),
    target("cutover_1m_lost", Of::Ours, Bound::AtMost(0.0)),
    target("cutover_1m_misdirected", Of::Ours, Bound::AtMost(0.0)),
    target("cutover_1m_dip_percent", Of::Ours, Bound::AtMost(3.0)),
    target("latency_p99_vs_testpmd", Of::Ratio, Bound::AtMost(2.0)),
    target("pktgen_lost", Of::Ours, Bound::AtMost(0.0)),
    target("pktgen_misdirected", Of::Ours, Bound::AtMost(0.0)),
    target("pktgen_reordered", Of::Ours, Bound::AtMost(0.0)),
    target("pktgen_wrong", Of::Ours, Bound::AtMost(0.0)),
    target("pktgen_unfinished", Of::Ours, Bound::AtMost(0.0)),
    target("many_cutover_ms", Of::Ours, Bound::AtMost(1.0)),
    target("many_lost", Of::Ours, Bound::AtMost(0.0)),
    target("flood_lost", Of::Ours, Bound::AtMost(0.0)),
    target("flood_syn_wait_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("flood_syn_wait_p99_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("flood_udp_wait_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("flood_udp_wait_p99_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("flood_icmp_wait_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("flood_icmp_wait_p99_bursts", Of::Ours, Bound::AtMost(1.0)),
    target("two_workers_vs_one", Of::Ratio, Bound::AtLeast(1.8)),
    target("precopy_bytes_vs_ours", Of::Ratio, Bound::AtLeast(5.5)),
    target("precopy_time_vs_ours", Of::Ratio, Bound::AtLeast(5.0)),
    target("precopy_downtime_vs_our_pause", Of::Ratio, Bound::AtLeast(1.0)),
    target("capture_pause_1g_vs_256m", Of::Ratio, Bound::AtMost(1.3)),
    target("diff_scan_vs_memcmp", Of::Ratio, Bound::AtLeast(0.9)),
    target("tcp_vs_iperf3", Of::Ratio, Bound::AtLeast(0.95)),
    target("tls_vs_plain", Of::Ratio, Bound::AtLeast(0.6)),
    target("fabric_vs_tcp", Of::Ratio, Bound::AtLeast(0.9)),
    target("fabric_shm_vs_tcp", Of::Ratio, Bound::AtLeast(2.0)),
    target("packed_apply_vs_page_writes", Of::Ratio, Bound::AtLeast(6.0)),
    target("engine_memory_vs_ram", Of::Ratio, Bound::AtMost(0.05)),
];

/// The target of `metric`.
#[must_use]
pub fn of(metric: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.metric == metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_meets_nothing() {
        assert!(!Bound::AtMost(1.0).holds(f64::NAN) && !Bound::AtLeast(1.0).holds(f64::NAN));
        assert!(Bound::AtMost(1.0).holds(1.0) && !Bound::AtLeast(1.0).holds(0.9));
    }
}
