//! Open vSwitch with DPDK: the userspace datapath with connection tracking and NAT.
//!
//! It gets what helps it: one flow, whose single `ct` action commits and translates in one pass, so that no packet is
//! recirculated; and no exact-match cache, which 200,000 flows would only thrash.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use tidegate_lab::process::{self, Process, wait_until};

use super::{
    Feed, Subject,
    peer::{self, Needed},
};
use crate::{
    machine::{CONTROL_CPU, WORKER_CPU},
    runner::Reading,
};

const READY: Duration = Duration::from_secs(120);

/// A running switch with its database.
pub struct OpenVSwitch {
    dir: PathBuf,
    sessions: u64,
    daemon: Process,
    _database: Process,
}

impl OpenVSwitch {
    /// Start one in a directory of its own, and wait until it tracks every session of the capture.
    ///
    /// # Errors
    /// When it is not installed or does not get that far.
    pub fn start(feed: &Feed) -> anyhow::Result<Self> {
        let dir = feed.dir.join("openvswitch");
        // A database of an earlier start has another switch's ports.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let (daemon, schema) = (peer::OVS_VSWITCHD.find()?, peer::OVS_SCHEMA.find()?);
        let (database_file, socket) = (dir.join("conf.db"), dir.join("db.sock"));
        let mut create = command(peer::OVSDB_TOOL, &dir)?;
        create.arg("create").arg(&database_file).arg(schema);
        process::run(&mut create)?;
        let mut server = command(peer::OVSDB_SERVER, &dir)?;
        server.arg(format!("--remote=punix:{}", socket.display())).arg(&database_file);
        let database = Process::start("ovsdb-server", &mut server, &dir)?;
        wait_until("the database's socket", READY, || Ok(socket.exists().then_some(())))?;

        let vsctl = |arguments: &[String]| {
            let mut command = command(peer::OVS_VSCTL, &dir)?;
            command.arg(format!("--db=unix:{}", socket.display())).args(arguments);
            process::run(&mut command)
        };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        vsctl(&words("--no-wait init"))?;
        // Its own pools: at most 262,144 buffers of 2 KiB, and the capture is preloaded from the same.
        let memory = 1280;
        vsctl(&words(&format!(
            "--no-wait set Open_vSwitch . other_config:dpdk-init=true \
             other_config:dpdk-lcore-mask={:#x} other_config:pmd-cpu-mask={:#x} \
             other_config:dpdk-socket-mem={memory} other_config:emc-insert-inv-prob=0",
            1 << CONTROL_CPU,
            1 << WORKER_CPU
        )))?;
        let mut extra = words("--no-wait set Open_vSwitch .");
        extra.push("other_config:dpdk-extra=\"--in-memory --no-pci --no-telemetry\"".to_owned());
        vsctl(&extra)?;
        let mut daemon = Command::new(daemon);
        environment(&mut daemon, &dir);
        daemon.arg(format!("--unixctl={}", control(&dir).display()));
        daemon.arg(format!("unix:{}", socket.display()));
        let daemon = Process::start("ovs-vswitchd", &mut daemon, &dir)?;
        let this = Self {
            dir: dir.clone(),
            sessions: u64::from(feed.sessions),
            daemon,
            _database: database,
        };

        vsctl(&words(
            "--timeout=60 add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=secure",
        ))?;
        let mut add = words(
            "--timeout=120 add-port br0 null0 -- set Interface null0 type=dpdk ofport_request=2 \
             options:dpdk-devargs=net_null0,no-rx=1",
        );
        vsctl(&add)?;
        this.flow("priority=10,in_port=1,ip,actions=ct(commit,nat(dst=10.8.0.11)),mod_dl_dst:02:00:00:00:0a:01,output:2")?;
        add =
            words("--timeout=120 add-port br0 in0 -- set Interface in0 type=dpdk ofport_request=1");
        add.push(format!("options:dpdk-devargs=\"{}\"", feed.device()));
        vsctl(&add)?;
        for port in ["in0", "null0"] {
            let error = vsctl(&words(&format!("get Interface {port} error")))?;
            anyhow::ensure!(
                error.trim() == "[]",
                "Open vSwitch did not open {port}: {error}\n{}",
                this.daemon.printed()
            );
        }
        let limit = Duration::from_secs(60);
        wait_until("Open vSwitch to track every session", limit, || {
            thread::sleep(Duration::from_millis(200));
            Ok((this.connections()? >= this.sessions).then_some(()))
        })?;
        Ok(this)
    }

    fn flow(&self, flow: &str) -> anyhow::Result<()> {
        let mut command = command(peer::OVS_OFCTL, &self.dir)?;
        process::run(command.args(["add-flow", "br0", flow])).map(drop)
    }

    fn appctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = command(peer::OVS_APPCTL, &self.dir)?;
        process::run(command.arg("-t").arg(control(&self.dir)).args(arguments))
    }

    fn connections(&self) -> anyhow::Result<u64> {
        let count = self.appctl(&["dpctl/ct-get-nconns"])?;
        Ok(count.trim().parse()?)
    }
}

/// The daemon's control socket.
fn control(dir: &Path) -> PathBuf {
    dir.join("vswitchd.ctl")
}

fn command(program: Needed, dir: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program.find()?);
    environment(&mut command, dir);
    Ok(command)
}

fn environment(command: &mut Command, dir: &Path) {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
}

/// The sent packets of port `null0` in `dpctl/show -s`.
fn sent(shown: &str) -> Option<u64> {
    let (_, port) = shown.split_once(": null0 ")?;
    let (_, sent) = port.split_once("TX packets:")?;
    sent.split_whitespace().next()?.parse().ok()
}

impl Subject for OpenVSwitch {
    fn name(&self) -> &str {
        "Open vSwitch ct(nat)"
    }

    fn reading(&mut self) -> anyhow::Result<Reading> {
        Reading::take(|| {
            let shown = self.appctl(&["dpctl/show", "-s"])?;
            sent(&shown).ok_or_else(|| anyhow::anyhow!("no sent packets of null0 in:\n{shown}"))
        })
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let tracked = self.appctl(&["dpctl/dump-conntrack"])?;
        // The reply is expected from the address the destination was translated to.
        let translated = tracked.lines().filter(|line| line.contains("reply=(src=10.8.0.11,"));
        let translated = translated.count() as u64;
        anyhow::ensure!(
            translated >= self.sessions,
            "Open vSwitch translates {translated} of {} sessions; it tracks:\n{}",
            self.sessions,
            tracked.lines().take(5).collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.daemon.pid()]
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sent_packets_are_those_of_the_null_port() {
        let shown = "netdev@ovs-netdev:\n  port 1: in0 (dpdk: a=1)\n    RX packets:9 errors:0\n    TX packets:0 errors:0\n  \
                     port 2: null0 (dpdk: a=1)\n    RX packets:0 errors:0\n    TX packets:77 errors:0\n";
        assert_eq!(super::sent(shown), Some(77));
    }
}
