//! The switch box itself: the released `tidegated`, asked over its API.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::Context as _;
use tidegate_lab::process::{Process, built, wait_until};

use super::{
    Feed, Subject,
    api::{Api, Totals},
    wires::{Room, Wires},
};
use crate::{frame::Family, machine::WORKER_CPU, runner::Reading};

const READY: Duration = Duration::from_secs(120);
/// Memory of DPDK's longest-prefix tables, which is there whatever the routes.
pub(super) const ROUTE_TABLES_MIB: u32 = 256;

/// How the box is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Captures, one for each receive queue.
    pub captures: Vec<Feed>,
    /// CPUs of the workers.
    pub cpus: Vec<usize>,
}

/// The rig's ports and address as a box's configuration has them: the uplink, and an access port `vm0`, `vm1` … for each
/// other device.
pub(super) fn ports(uplink: &str, access: &[&str]) -> String {
    let mut text = format!(
        r#"[[port]]
name = "uplink"
device = "{uplink}"
mac = "02:00:00:00:01:01"
addresses = ["10.9.0.1/24", "2001:db8:9::1/64"]
role = "uplink"
"#
    );
    for (number, device) in access.iter().enumerate() {
        text += &format!(
            r#"
[[port]]
name = "vm{number}"
device = "{device}"
mac = "02:00:00:00:02:01"
addresses = ["10.8.0.1/24"]
role = "access"
"#
        );
    }
    text + r#"
[[address]]
address = "10.9.0.100"
home = { name = "source", port = "vm0", mac = "02:00:00:00:0a:01", rewrite = "nat", locator = "10.8.0.11" }

[[address]]
address = "2001:db8:9::64"
home = { name = "source", port = "vm0", mac = "02:00:00:00:0a:01", rewrite = "nat", locator = "2001:db8:8::11" }
"#
}

impl Setup {
    /// One worker on the measured CPU.
    #[must_use]
    pub fn one_worker(feed: &Feed) -> Self {
        Self { captures: vec![feed.clone()], cpus: vec![WORKER_CPU] }
    }

    fn config(&self, socket: &str) -> String {
        let mbufs: u32 = self.captures.iter().map(Feed::mbufs).sum();
        let memory: u32 = self.captures.iter().map(Feed::memory_mib).sum();
        let memory = memory + ROUTE_TABLES_MIB;
        let room = |family| -> u32 {
            let feeds = self.captures.iter().filter(|feed| feed.family == family);
            feeds.map(Feed::room).sum::<u32>().clamp(65_536, 16_777_216)
        };
        let (sessions, sessions_ipv6) = (room(Family::V4), room(Family::V6));
        let captures: String = self
            .captures
            .iter()
            .map(|feed| format!(",rx_pcap={},tx_iface=lo", feed.capture.display()))
            .collect();
        let ports = ports(&format!("net_pcap0{captures},infinite_rx=1"), &["net_null0,no-rx=1"]);
        format!(
            r#"[eal]
memory_mib = {memory}
mbufs = {mbufs}

[workers]
cpus = {cpus:?}
idle = "poll"
sessions = {sessions}
sessions_ipv6 = {sessions_ipv6}

[api]
listen = ["{socket}"]

{ports}"#,
            cpus = self.cpus
        )
    }
}

/// A running box.
pub struct Tidegated {
    process: Process,
    cpus: Vec<usize>,
    socket: String,
    /// Its API.
    pub api: Api,
    /// Counters when all sessions were established.
    settled: Totals,
}

impl Tidegated {
    /// Start a box and wait until every session of its captures is in its tables. Adoption is rate-limited: a
    /// million TCP sessions take a hundred seconds.
    ///
    /// # Errors
    /// When it does not get that far.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        let feed = setup.captures.first().context("a box without capture")?;
        let dir = feed.dir.join(format!("tidegated-{}", setup.cpus.len()));
        let mut this = Self::run(&dir, &setup.cpus, |socket| setup.config(socket))?;
        this.settle(setup.captures.iter().map(|feed| u64::from(feed.sessions)).sum())?;
        Ok(this)
    }

    /// Start a box between the ends of `wires`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn on_wires(wires: &Wires, room: &Room) -> anyhow::Result<Self> {
        let dir = wires.dir().join("tidegated");
        Self::run(&dir, &Wires::WORKERS, |socket| wires.config(socket, room))
    }

    /// Memory it holds in ordinary pages, KiB (`VmRSS`: <https://docs.kernel.org/filesystems/proc.html>).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("the kernel does not say how large the box is")?.parse()?)
    }

    fn run(
        dir: &Path,
        cpus: &[usize],
        config: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let socket = format!("unix:{}", dir.join("api.sock").display());
        let file = dir.join("tidegated.toml");
        fs::write(&file, config(&socket))?;
        let mut command = Command::new(built("tidegated")?);
        command.arg("--config").arg(&file);
        let mut process = Process::start("tidegated", &mut command, dir)?;
        process.wait_for("is ready", READY)?;
        let api = Api::connect(&socket)?;
        Ok(Self { process, cpus: cpus.to_vec(), socket, api, settled: Totals::default() })
    }

    /// Another connection to its API.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn connect(&self) -> anyhow::Result<Api> {
        Api::connect(&self.socket)
    }

    /// Wait until there are `sessions`, and nothing is dropped any more.
    fn settle(&mut self, sessions: u64) -> anyhow::Result<()> {
        let limit = Duration::from_secs(60 + sessions / 5_000);
        let mut before = self.api.totals()?;
        self.settled = wait_until("all sessions in the table", limit, || {
            if let Some(status) = self.process.ended()? {
                anyhow::bail!("tidegated ended ({status}):\n{}", self.process.printed());
            }
            thread::sleep(Duration::from_millis(200));
            let now = self.api.totals()?;
            let is_settled = now.sessions == sessions && now.dropped == before.dropped;
            before = now;
            Ok(is_settled.then_some(now))
        })
        .with_context(|| format!("{before:?}, wanted {sessions} sessions"))?;
        Ok(())
    }
}

impl Subject for Tidegated {
    fn name(&self) -> &str {
        "tidegated"
    }

    fn reading(&mut self) -> anyhow::Result<Reading> {
        Reading::take(|| Ok(self.api.totals()?.to_source))
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let (before, now) = (self.settled, self.api.totals()?);
        let ring_full = now.ring_full - before.ring_full;
        let received = now.received - before.received - ring_full;
        let sent = now.to_source - before.to_source;
        // Counters are read one after the other while packets flow.
        let under_way = received.abs_diff(sent);
        anyhow::ensure!(
            now.dropped == before.dropped
                && now.to_destination == before.to_destination
                && now.sessions == before.sessions
                && under_way < received / 100,
            "tidegated did not send every packet to the source: {before:?}, then {now:?}"
        );
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    /// The second of two workers shares its CPU with control threads.
    fn polls(&self) -> bool {
        self.cpus == [WORKER_CPU]
    }
}
