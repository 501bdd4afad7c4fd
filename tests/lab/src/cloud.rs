//! Manager and host in one process, and the operator's command line.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    apart::{self, Apart},
    data_proxy::DataProxy,
    family::Family,
    lab::Lab,
    process::{Process, built, output, target_dir},
    rig::Mode,
};

const READY: Duration = Duration::from_secs(20);
/// Name of the declared region.
pub const REGION: &str = "counters";
const REGION_BYTES: u64 = 1 << 20;
const MEMORY_MIB: u32 = 128;
/// Where the host takes memory; others are told of the proxy in front of it.
const DATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7432);

/// A running `tidegate-manager` with its embedded host.
pub struct Cloud {
    /// The process.
    pub process: Process,
    /// Where the manager's API is.
    pub manager: String,
    /// Where the host's API is.
    pub host: String,
    /// Where the switch's API is.
    pub switch: String,
    /// Counts what hosts send each other.
    pub data: DataProxy,
    /// The hosts, if they are apart; `host` is the source's then.
    pub apart: Option<Apart>,
    dir: PathBuf,
    twin_dir: PathBuf,
}

/// What differs between clouds.
#[derive(Clone, Debug, Default)]
pub struct CloudOptions {
    /// Where twins are kept, instead of a directory of the lab.
    pub twin_dir: Option<PathBuf>,
    /// More of `manager.toml`.
    pub inventory: String,
    /// Two hosts with namespaces of their own, instead of one in the manager.
    pub apart: Option<apart::Settings>,
}

impl Cloud {
    /// Write the configurations and start the manager.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(lab: &Lab, switch: &str, options: &CloudOptions) -> anyhow::Result<Self> {
        let dir = lab.dir().to_owned();
        let unix = |name: &str| format!("unix:{}", dir.join(name).display());
        let (manager, mut host) = (unix("manager.sock"), unix("host.sock"));
        let mut inventory = options.inventory.clone();
        let mut apart = None;
        if let Some(settings) = options.apart {
            apart = Some(Apart::start(lab, settings)?);
            host = apart::endpoint(&dir, 0);
            for (number, name) in apart::HOSTS.iter().enumerate() {
                let endpoint = apart::endpoint(&dir, number);
                inventory += &format!("\n[[host]]\nname = \"{name}\"\nendpoint = \"{endpoint}\"\n");
            }
        }
        let twin_dir = options.twin_dir.clone().unwrap_or_else(|| dir.join("twin"));
        for sub in [&twin_dir, &dir.join("memory"), &dir.join("host"), &dir.join("manager")] {
            fs::create_dir_all(sub).with_context(|| format!("create {}", sub.display()))?;
        }
        let data = DataProxy::start(DATA)?;
        let under = |name: &str| dir.join(name).display().to_string();
        let (manager_toml, hostd_toml) = (dir.join("manager.toml"), dir.join("hostd.toml"));
        let text = format!(
            r#"state_dir = "{}"

[api]
listen = ["{manager}"]

[[switch]]
name = "edge"
endpoint = "{switch}"
{}"#,
            under("manager"),
            inventory
        );
        fs::write(&manager_toml, text)?;
        let text = format!(
            r#"name = "h1"
state_dir = "{}"
memory_dir = "{}"
twin_dir = "{}"

[api]
listen = ["{host}"]

[data]
listen = "{DATA}"
advertise = "{}"

[qemu]
binary = "qemu-system-x86_64"
"#,
            under("host"),
            under("memory"),
            twin_dir.display(),
            data.address()
        );
        fs::write(&hostd_toml, text)?;
        let process = start_manager(&dir, apart.is_none())?;
        let switch = switch.to_owned();
        Ok(Self { process, manager, host, switch, data, apart, dir, twin_dir })
    }

    /// Start the manager again, after it has ended.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process = start_manager(&self.dir, self.apart.is_none())?;
        Ok(())
    }

    /// The operator's command line, with these arguments after the endpoints.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn tidegate<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Command> {
        self.tidegate_on(&self.host, arguments)
    }

    /// The same, for the host at `host`.
    ///
    /// # Errors
    /// As [`Self::tidegate`].
    pub fn tidegate_on<S: AsRef<OsStr>>(
        &self,
        host: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(built("tidegate")?);
        command.args(["--manager", &self.manager, "--switch", &self.switch, "--host", host]);
        command.args(arguments);
        Ok(command)
    }

    /// Where a guest that was started by [`Self::start_guest`] has a second monitor. Guests made from it have theirs
    /// there too: the first listener's connections stay, new ones go to the last.
    #[must_use]
    pub fn monitor_socket(&self, guest: &str) -> PathBuf {
        self.dir.join(format!("{guest}.qmp"))
    }

    /// The region's file as of T0, while the migration goes on.
    #[must_use]
    pub fn twin_region(&self, migration: &str) -> PathBuf {
        self.twin_dir.join(migration).join(format!("region-{REGION}"))
    }

    /// Start the source by `tidegate guest start`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn start_guest(&self, guest: &GuestFile<'_>) -> anyhow::Result<()> {
        let file = self.dir.join(format!("{}.toml", guest.name));
        fs::write(&file, guest.text(&self.monitor_socket(guest.name))?)?;
        let arguments = [OsStr::new("guest"), OsStr::new("start"), file.as_os_str()];
        succeed(&output(&mut self.tidegate(arguments)?)?)
    }
}

