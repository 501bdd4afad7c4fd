//! Guests, and the file that describes one.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_api::host::{self as proto, GuestState, SocketState};

use super::Invalid;
use crate::error::Error;

/// What a guest is started with: SPEC.toml, and part of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields of GuestSpec in host.proto
pub struct GuestSpec {
    pub name: String,
    pub memory_mib: u32,
    /// A guest without it cannot be migrated.
    #[serde(default = "yes")]
    pub memory_shared: bool,
    #[serde(default = "one")]
    pub cpus: u32,
    #[serde(default)]
    pub accel: String,
    #[serde(default)]
    pub kernel: String,
    #[serde(default)]
    pub initrd: String,
    #[serde(default)]
    pub cmdline: String,
    #[serde(default)]
    pub nics: Vec<Nic>,
    #[serde(default)]
    pub regions: Vec<Region>,
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// A guest without it cannot be asked for its sessions.
    #[serde(default)]
    pub guest_agent: bool,
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// A UUID; left out: a new one.
    #[serde(default)]
    pub generation_id: String,
    /// What it reads as its own name; left out: `name`.
    #[serde(default)]
    pub identity: String,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields of Disk in host.proto
pub struct Disk {
    pub path: String,
    #[serde(default)]
    pub format: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub shared_safe: bool,
    #[serde(default)]
    pub overlay: bool,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields of Nic in host.proto
pub struct Nic {
    pub vhost_socket: String,
    pub mac: String,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields of Region in host.proto
pub struct Region {
    pub name: String,
    pub size_bytes: u64,
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

impl GuestSpec {
    /// Read SPEC.toml.
    ///
    /// # Errors
    /// [`Error::Config`] with line and column.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Ok(tidegate_config::load(path)?)
    }

    /// The API's form of it.
    #[must_use]
    pub fn into_proto(self) -> proto::GuestSpec {
        let nic = |nic: Nic| proto::Nic { vhost_socket: nic.vhost_socket, mac: nic.mac };
        let region =
            |region: Region| proto::Region { name: region.name, size_bytes: region.size_bytes };
        let disk = |disk: Disk| {
            let Disk { path, format, read_only, shared_safe, overlay } = disk;
            proto::Disk { path, format, read_only, shared_safe, overlay }
        };
        proto::GuestSpec {
            name: self.name,
            memory_mib: self.memory_mib,
            memory_shared: self.memory_shared,
            cpus: self.cpus,
            accel: self.accel,
            kernel: self.kernel,
            initrd: self.initrd,
            cmdline: self.cmdline,
            nics: self.nics.into_iter().map(nic).collect(),
            regions: self.regions.into_iter().map(region).collect(),
            extra_args: self.extra_args,
            guest_agent: self.guest_agent,
            disks: self.disks.into_iter().map(disk).collect(),
            generation_id: self.generation_id,
            identity: self.identity,
        }
    }

    fn from_proto(spec: proto::GuestSpec) -> Self {
        let nic = |nic: proto::Nic| Nic { vhost_socket: nic.vhost_socket, mac: nic.mac };
        let region =
            |region: proto::Region| Region { name: region.name, size_bytes: region.size_bytes };
        let disk = |disk: proto::Disk| {
            let proto::Disk { path, format, read_only, shared_safe, overlay } = disk;
            Disk { path, format, read_only, shared_safe, overlay }
        };
        Self {
            name: spec.name,
            memory_mib: spec.memory_mib,
            memory_shared: spec.memory_shared,
            cpus: spec.cpus,
            accel: spec.accel,
            kernel: spec.kernel,
            initrd: spec.initrd,
            cmdline: spec.cmdline,
            nics: spec.nics.into_iter().map(nic).collect(),
            regions: spec.regions.into_iter().map(region).collect(),
            extra_args: spec.extra_args,
            guest_agent: spec.guest_agent,
            disks: spec.disks.into_iter().map(disk).collect(),
            generation_id: spec.generation_id,
            identity: spec.identity,
        }
    }
}

/// A guest on a host.
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// running, paused, exited.
    pub state: &'static str,
    /// Its process.
    pub pid: u32,
    /// Where QEMU answers.
    pub qmp_socket: String,
    /// RAM file; empty when memory is not shared.
    pub ram_path: String,
    /// What it printed.
    pub console_path: String,
    /// Its regions' files.
    pub region_files: Vec<RegionFile>,
    /// What it was started with.
    pub spec: GuestSpec,
}

/// A region's file on the host.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of RegionFile in host.proto
pub struct RegionFile {
    pub name: String,
    pub path: String,
    pub size_bytes: u64,
}

/// A guest's end of a session.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the fields of Socket in host.proto
pub struct Socket {
    pub protocol: u32,
    pub local_address: String,
    pub local_port: u32,
    pub remote_address: String,
    pub remote_port: u32,
    pub state: &'static str,
}

impl TryFrom<proto::Socket> for Socket {
    type Error = Invalid;

