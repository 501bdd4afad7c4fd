//! `hostd.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_config::ConfigError;

use crate::data::Choice;

/// What a host is configured with.
///
/// ```toml
/// name = "h1"
/// state_dir = "/var/lib/tidegate/host"    # records of guests and migrations, sockets
/// memory_dir = "/dev/shm/tidegate"        # guests' RAM and regions
/// twin_dir = "/dev/shm/tidegate-twin"     # copies of them as of T0
/// twin_memory_bytes = 34359738368         # most that all RAM twins keep after their copies; left out: no limit
///
/// [api]
/// listen = ["unix:/run/tidegate/hostd.sock"]
///
/// [data]
/// listen = "127.0.0.1:0"
/// advertise = "127.0.0.1:7432"            # what other hosts connect to, when it is not `listen`
/// transport = "auto"                      # or "tcp", "fabric:verbs", "fabric:tcp", "fabric:shm"
/// streams = 4                             # TCP connections a copy's bytes take
/// bandwidth_mbps = 0                      # cap of what is sent, for each copy; 0: none
/// compression = "auto"                    # or "on", "off": LZ4 while it is measured to be faster
/// require_encryption = false              # refuse whatever would carry guest memory in the clear
///
/// [data.tls]                              # for sending and receiving; all hosts' certificates are from one authority
/// certificate = "/etc/tidegate/host.pem"  # for the name or address in `advertise`
/// key = "/etc/tidegate/host-key.pem"
/// ca = "/etc/tidegate/ca.pem"
///
/// [qemu]
/// binary = "qemu-system-x86_64"
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// The host's name in the manager's inventory.
    pub name: String,
    /// Records of guests and migrations, and QEMU's sockets: its path must be short (a socket's path
    /// has at most 107 bytes).
    pub state_dir: PathBuf,
    /// RAM and region files, best on a tmpfs.
    pub memory_dir: PathBuf,
    /// Twins.
    pub twin_dir: PathBuf,
    /// How much memory all full twins of RAM together may keep once their copies are confirmed; what does not fit keeps a hash for
    /// each page. None: no limit. Until it is copied, a twin has all bytes, unless RAM goes straight to the destination's host while it
    /// is captured.
    #[serde(default)]
    pub twin_memory_bytes: Option<u64>,
    /// Where the gRPC service listens.
    #[serde(default)]
    pub api: ApiConfig,
    /// Where other hosts send memory.
    #[serde(default)]
    pub data: DataConfig,
    /// The hypervisor.
    #[serde(default)]
    pub qemu: QemuConfig,
}

/// `[api]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// `unix:/path` or `host:port`; none when the service is only used in-process.
    #[serde(default)]
    pub listen: Vec<String>,
}

/// `[data]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// `host:port`; port 0 lets the system choose.
    #[serde(default = "default_data_listen")]
    pub listen: String,
    /// What other hosts connect to; without it, what `listen` became.
    #[serde(default)]
    pub advertise: Option<String>,
    /// `auto`, `tcp` or `fabric:PROVIDER`.
    #[serde(default)]
    pub transport: Choice,
    /// TCP connections a copy's bytes take.
    #[serde(default = "default_streams")]
    pub streams: u8,
    /// Cap of what is sent in Mbit/s, for each copy; 0: none.
    #[serde(default)]
    pub bandwidth_mbps: u64,
    /// Whether bytes are compressed on the way.
    #[serde(default)]
    pub compression: Compressing,
    /// Who hosts prove to each other that they are. Without it, memory goes in the clear: on this machine, or
    /// where `plain` says so.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Send and take memory in the clear, also from and to other machines.
    #[serde(default)]
    pub plain: bool,
    /// Never send or take memory in the clear.
    #[serde(default)]
    pub require_encryption: bool,
}

/// `[data.tls]`: PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// This host's certificate and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority's certificates.
    pub ca: PathBuf,
}

/// `[data] compression`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compressing {
    /// Never.
    Off,
    /// While it is measured to be faster.
    #[default]
    Auto,
    /// Always.
    On,
}

/// `[qemu]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuConfig {
    /// Name or path of the program.
    #[serde(default = "default_binary")]
    pub binary: String,
}

impl HostConfig {
    /// Read `hostd.toml`.
    ///
    /// # Errors
    /// [`ConfigError`] with the place in the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        tidegate_config::load(path)
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            listen: default_data_listen(),
            advertise: None,
            transport: Choice::default(),
            streams: default_streams(),
            bandwidth_mbps: 0,
            compression: Compressing::default(),
            tls: None,
            plain: false,
            require_encryption: false,
        }
    }
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self { binary: default_binary() }
    }
}

fn default_data_listen() -> String {
    "127.0.0.1:0".to_owned()
}

fn default_streams() -> u8 {
    4
}

fn default_binary() -> String {
    "qemu-system-x86_64".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let text = "name = 'h'\nstate_dir = '/s'\nmemory_dir = '/m'\ntwin_dir = '/t'\n[data]\nlissten = ''\n";
        let error = tidegate_config::parse::<HostConfig>(Path::new("hostd.toml"), text)
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "hostd.toml:6:1: unknown key `lissten`; allowed here: `listen`, `advertise`, \
             `transport`, `streams`, `bandwidth_mbps`, `compression`, `tls`, `plain`, \
             `require_encryption`"
        );
        let odd = text.replace("lissten = ''", "transport = 'pigeon'");
        let error = tidegate_config::parse::<HostConfig>(Path::new("hostd.toml"), &odd);
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("hostd.toml:6:13: `pigeon` is no transport"), "{error}");
        let good = text.replace("lissten = ''", "listen = '127.0.0.1:9'");
        let config = tidegate_config::parse::<HostConfig>(Path::new("hostd.toml"), &good);
        assert_eq!(config.expect("good").qemu.binary, "qemu-system-x86_64");
    }
}
