//! What a guest is made of: requests turned into valid values, and back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_api::host as api;
use tidegate_memory::copy::MAX_ID_BYTES;

use crate::HostError;

/// Longest name of a guest or region: it becomes a file's name, and part of a socket's path.
pub(crate) const MAX_NAME_BYTES: usize = 63;
const MAX_MEMORY_MIB: u32 = 16 << 20;
const MIN_REGION_BYTES: u64 = 4096;

/// A guest, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestSpec {
    pub(crate) name: String,
    pub(crate) memory_mib: u32,
    pub(crate) memory_shared: bool,
    pub(crate) cpus: u32,
    pub(crate) accel: Accel,
    pub(crate) kernel: String,
    pub(crate) initrd: String,
    pub(crate) cmdline: String,
    pub(crate) nics: Vec<Nic>,
    pub(crate) regions: Vec<Region>,
    pub(crate) extra_args: Vec<String>,
    /// Records of earlier versions have none.
    #[serde(default)]
    pub(crate) guest_agent: bool,
    #[serde(default)]
    pub(crate) disks: Vec<Disk>,
    /// What the guest sees as its generation; empty: a new one.
    #[serde(default)]
    pub(crate) generation_id: String,
    /// What the guest reads as its name; empty: its name.
    #[serde(default)]
    pub(crate) identity: String,
}

/// A virtio disk; at most one of its three properties is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) read_only: bool,
    /// Made for several writers.
    pub(crate) shared_safe: bool,
    /// The guest writes into an overlay of its own; `path` is its base.
    pub(crate) overlay: bool,
}

/// How a disk's image is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Raw,
    Qcow2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accel {
    Tcg,
    Kvm,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nic {
    pub(crate) vhost_socket: String,
    pub(crate) mac: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

impl GuestSpec {
    pub(crate) fn ram_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// What the guest reads as its name.
    pub(crate) fn identity(&self) -> &str {
        if self.identity.is_empty() { &self.name } else { &self.identity }
    }

    pub(crate) fn region_bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.size_bytes).sum()
    }
}

/// A name that can be part of a path and of a QEMU option.
pub(crate) fn checked_name(field: &'static str, name: &str) -> Result<String, HostError> {
    checked(field, name, MAX_NAME_BYTES)
}

/// A migration's id, used as a directory's name.
pub(crate) fn checked_migration(id: &str) -> Result<String, HostError> {
    checked("migration_id", id, MAX_ID_BYTES)
}

fn checked(field: &'static str, text: &str, longest: usize) -> Result<String, HostError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !text.is_empty() && text.len() <= longest && !text.starts_with(['.', '-']);
    if fits && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(HostError::Invalid {
        field,
        reason: format!(
            "`{}` is not allowed; use 1 to {longest} letters, digits, `-`, `_` or `.`, starting \
             with a letter or digit",
            text.escape_debug()
        ),
    })
}

impl TryFrom<Option<api::GuestSpec>> for GuestSpec {
    type Error = HostError;