    fn try_from(socket: proto::Socket) -> Result<Self, Invalid> {
        let state = match socket.state() {
            SocketState::Opening => "opening",
            SocketState::Established => "established",
            SocketState::ClosedLocally => "closed-locally",
            SocketState::ClosedRemotely => "closed-remotely",
            SocketState::Closing => "closing",
            SocketState::Unspecified => {
                return Err(Invalid::Unknown { field: "state", value: socket.state });
            }
        };
        Ok(Self {
            protocol: socket.protocol,
            local_address: socket.local_address,
            local_port: socket.local_port,
            remote_address: socket.remote_address,
            remote_port: socket.remote_port,
            state,
        })
    }
}

impl TryFrom<proto::Guest> for Guest {
    type Error = Invalid;

    fn try_from(guest: proto::Guest) -> Result<Self, Invalid> {
        let state = match guest.state() {
            GuestState::Running => "running",
            GuestState::Paused => "paused",
            GuestState::Exited => "exited",
            GuestState::Unspecified => {
                return Err(Invalid::Unknown { field: "state", value: guest.state });
            }
        };
        let spec = guest.spec.ok_or(Invalid::Missing { message: "Guest", field: "spec" })?;
        let file = |file: proto::RegionFile| RegionFile {
            name: file.name,
            path: file.path,
            size_bytes: file.size_bytes,
        };
        Ok(Self {
            name: spec.name.clone(),
            state,
            pid: guest.pid,
            qmp_socket: guest.qmp_socket,
            ram_path: guest.ram_path,
            console_path: guest.console_path,
            region_files: guest.regions.into_iter().map(file).collect(),
            spec: GuestSpec::from_proto(spec),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_toml_has_the_fields_of_the_protocol() {
        let text = r#"
name = "vm-a"
memory_mib = 128
kernel = "/boot/vmlinuz"
initrd = "/srv/initrd"
cmdline = "console=ttyS0"
guest_agent = true

[[nics]]
vhost_socket = "/run/vm0.sock"
mac = "02:00:00:00:00:01"

[[regions]]
name = "counts"
size_bytes = 1048576

[[disks]]
path = "/srv/a.raw"
overlay = true
"#;
        let spec: GuestSpec = tidegate_config::parse(Path::new("a.toml"), text).expect("good");
        assert!(spec.memory_shared && spec.cpus == 1 && spec.guest_agent);
        assert_eq!(GuestSpec::from_proto(spec.clone().into_proto()), spec);

        assert!(spec.disks[0].overlay && !spec.disks[0].read_only);

        let wrong = text.replace("size_bytes", "size");
        let error = tidegate_config::parse::<GuestSpec>(Path::new("a.toml"), &wrong);
        let message = error.expect_err("unknown key").to_string();
        assert!(message.starts_with("a.toml:15:1: unknown key `size`"), "{message}");
        assert!(message.contains("`name`, `size_bytes`"), "{message}");
    }
}
