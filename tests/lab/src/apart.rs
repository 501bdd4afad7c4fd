//! Two hosts in network namespaces of their own, and one link between them that is as fast as it is told to be.
//!
//! The manager stays outside and reaches them by Unix sockets: what it moves shows on no interface, and what the hosts
//! send each other on the link alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    lab::Lab,
    process::{Process, built, output, run},
};

#[path = "../../../control/memory/examples/authority/mod.rs"]
mod authority;

/// Names of the hosts, in the inventory and as namespaces.
pub const HOSTS: [&str; 2] = ["host-a", "host-b"];
/// Ends of the link, each in its host's namespace.
const ENDS: [&str; 2] = ["to-b", "to-a"];
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const PORT: u16 = 7432;
const READY: Duration = Duration::from_secs(20);

/// What the link carries at most, each way.
pub const LINK_MBIT: u64 = 400;

/// What differs between hosts that are apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// They prove to each other who they are, and send nothing in the clear.
    pub tls: bool,
    /// Most that they keep of RAM as of T0.
    pub twin_memory_bytes: Option<u64>,
}

/// Two running `tidegate-hostd`.
pub struct Apart {
    /// The processes, source's host first.
    pub hosts: [Process; 2],
    dir: PathBuf,
}

/// Bytes over an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Received.
    pub rx_bytes: u64,
    /// Sent.
    pub tx_bytes: u64,
}

/// Where a host's API is.
#[must_use]
pub fn endpoint(dir: &Path, host: usize) -> String {
    format!("unix:{}", dir.join(format!("{}.sock", HOSTS[host])).display())
}

impl Apart {
    /// Make namespaces and link, and start the hosts.
    ///
    /// # Errors
    /// When one of it fails.
    pub fn start(lab: &Lab, settings: Settings) -> anyhow::Result<Self> {
        remove();
        configure(lab.dir(), settings)?;
        for host in HOSTS {
            run(Command::new("ip").args(["netns", "add", host]))?;
        }
        let link = ["link", "add", "name", ENDS[0], "type", "veth", "peer", "name", ENDS[1]];
        run(Command::new("ip").args(link))?;
        for host in 0..2 {
            run(Command::new("ip").args(["link", "set", ENDS[host], "netns", HOSTS[host]]))?;
            let address = format!("{}/30", ADDRESSES[host]);
            for words in [
                ["addr", "add", &address, "dev", ENDS[host]].as_slice(),
                &["link", "set", ENDS[host], "up"],
                &["link", "set", "lo", "up"],
            ] {
                run(within(HOSTS[host], "ip").args(words))?;
            }
            shape(host)?;
        }
        let start = |host| start(lab.dir(), host);
        Ok(Self { hosts: [start(0)?, start(1)?], dir: lab.dir().to_owned() })
    }

    /// Start a host again, after it has ended.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self, host: usize) -> anyhow::Result<()> {
        self.hosts[host] = start(&self.dir, host)?;
        Ok(())
    }

    /// What went over the link, as the source's host sees it.
    ///
    /// # Errors
    /// When its counters cannot be read.
    pub fn over_link(&self) -> anyhow::Result<Carried> {
        let text = run(within(HOSTS[0], "cat").arg("/proc/net/dev"))?;
        interfaces(&text)?
            .into_iter()
            .find(|(name, _)| name == ENDS[0])
            .map(|(_, carried)| carried)
            .context("the link is not there")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            // Ended already is fine.
            let _ = host.kill();
        }
        remove();
    }
}

/// What has gone over all interfaces of this program's own namespace, where the manager runs.
///
/// # Errors
/// When the counters cannot be read.
pub fn outside() -> anyhow::Result<Carried> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let mut sum = Carried::default();
    for (_, carried) in interfaces(&text)? {
        sum.rx_bytes += carried.rx_bytes;
        sum.tx_bytes += carried.tx_bytes;
    }
    Ok(sum)
}

fn interfaces(text: &str) -> anyhow::Result<Vec<(String, Carried)>> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains(':')) {
        let (name, counters) = line.split_once(':').context("a counter line")?;
        let counters: Vec<u64> =
            counters.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(counters.len() >= 9, "{line}");
        let carried = Carried { rx_bytes: counters[0], tx_bytes: counters[8] };
        found.push((name.trim().to_owned(), carried));
    }
    Ok(found)
}

/// A link as others have it: a token bucket, which every kernel has that shapes at all.
fn shape(host: usize) -> anyhow::Result<()> {
    let rate = format!("{LINK_MBIT}mbit");
    let words = ["qdisc", "add", "dev", ENDS[host], "root", "tbf", "rate", &rate];
    let shaped =
        output(within(HOSTS[host], "tc").args(words).args(["burst", "256kb", "latency", "50ms"]))?;
    let complaint = String::from_utf8_lossy(&shaped.stderr);
    ensure!(
        shaped.status.success(),
        "the link cannot be shaped, the kernel needs sch_tbf: {complaint}"
    );
    Ok(())
}

fn within(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

fn remove() {
    for host in HOSTS {
        // The link goes with its ends.
        let _ = Command::new("ip").args(["netns", "delete", host]).output();
    }
}

/// Where a host's configuration is.
fn configuration(dir: &Path, host: usize) -> PathBuf {
    dir.join(format!("{}.toml", HOSTS[host]))
}

/// Write both configurations.
fn configure(dir: &Path, settings: Settings) -> anyhow::Result<()> {
    let security = if settings.tls {
        let files = authority::make(dir, "hosts", &ADDRESSES);
        let [certificate, key, ca] = files.map(|file| file.display().to_string());
        format!(
            r#"require_encryption = true

[data.tls]
certificate = "{certificate}"
key = "{key}"
ca = "{ca}""#
        )
    } else {
        "plain = true".to_owned()
    };
    let kept = settings.twin_memory_bytes.map(|bytes| format!("twin_memory_bytes = {bytes}"));
    let kept = kept.unwrap_or_default();
    for (host, name) in HOSTS.iter().enumerate() {
        let under = |sub: &str| dir.join(format!("{name}-{sub}")).display().to_string();
        let (address, endpoint) = (ADDRESSES[host], endpoint(dir, host));
        let text = format!(
            r#"name = "{name}"
state_dir = "{}"
memory_dir = "{}"
twin_dir = "{}"
{kept}

[api]
listen = ["{endpoint}"]

[data]
listen = "{address}:{PORT}"
{security}

[qemu]
binary = "qemu-system-x86_64"
"#,
            under("state"),
            under("memory"),
            under("twin"),
        );
        fs::write(configuration(dir, host), text)?;
    }
    Ok(())
}

fn start(dir: &Path, host: usize) -> anyhow::Result<Process> {
    let name = HOSTS[host];
    let program = built("tidegate-hostd")?;
    let mut command = within(name, &program.display().to_string());
    command.arg("--config").arg(configuration(dir, host));
    let mut process = Process::start(name, &mut command, dir)?;
    process.wait_for("host started", READY)?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_interface() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes packets\n    lo:     120       2    0    0    0     0          0         0      130       2    0    0    0     0       0          0\n  to-b: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        let found = interfaces(text).expect("read");
        let lo = Carried { rx_bytes: 120, tx_bytes: 130 };
        assert_eq!(found[0], ("lo".to_owned(), lo));
        assert_eq!(found[1].1, Carried { rx_bytes: 7, tx_bytes: 9 });
    }
}
