//! The kernel: destination NAT by nftables between two veth links, as a low anchor.
//!
//! ```text
//! testpmd io ── net_af_packet ── bench-in ══ box-in │ namespace "bench-box": nftables, forwarding │ box-out ══ bench-out
//! ```
//!
//! A veth hands a packet over on the CPU that sends it, so the sender's system calls and the whole of the kernel's work
//! share the measured CPU.

use std::{fs, thread, time::Duration};

use tidegate_lab::process::wait_until;

use super::{Feed, Subject, peer, run, testpmd::Testpmd};
use crate::runner::Reading;

const BOX: &str = "bench-box";
const RULES: &str = "table ip bench {
  chain before { type nat hook prerouting priority dstnat; ip daddr 10.9.0.100 dnat to 10.8.0.11; }
  chain passing { type filter hook forward priority filter; ip daddr 10.8.0.11 counter; }
}";

/// The kernel with its traffic source.
pub struct Nftables {
    /// Place of its program, which is not on users' paths.
    nft: String,
    source: Testpmd,
    sessions: u64,
}

impl Nftables {
    /// Set the namespaces up and start the source.
    ///
    /// # Errors
    /// When a program is missing or the kernel refuses.
    pub fn start(feed: &Feed) -> anyhow::Result<Self> {
        peer::IP.find()?;
        let nft = peer::NFT.find()?.to_string_lossy().into_owned();
        remove();
        for line in [
            "netns add bench-box",
            "link add bench-in type veth peer name box-in netns bench-box",
            "link add bench-out type veth peer name box-out netns bench-box",
            "link set bench-in up",
            "link set bench-out up",
            "-n bench-box link set box-in address 02:00:00:00:01:01 up",
            "-n bench-box link set box-out up",
            "-n bench-box addr add 10.9.0.1/24 dev box-in",
            "-n bench-box addr add 10.8.0.1/24 dev box-out",
            "-n bench-box route add 11.0.0.0/8 dev box-in",
            "-n bench-box neigh add 10.8.0.11 lladdr 02:00:00:00:0a:01 dev box-out",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        inside(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])?;
        let rules = feed.dir.join("bench.nft");
        fs::write(&rules, RULES)?;
        inside(&[&nft, "-f", &rules.to_string_lossy()])?;
        let source = Testpmd::start("io", feed, "net_af_packet1,iface=bench-in")?;
        let this = Self { nft, source, sessions: u64::from(feed.sessions) };
        let limit = Duration::from_secs(120);
        wait_until("the kernel to track every session", limit, || {
            thread::sleep(Duration::from_millis(200));
            Ok((tracked()? >= this.sessions).then_some(()))
        })?;
        Ok(this)
    }
}

/// Run a program in the namespace.
fn inside(program: &[&str]) -> anyhow::Result<String> {
    run("ip", &[&["netns", "exec", BOX], program].concat())
}

fn tracked() -> anyhow::Result<u64> {
    Ok(inside(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])?.trim().parse()?)
}

/// Remove what may be left; nothing left is fine.
fn remove() {
    for line in ["netns del bench-box", "link del bench-in", "link del bench-out"] {
        let _ = run("ip", &line.split(' ').collect::<Vec<_>>());
    }
}

impl Subject for Nftables {
    fn name(&self) -> &str {
        "nftables dnat over veth"
    }

    fn reading(&mut self) -> anyhow::Result<Reading> {
        // sysfs would show the links of the namespace it was mounted in.
        Reading::take(|| received("bench-out", &fs::read_to_string("/proc/net/dev")?))
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        // Read before the rules' counter, which may have gone on meanwhile.
        let passed = received("bench-out", &fs::read_to_string("/proc/net/dev")?)? * 99 / 100;
        let rules = inside(&[&self.nft, "list", "table", "ip", "bench"])?;
        let translated = rules
            .split_once("counter packets ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
        let tracked = tracked()?;
        anyhow::ensure!(
            translated.is_some_and(|packets| packets >= passed) && tracked >= self.sessions,
            "{passed} packets passed; the kernel tracks {tracked} of {} sessions; its rules:\n{rules}",
            self.sessions
        );
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        self.source.pids()
    }

    /// The kernel may do its work in a thread of its own, for which the source waits.
    fn polls(&self) -> bool {
        false
    }
}

/// Received packets of a link in `/proc/net/dev`.
fn received(link: &str, text: &str) -> anyhow::Result<u64> {
    let line =
        text.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(|| anyhow::anyhow!("{link} is not in:\n{text}"))
}

impl Drop for Nftables {
    fn drop(&mut self) {
        remove();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn received_packets_of_a_link() {
        let text = "Inter-| Receive\n face |bytes packets\n  lo: 1 2 3\nbench-out: 840 14 0 0\n";
        assert_eq!(super::received("bench-out", text).expect("there"), 14);
        assert!(super::received("bench-in", text).is_err());
    }
}
