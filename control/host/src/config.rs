//! `hostd.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_config::ConfigError;

/// What a host is configured with.
///
/// ```toml
/// name = "h1"
/// state_dir = "/var/lib/tidegate/host"    # records of guests and migrations, sockets
/// memory_dir = "/dev/shm/tidegate"        # guests' RAM and regions
/// twin_dir = "/dev/shm/tidegate-twin"     # copies of them as of T0
///
/// [api]
/// listen = ["unix:/run/tidegate/hostd.sock"]
///
/// [data]
/// listen = "127.0.0.1:0"
/// advertise = "127.0.0.1:7432"            # what other hosts connect to, when it is not `listen`
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
        Self { listen: default_data_listen(), advertise: None }
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
            "hostd.toml:6:1: unknown key `lissten`; allowed here: `listen`, `advertise`"
        );
        let good = text.replace("lissten = ''", "listen = '127.0.0.1:9'");
        let config = tidegate_config::parse::<HostConfig>(Path::new("hostd.toml"), &good);
        assert_eq!(config.expect("good").qemu.binary, "qemu-system-x86_64");
    }
}