/// With the configurations in `dir`; `embedding` a host.
fn start_manager(dir: &Path, embedding: bool) -> anyhow::Result<Process> {
    let mut command = Command::new(built("tidegate-manager")?);
    command.arg("--config").arg(dir.join("manager.toml"));
    if embedding {
        command.arg("--embedded-host").arg(dir.join("hostd.toml"));
    }
    let mut process = Process::start("manager", &mut command, dir)?;
    process.wait_for("serving on unix:", READY)?;
    Ok(process)
}

/// What the source is started with.
pub struct GuestFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address and how it is reached.
    pub mode: Mode,
    /// What its address is.
    pub family: Family,
    /// Whether its RAM is in a file, without which it cannot be cloned.
    pub memory_shared: bool,
    /// More of its kernel command line.
    pub cmdline: &'a str,
    /// Where its network card meets the box; none: it has no card.
    pub vhost_socket: Option<&'a Path>,
}

impl GuestFile<'_> {
    fn text(&self, monitor: &Path) -> anyhow::Result<String> {
        let image = target_dir()?.join("guest");
        let (kernel, initrd) = (image.join("vmlinuz"), image.join("initramfs.cpio.gz"));
        anyhow::ensure!(
            kernel.exists() && initrd.exists(),
            "no guest image in {}: run `make guest`",
            image.display()
        );
        let mut text = format!(
            r#"name = "{}"
memory_mib = {MEMORY_MIB}
memory_shared = {}
cpus = 1
accel = "tcg"
guest_agent = true
kernel = "{}"
initrd = "{}"
cmdline = "{}"
extra_args = ["-qmp", "unix:{},server=on,wait=off"]

[[regions]]
name = "{REGION}"
size_bytes = {REGION_BYTES}
"#,
            self.name,
            self.memory_shared,
            kernel.display(),
            initrd.display(),
            self.mode.cmdline(self.family, 0) + self.cmdline,
            monitor.display(),
        );
        if let Some(socket) = self.vhost_socket {
            let (socket, mac) = (socket.display(), self.mode.mac(0));
            text += &format!("\n[[nics]]\nvhost_socket = \"{socket}\"\nmac = \"{mac}\"\n");
        }
        Ok(text)
    }
}

/// Fail with what was printed unless the command succeeded.
///
/// # Errors
/// When it did not.
pub fn succeed(output: &Output) -> anyhow::Result<()> {
    anyhow::ensure!(output.status.success(), "{}: {}", output.status, complaint(output));
    Ok(())
}

/// Everything a command printed.
#[must_use]
pub fn complaint(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(err), String::from_utf8_lossy(out))
}