    fn try_from(spec: Option<api::GuestSpec>) -> Result<Self, HostError> {
        let invalid = |field, reason: String| HostError::Invalid { field, reason };
        let spec = spec.ok_or_else(|| invalid("spec", "is missing".to_owned()))?;
        if spec.memory_mib == 0 || spec.memory_mib > MAX_MEMORY_MIB {
            let reason = format!("{} is not in 1 to {MAX_MEMORY_MIB}", spec.memory_mib);
            return Err(invalid("spec.memory_mib", reason));
        }
        let accel = match spec.accel.as_str() {
            "" | "tcg" => Accel::Tcg,
            "kvm" => Accel::Kvm,
            other => {
                let reason = format!("`{other}` is unknown; `tcg` and `kvm` are allowed");
                return Err(invalid("spec.accel", reason));
            }
        };
        let mut regions: Vec<Region> = Vec::new();
        for region in spec.regions {
            let name = checked_name("spec.regions.name", &region.name)?;
            let size_bytes = region.size_bytes;
            if !size_bytes.is_power_of_two() || size_bytes < MIN_REGION_BYTES {
                let reason = format!(
                    "{size_bytes} bytes for region `{name}`; a power of two from \
                     {MIN_REGION_BYTES} on is allowed"
                );
                return Err(invalid("spec.regions.size_bytes", reason));
            }
            if regions.iter().any(|known| known.name == name) {
                return Err(invalid("spec.regions.name", format!("`{name}` appears twice")));
            }
            regions.push(Region { name, size_bytes });
        }
        let nics = spec.nics.into_iter().map(nic).collect::<Result<_, _>>()?;
        Ok(Self {
            name: checked_name("spec.name", &spec.name)?,
            memory_mib: spec.memory_mib,
            memory_shared: spec.memory_shared,
            cpus: spec.cpus.max(1),
            accel,
            kernel: spec.kernel,
            initrd: spec.initrd,
            cmdline: spec.cmdline,
            nics,
            regions,
            extra_args: spec.extra_args,
            guest_agent: spec.guest_agent,
            disks: spec.disks.into_iter().map(disk).collect::<Result<_, _>>()?,
            generation_id: generation_id(spec.generation_id)?,
            identity: match spec.identity.as_str() {
                "" => String::new(),
                identity => checked_name("spec.identity", identity)?,
            },
        })
    }
}

pub(crate) fn disk(disk: api::Disk) -> Result<Disk, HostError> {
    let invalid = |field, reason: String| Err(HostError::Invalid { field, reason });
    if !disk.path.starts_with('/') {
        return invalid("spec.disks.path", format!("`{}` is not an absolute path", disk.path));
    }
    let format = match disk.format.as_str() {
        "" | "raw" => Format::Raw,
        "qcow2" => Format::Qcow2,
        other => {
            let reason = format!("`{other}` is unknown; `raw` and `qcow2` are allowed");
            return invalid("spec.disks.format", reason);
        }
    };
    let api::Disk { path, read_only, shared_safe, overlay, .. } = disk;
    if [read_only, shared_safe, overlay].into_iter().filter(|it| *it).count() > 1 {
        let reason = format!("{path} is one of read_only, shared_safe and overlay at most");
        return invalid("spec.disks", reason);
    }
    Ok(Disk { path: path.into(), format, read_only, shared_safe, overlay })
}

pub(crate) fn generation_id(text: String) -> Result<String, HostError> {
    let groups: Vec<_> = text.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_uuid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    if text.is_empty() || is_uuid && groups.iter().all(hex) {
        return Ok(text);
    }
    let reason = format!("`{}` is not a UUID", text.escape_debug());
    Err(HostError::Invalid { field: "spec.generation_id", reason })
}

impl Disk {
    pub(crate) fn to_proto(&self) -> api::Disk {
        api::Disk {
            path: self.path.display().to_string(),
            format: self.format.name().to_owned(),
            read_only: self.read_only,
            shared_safe: self.shared_safe,
            overlay: self.overlay,
        }
    }
}

