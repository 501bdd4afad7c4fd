//! The switch box: its configuration and its process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    clients,
    family::Family,
    lab::Lab,
    process::{self, Process, built},
    rig::{Mode, Options, SOURCE},
};

/// The box's uplink, which is moved to the clients.
pub const UPLINK: &str = "tg-uplink";
/// MAC address of the uplink.
pub const UPLINK_MAC: &str = "02:00:00:00:01:01";
/// The managed address.
pub const MANAGED: &str = "10.9.0.100";
/// The box's own address.
pub const BOX_ADDRESS: &str = "10.9.0.1";
/// The clients' address.
pub const CLIENT_ADDRESS: &str = "10.9.0.2";
/// The clients' MAC address.
pub const CLIENT_MAC: &str = "02:00:00:00:09:02";
/// Where guests find their gateway, whatever port they are on.
pub const GATEWAY: &str = "169.254.1.1";
const GATEWAY_MAC: &str = "02:00:00:00:02:01";
/// The processors of a box with one worker.
pub const ONE_WORKER: &[u32] = &[0];
const READY: Duration = Duration::from_secs(20);

/// A running `tidegated` with an uplink and two access ports.
pub struct SwitchBox {
    family: Family,
    /// The process.
    pub process: Process,
    /// Where its API is.
    pub endpoint: String,
}

impl SwitchBox {
    /// Write the configuration, start the box, and give its uplink to the clients.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(lab: &Lab, options: &Options) -> anyhow::Result<Self> {
        let file = config_file(lab.dir());
        fs::write(&file, config_with(lab.dir(), options))
            .with_context(|| format!("write {}", file.display()))?;
        let family = options.family;
        Ok(Self { family, process: run(lab, family)?, endpoint: endpoint(lab.dir()) })
    }

    /// Start the box again, with the same configuration, after it has ended.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.process = run(lab, self.family)?;
        Ok(())
    }

    /// End the box as an operator would, and check that it leaves nothing behind.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(Duration::from_secs(10))?;
        anyhow::ensure!(status.success(), "tidegated: {status}\n{}", self.process.printed());
        let socket = self.endpoint.trim_start_matches("unix:");
        anyhow::ensure!(!Path::new(socket).exists(), "{socket} is left behind");
        // The uplink goes with the box.
        let mut show = Command::new("ip");
        let left = process::output(show.args(["-n", "clients", "link", "show", UPLINK]))?;
        anyhow::ensure!(!left.status.success(), "{UPLINK} is left behind");
        Ok(())
    }
}

/// Start the box, and give its uplink to the clients.
fn run(lab: &Lab, family: Family) -> anyhow::Result<Process> {
    let mut command = Command::new(built("tidegated")?);
    command.arg("--config").arg(config_file(lab.dir()));
    let mut process = Process::start("tidegated", &mut command, lab.dir())?;
    process.wait_for("ready", READY)?;
    clients::configure(lab, UPLINK, family)?;
    Ok(process)
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("tidegated.toml")
}

/// Run `tidegated` with `text` as its configuration, which it is expected to refuse, and say what it printed.
///
/// # Errors
/// When it cannot be started, or does not end with a failure.
pub fn refusal(lab: &Lab, text: &str) -> anyhow::Result<String> {
    let file = lab.dir().join("refused.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(built("tidegated")?);
    command.arg("--config").arg(&file).stdin(Stdio::null());
    let mut process = Process::start("refused", &mut command, lab.dir())?;
    let status = process.wait(READY)?;
    anyhow::ensure!(!status.success(), "accepted:\n{text}\n{}", process.printed());
    Ok(process.printed())
}

/// Where a guest's network card meets port `vm<index>`.
#[must_use]
pub fn vhost_socket(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("vm{index}.sock"))
}

fn endpoint(dir: &Path) -> String {
    format!("unix:{}", dir.join("tidegated.sock").display())
}

/// The configuration of the lab's box, as it usually is.
#[must_use]
pub fn config(dir: &Path, mode: Mode) -> String {
    config_with(dir, &Options::new(mode))
}

fn config_with(dir: &Path, options: &Options) -> String {
    let Options { mode, family, cpus, silence_s, .. } = options;
    let (endpoint, home) = (endpoint(dir), mode.home(*family));
    let (box_address, link_bits) = (family.box_address(), family.link_bits());
    let mut text = format!(
        r#"[eal]
hugepages = true
memory_mib = 512
args = ["--file-prefix=tidegate-lab"]

[workers]
cpus = {cpus:?}
idle = "sleep"
sessions = 65536

[api]
listen = ["{endpoint}"]

[[port]]
name = "uplink"
device = "net_tap0,iface={UPLINK}"
mac = "{UPLINK_MAC}"
addresses = ["{box_address}/{link_bits}"]
role = "uplink"
{}"#,
        family.twin("uplink")
    );
    for index in 0..2 {
        let socket = vhost_socket(dir, index);
        text += &format!(
            r#"
[[port]]
name = "vm{index}"
device = "net_vhost{index},iface={}"
mac = "{GATEWAY_MAC}"
addresses = ["{}/{}"]
role = "access"
{}"#,
            socket.display(),
            family.gateway(),
            family.bits(),
            family.twin(&format!("vm{index}")),
        );
    }
    text += &format!(
        r#"
[[neighbour]]
address = "{}"
mac = "{CLIENT_MAC}"
port = "uplink"

[[address]]
address = "{}"
home = {{ name = "{SOURCE}", port = "vm0", mac = "{}"{home} }}
"#,
        family.client_address(),
        family.managed(),
        mode.mac(0)
    );
    if let Some(seconds) = silence_s {
        text += &format!("\n[timeouts]\ntcp_established = {seconds}\n");
    }
    text
}
