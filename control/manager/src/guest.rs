//! A guest's specification as the journal keeps it.

use serde::{Deserialize, Serialize};
use tidegate_api::host as proto;

use crate::spec::{DestinationKind, FinishMode, Mac, NewSessions, Spec};

/// What a guest is started with; the fields of `GuestSpec` in host.proto.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    name: String,
    memory_mib: u32,
    memory_shared: bool,
    cpus: u32,
    accel: String,
    kernel: String,
    initrd: String,
    cmdline: String,
    nics: Vec<Nic>,
    regions: Vec<Region>,
    extra_args: Vec<String>,
    #[serde(default)]
    guest_agent: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    disks: Vec<Disk>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    generation_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    identity: String,
}

/// A disk; the fields of `Disk` in host.proto.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    path: String,
    format: String,
    read_only: bool,
    shared_safe: bool,
    overlay: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Nic {
    vhost_socket: String,
    mac: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Region {
    name: String,
    size_bytes: u64,
}

impl GuestSpec {
    /// The destination's, from the source's: all the same but for its name, its network card, what a clone has as disks
    /// and, when it boots, its command line. One that is never anything but the source has its generation.
    #[must_use]
    pub fn destination(capture: &proto::CheckCaptureResponse, order: &Spec, mac: Mac) -> Self {
        let source = capture.spec.clone().unwrap_or_default();
        let disks = match order.kind {
            DestinationKind::Clone => &capture.clone_disks,
            DestinationKind::Boot => &source.disks,
        };
        let (generation_id, identity) = match order.finish {
            FinishMode::Mirror(NewSessions::Hold) => {
                (capture.generation_id.clone(), identity(&source))
            }
            _ => <(String, String)>::default(),
        };
        let cmdline = match (&order.cmdline, order.kind) {
            (Some(cmdline), DestinationKind::Boot) => cmdline.clone(),
            _ => source.cmdline.clone(),
        };
        Self {
            name: order.destination_guest.clone(),
            memory_mib: source.memory_mib,
            memory_shared: true,
            cpus: source.cpus,
            accel: source.accel.clone(),
            kernel: source.kernel.clone(),
            initrd: source.initrd.clone(),
            cmdline,
            nics: vec![Nic {
                vhost_socket: order.vhost_socket.display().to_string(),
                mac: mac.to_string(),
            }],
            regions: source
                .regions
                .iter()
                .map(|region| Region { name: region.name.clone(), size_bytes: region.size_bytes })
                .collect(),
            extra_args: source.extra_args.clone(),
            guest_agent: source.guest_agent,
            disks: disks.iter().map(Disk::from_proto).collect(),
            generation_id,
            identity,
        }
    }

    /// Whether it can write to a disk that the source writes to.
    #[must_use]
    pub fn writes_shared_disks(&self) -> bool {
        self.disks.iter().any(|disk| !disk.read_only)
    }

    /// Bytes of RAM and regions.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let regions: u64 = self.regions.iter().map(|region| region.size_bytes).sum();
        (u64::from(self.memory_mib) << 20).saturating_add(regions)
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(&self) -> proto::GuestSpec {
        let nic =
            |nic: &Nic| proto::Nic { vhost_socket: nic.vhost_socket.clone(), mac: nic.mac.clone() };
        let region = |region: &Region| proto::Region {
            name: region.name.clone(),
            size_bytes: region.size_bytes,
        };
        proto::GuestSpec {
            name: self.name.clone(),
            memory_mib: self.memory_mib,
            memory_shared: self.memory_shared,
            cpus: self.cpus,
            accel: self.accel.clone(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            nics: self.nics.iter().map(nic).collect(),
            regions: self.regions.iter().map(region).collect(),
            extra_args: self.extra_args.clone(),
            guest_agent: self.guest_agent,
            disks: self.disks.iter().map(Disk::to_proto).collect(),
            generation_id: self.generation_id.clone(),
            identity: self.identity.clone(),
        }
    }
}

/// What a guest reads as its own name.
#[must_use]
pub fn identity(spec: &proto::GuestSpec) -> String {
    if spec.identity.is_empty() { spec.name.clone() } else { spec.identity.clone() }
}

impl Disk {
    /// From the API's form.
    #[must_use]
    pub fn from_proto(disk: &proto::Disk) -> Self {
        let proto::Disk { path, format, read_only, shared_safe, overlay } = disk.clone();
        Self { path, format, read_only, shared_safe, overlay }
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(&self) -> proto::Disk {
        let Self { path, format, read_only, shared_safe, overlay } = self.clone();
        proto::Disk { path, format, read_only, shared_safe, overlay }
    }
}