impl Format {
    /// QEMU's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

fn nic(nic: api::Nic) -> Result<Nic, HostError> {
    let invalid = |field, reason: String| Err(HostError::Invalid { field, reason });
    if !nic.vhost_socket.starts_with('/') {
        let reason = format!("`{}` is not an absolute path", nic.vhost_socket);
        return invalid("spec.nics.vhost_socket", reason);
    }
    let octets: Vec<_> = nic.mac.split(':').collect();
    let hex = |octet: &&str| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok();
    if octets.len() != 6 || !octets.iter().all(hex) {
        return invalid("spec.nics.mac", format!("`{}` is not like 52:54:00:00:00:01", nic.mac));
    }
    Ok(Nic { vhost_socket: nic.vhost_socket, mac: nic.mac })
}

impl From<GuestSpec> for api::GuestSpec {
    fn from(spec: GuestSpec) -> Self {
        Self {
            name: spec.name,
            memory_mib: spec.memory_mib,
            memory_shared: spec.memory_shared,
            cpus: spec.cpus,
            accel: spec.accel.name().to_owned(),
            kernel: spec.kernel,
            initrd: spec.initrd,
            cmdline: spec.cmdline,
            nics: spec
                .nics
                .into_iter()
                .map(|nic| api::Nic { vhost_socket: nic.vhost_socket, mac: nic.mac })
                .collect(),
            regions: spec
                .regions
                .into_iter()
                .map(|region| api::Region { name: region.name, size_bytes: region.size_bytes })
                .collect(),
            extra_args: spec.extra_args,
            guest_agent: spec.guest_agent,
            disks: spec.disks.iter().map(Disk::to_proto).collect(),
            generation_id: spec.generation_id,
            identity: spec.identity,
        }
    }
}

impl Accel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> api::GuestSpec {
        api::GuestSpec {
            name: "web-1".into(),
            memory_mib: 64,
            memory_shared: true,
            nics: vec![api::Nic { vhost_socket: "/s".into(), mac: "52:54:00:00:00:01".into() }],
            regions: vec![api::Region { name: "counts".into(), size_bytes: 65536 }],
            ..Default::default()
        }
    }

    #[test]
    fn a_good_spec_survives_the_round_trip() {
        let asked = api::GuestSpec { guest_agent: true, ..good() };
        let spec = GuestSpec::try_from(Some(asked)).expect("valid");
        assert!(spec.cpus == 1 && spec.guest_agent);
        let back = GuestSpec::try_from(Some(spec.clone().into())).expect("valid");
        assert_eq!(back, spec);
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let spec = GuestSpec::try_from(Some(good())).expect("valid");
        let record = serde_json::to_string(&spec).expect("record");
        let later = r#","guest_agent":false,"disks":[],"generation_id":"","identity":"""#;
        let earlier = record.replace(later, "");
        assert_ne!(earlier, record);
        assert_eq!(serde_json::from_str::<GuestSpec>(&earlier).expect("read"), spec);
    }

    #[test]
    fn bad_fields_are_named() {
        let refused = |change: fn(&mut api::GuestSpec)| {
            let mut spec = good();
            change(&mut spec);
            GuestSpec::try_from(Some(spec)).expect_err("refused").to_string()
        };
        assert!(refused(|s| s.name = "../etc".into()).starts_with("spec.name: `../etc`"));
        assert!(refused(|s| s.name = "a".repeat(64)).starts_with("spec.name"));
        assert!(refused(|s| s.memory_mib = 0).starts_with("spec.memory_mib"));
        assert!(refused(|s| s.accel = "hax".into()).contains("`tcg` and `kvm`"));
        assert!(refused(|s| s.regions[0].size_bytes = 5000).contains("power of two"));
        assert!(refused(|s| s.regions[0].name = "a/b".into()).starts_with("spec.regions.name"));
        assert!(refused(|s| s.regions.push(s.regions[0].clone())).contains("twice"));
        assert!(refused(|s| s.nics[0].mac = "52:54:0:0:0:1".into()).starts_with("spec.nics.mac"));
        assert!(refused(|s| s.nics[0].vhost_socket = "s".into()).contains("absolute"));
        assert!(refused(|s| s.generation_id = "x".into()).starts_with("spec.generation_id"));
    }

    #[test]
    fn a_disk_is_one_thing_only() {
        let refused = |path: &str, change: fn(&mut api::Disk)| {
            let mut disk = api::Disk { path: path.into(), ..Default::default() };
            change(&mut disk);
            let spec = api::GuestSpec { disks: vec![disk], ..good() };
            GuestSpec::try_from(Some(spec)).expect_err("refused").to_string()
        };
        assert!(refused("a", |_| {}).starts_with("spec.disks.path: `a`"));
        assert!(refused("/a", |disk| disk.format = "vmdk".into()).contains("`raw` and `qcow2`"));
        let both = refused("/a", |disk| (disk.read_only, disk.overlay) = (true, true));
        assert!(both.contains("one of read_only, shared_safe and overlay"), "{both}");
    }
}
