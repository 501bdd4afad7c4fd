//! A guest's specification as the journal keeps it.

use serde::{Deserialize, Serialize};
use tidegate_api::host as proto;

use crate::spec::{DestinationKind, Mac, Spec};

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
    /// The destination's, from the source's: all the same but for its name, its network card and, when it
    /// boots, its command line.
    #[must_use]
    pub fn destination(source: &proto::GuestSpec, order: &Spec, mac: Mac) -> Self {
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
        }
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
        }
    }
}
