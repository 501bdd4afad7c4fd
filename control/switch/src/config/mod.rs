//! `tidegated.toml`: what the box is made of.
//!
//! [`load`] reads the file, checks everything that can be checked without touching the machine, and gives valid
//! types; each error says file, line, column, what is wrong and what to write instead.

mod carrier;
mod check;
mod encap;
mod file;
mod topology;

use std::{net::IpAddr, path::Path};

pub(crate) use carrier::MTU;
pub use tidegate_config::ConfigError;

use tidegate_api::endpoint::Endpoint;
use tidegate_dataplane::{
    packet::{Mac, Tags},
    pipeline::Capacity,
    steering::{IpPrefix, Link, Neighbour, NextHop, PortId, PortRole, Timeouts},
};

use crate::steering::{AddressSpec, is_link_local};

/// A valid configuration. Ports with a device of their own come first, and their position is their number; VLANs follow.
#[derive(Clone, Debug)]
pub struct Config {
    /// How DPDK is started.
    pub eal: Eal,
    /// The workers.
    pub workers: Workers,
    /// Where the gRPC interface listens.
    pub listen: Vec<Endpoint>,
    /// What routes are kept in.
    pub routes_in: RoutesIn,
    /// How long silent sessions are kept.
    pub timeouts: Timeouts,
    /// Ports.
    pub ports: Vec<PortConfig>,
    /// Neighbours whose MAC is known from the start.
    pub neighbours: Vec<(IpAddr, Neighbour)>,
    /// Static routes, without the connected ones.
    pub routes: Vec<(IpPrefix, NextHop)>,
    /// Managed addresses with their homes.
    pub addresses: Vec<AddressSpec>,
}

/// How DPDK's environment is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eal {
    /// Whether hugepages are used; without them, ordinary memory.
    pub hugepages: bool,
    /// Memory for DPDK.
    pub memory_mib: u32,
    /// Packet buffers; `None` for as many as the queues of `max_ports` need.
    pub mbufs: Option<u32>,
    /// The most ports there may be at one time, those of the file included.
    pub max_ports: u16,
    /// Further EAL arguments, as they are.
    pub args: Vec<String>,
}

/// What a worker does when its ports have nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep for a moment: cheap, a little later for the first packet.
    Sleep,
    /// Poll on: a CPU of its own.
    Poll,
}

/// What routes are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutesIn {
    /// DPDK's longest-prefix tables, for which EAL needs about 250 MiB.
    Lpm,
    /// Maps by prefix length: for few routes and little memory.
    Map,
}

/// The workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker on each of these CPUs; never empty, none twice.
    pub cpus: Vec<u32>,
    /// What they do without packets.
    pub idle: Idle,
    /// Sessions each of them has room for.
    pub sessions: Capacity,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its number; of a port that is only asked for, any.
    pub id: PortId,
    /// Its name in requests and references.
    pub name: String,
    /// What carries its frames.
    pub carrier: Carrier,
    /// The MAC it shall have; the device's own when `None`.
    pub mac: Option<Mac>,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Its own addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Its side.
    pub role: PortRole,
    /// The kernel's interface for it.
    pub twin: Option<String>,
}

/// What carries the frames of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A DPDK device: a virtual one with its arguments (`net_tap0,iface=tg0`) or a PCI address.
    Device(String),
    /// The device of another port, under VLAN tags.
    Vlan {
        /// The other port, which has a device.
        on: PortId,
        /// The tags.
        tags: Tags,
    },
}

impl PortConfig {
    /// Its device, if it has one of its own.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match &self.carrier {
            Carrier::Device(device) => Some(device),
            Carrier::Vlan { .. } => None,
        }
    }

    /// What carries the port's packets.
    #[must_use]
    pub fn link(&self) -> Link {
        let (device, tags) = match self.carrier {
            Carrier::Device(_) => (self.id, Tags::NONE),
            Carrier::Vlan { on, tags } => (on, tags),
        };
        Link::Device { device, tags, mtu: self.mtu }
    }
}

/// An address of the box with the length of its link's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
}

impl InterfaceAddress {
    /// The prefix of the link, by which routes lead there; `None` when the address is link-local, as every link has those.
    #[must_use]
    pub fn prefix(self) -> Option<IpPrefix> {
        let prefix = IpPrefix::new(self.address, self.prefix_len);
        prefix.filter(|_| !is_link_local(self.address))
    }
}

impl InterfaceAddress {
    /// Whether `other` is on a link where this is an own address.
    #[must_use]
    pub fn is_beside(self, other: IpAddr) -> bool {
        if is_link_local(other) {
            return self.address.is_ipv6();
        }
        self.prefix().is_some_and(|prefix| prefix.contains(other))
    }
}

impl std::fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Read and check the file at `path`.
///
/// # Errors
/// [`ConfigError`] with the place of the first thing that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Check `text`; `path` is only named in errors.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    check::Check::new(path, text).config(tidegate_config::parse(path, text)?)
}

#[cfg(test)]
mod tests;
