//! The benches: each gives some metrics and perhaps curves.

mod cutover;
pub mod floods;
mod footprint;
mod latency;
mod links;
mod many;
mod migration;
mod mixes;
mod moves;
mod packed;
mod packets;
mod pause;
mod scan;
mod sessions;
mod table;
mod workers;

use std::{path::PathBuf, time::Duration};

use crate::{
    capture::{Capture, Transport},
    machine::Machine,
    plot::Curve,
    result::Metric,
    runner::Plan,
    subject::Feed,
};

/// What a bench runs with.
pub struct Context {
    /// Windows of each subject.
    pub runs: usize,
    /// Length of a window.
    pub window: Duration,
    /// Where captures are kept.
    pub captures: PathBuf,
    /// Where subjects keep their files.
    pub dir: PathBuf,
    /// The machine.
    pub machine: Machine,
}

impl Context {
    fn plan(&self) -> Plan {
        let (runs, window) = (self.runs, self.window);
        Plan { runs, warm_up: window / 4, window, tsc_hz: self.machine.tsc_hz }
    }

    fn feed(&self, capture: &Capture) -> anyhow::Result<Feed> {
        Ok(Feed {
            capture: capture.file(&self.captures)?,
            packets: capture.packets,
            sessions: capture.sessions_met(),
            family: capture.family,
            are_answered: capture.transport == Transport::Tcp,
            dir: self.dir.clone(),
        })
    }
}

/// What a bench gave.
#[derive(Default)]
pub struct Outcome {
    /// Metrics.
    pub metrics: Vec<Metric>,
    /// Curves.
    pub curves: Vec<Curve>,
}

/// A bench.
pub struct Bench {
    /// Its name.
    pub name: &'static str,
    /// What it is about: `--only` takes this, too.
    pub group: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The metrics it gives.
    pub metrics: &'static [&'static str],
    /// Run it.
    pub run: fn(&Context) -> anyhow::Result<Outcome>,
}

/// Sessions and packets.
const PACKET_PATH: &str = "packet-path";
/// Guests' memory.
const MEMORY: &str = "memory";

/// All benches, in the order they are run.
pub const BENCHES: &[Bench] = &[
    Bench {
        name: "table",
        group: PACKET_PATH,
        about: "the session table beside rte_hash and hashbrown",
        metrics: &[
            "lookup_vs_rte_hash",
            "lookup_miss_vs_rte_hash",
            "lookup_vs_hashbrown",
            "lookup_miss_vs_hashbrown",
            "table_churn_vs_rte_hash",
            "table_churn_vs_hashbrown",
            "table_insert_ns",
            "bytes_per_session",
        ],
        run: table::run,
    },
    Bench {
        name: "sessions",
        group: PACKET_PATH,
        about: "a shard in memory: new sessions, churn, millions of sessions",
        metrics: &["new_session_ns", "session_churn_per_s", "packet_cycles_8m_vs_64k"],
        run: sessions::run,
    },
    Bench {
        name: "packets",
        group: PACKET_PATH,
        about: "tidegated beside testpmd, 200,000 sessions",
        metrics: &["packet_cycles_vs_5tswap", "packet_cycles_vs_macswap"],
        run: packets::testpmd,
    },
    Bench {
        name: "mixes",
        group: PACKET_PATH,
        about: "tidegated beside testpmd: draws, SYNs and FINs, UDP, IPv6, sizes; 200,000 sessions",
        metrics: &[
            "packet_cycles_uniform_vs_5tswap",
            "packet_cycles_zipf_vs_5tswap",
            "packet_cycles_syn_fin_vs_5tswap",
            "packet_cycles_udp_vs_5tswap",
            "packet_cycles_v6_vs_5tswap",
            "packet_cycles_1514_vs_5tswap",
            "packet_cycles_imix_vs_5tswap",
        ],
        run: mixes::run,
    },
    Bench {
        name: "openvswitch",
        group: PACKET_PATH,
        about: "tidegated beside Open vSwitch ct(nat), 200,000 sessions",
        metrics: &["throughput_vs_ovs_ct_nat"],
        run: packets::openvswitch,
    },
    Bench {
        name: "nftables",
        group: PACKET_PATH,
        about: "tidegated beside nftables over veth, 200,000 sessions",
        metrics: &["throughput_vs_nftables"],
        run: packets::nftables,
    },
    Bench {
        name: "curve",
        group: PACKET_PATH,
        about: "tidegated and testpmd from 1,000 to a million sessions",
        metrics: &["packet_tsc_1m"],
        run: packets::curve,
    },
    Bench {
        name: "cutover",
        group: PACKET_PATH,
        about: "cutover with a million live sessions",
        metrics: &[
            "cutover_1m_ms",
            "cutover_1m_lost",
            "cutover_1m_misdirected",
            "cutover_1m_dip_percent",
        ],
        run: cutover::run,
    },
    Bench {
        name: "workers",
        group: PACKET_PATH,
        about: "two workers beside one, as shards in memory",
        metrics: &["two_workers_vs_one"],
        run: workers::in_memory,
    },
    Bench {
        name: "ring",
        group: PACKET_PATH,
        about: "two workers of tidegated beside one, with the ring between them in use",
        metrics: &["two_workers_ring_vs_one"],
        run: workers::with_ring,
    },
    Bench {
        name: "migration",
        group: PACKET_PATH,
        about: "a million sessions and a cutover, every packet checked by the generator",
        metrics: &[
            "pktgen_lost",
            "pktgen_misdirected",
            "pktgen_reordered",
            "pktgen_wrong",
            "pktgen_unfinished",
        ],
        run: migration::run,
    },
    Bench {
        name: "latency",
        group: PACKET_PATH,
        about: "latency at 1 Mpps during cutover, expiry, dumps and counter reads, beside idle testpmd",
        metrics: &["latency_p99_vs_testpmd", "latency_p50_vs_testpmd", "latency_p999_vs_testpmd"],
        run: latency::run,
    },
    Bench {
        name: "floods",
        group: PACKET_PATH,
        about: "old sessions beside a SYN flood, a UDP spray and an ICMP storm at full worker speed",
        metrics: &[
            "flood_syn_wait_bursts",
            "flood_syn_wait_p99_bursts",
            "flood_udp_wait_bursts",
            "flood_udp_wait_p99_bursts",
            "flood_icmp_wait_bursts",
            "flood_icmp_wait_p99_bursts",
            "flood_lost",
        ],
        run: floods::run,
    },
    Bench {
        name: "many",
        group: PACKET_PATH,
        about: "200 of 10,000 addresses migrating at once, beside the sessions of one that is not",
        metrics: &["many_cutover_ms", "many_cutover_answer_ms", "many_lost"],
        run: many::run,
    },
    Bench {
        name: "scan",
        group: MEMORY,
        about: "looking for what changed, beside memcmp",
        metrics: &["diff_scan_vs_memcmp", "hash_scan_vs_memcmp"],
        run: scan::run,
    },
    Bench {
        name: "links",
        group: MEMORY,
        about: "the copy over TCP beside iperf3, over TLS and libfabric beside TCP",
        metrics: &[
            "tcp_vs_iperf3",
            "tcp_transport_vs_iperf3",
            "tcp_fresh_vs_iperf3",
            "tls_vs_plain",
            "fabric_vs_tcp",
            "fabric_shm_vs_tcp",
        ],
        run: links::run,
    },
    Bench {
        name: "packed",
        group: MEMORY,
        about: "a packed diff written and applied, beside an RMA write for each page",
        metrics: &["packed_apply_vs_page_writes", "packed_whole_pages_vs_page_writes"],
        run: packed::run,
    },
    Bench {
        name: "pause",
        group: MEMORY,
        about: "the pause of a capture, 1 GiB beside 256 MiB",
        metrics: &["capture_pause_1g_vs_256m", "stop_pause_1g_vs_256m"],
        run: pause::run,
    },
    Bench {
        name: "footprint",
        group: MEMORY,
        about: "memory the engine takes beside the guest's",
        metrics: &["engine_memory_vs_ram"],
        run: footprint::run,
    },
    Bench {
        name: "move",
        group: MEMORY,
        about: "a guest that rewrites 256 MiB without rest, moved by mirror and by QEMU's pre-copy",
        metrics: &[
            "precopy_bytes_vs_ours",
            "precopy_time_vs_ours",
            "precopy_downtime_vs_our_pause",
            "precopy_downtime_vs_our_t0_pause",
            "precopy_downtime_vs_mirror_stop",
            "precopy_silence_vs_our_t0_silence",
            "precopy_silence_vs_ours",
            "precopy_lost_time_vs_ours",
        ],
        run: moves::busy,
    },
    Bench {
        name: "quiet-move",
        group: MEMORY,
        about: "a guest that changes little over a fast link, where pre-copy is as good",
        metrics: &[
            "precopy_quiet_bytes_vs_ours",
            "precopy_quiet_time_vs_ours",
            "precopy_quiet_downtime_vs_ours",
        ],
        run: moves::quiet,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TARGETS;

    #[test]
    fn every_target_has_one_bench() {
        for target in TARGETS {
            let giving = BENCHES.iter().filter(|bench| bench.metrics.contains(&target.metric));
            assert_eq!(giving.count(), 1, "{}", target.metric);
        }
    }
}
