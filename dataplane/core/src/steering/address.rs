//! Managed addresses, backends and ports as the control core describes them.

use std::net::IpAddr;

use crate::packet::{Mac, Tags, tunnel::Encap};

/// A port of the box; index into the snapshot's ports.
///
/// A device is known by the port that its untagged frames belong to. Further ports may share it under VLAN tags, and
/// others are the ends of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// Not a port of any snapshot: what leaves the box by it comes in again by it. It is there for what one VM of the box
    /// sends to another.
    pub const HAIRPIN: Self = Self(u16::MAX);
}

/// Which side of the box a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRole {
    /// Towards clients: hosted addresses are answered for and announced here.
    Uplink,
    /// Towards guests.
    Access,
    /// The kernel's end of this device: what comes from there leaves by the device as it is.
    Twin(PortId),
}

/// A port as packets see it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its own MAC.
    pub mac: Mac,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its side.
    pub role: PortRole,
    /// What carries its packets.
    pub link: Link,
    /// The device behind which the kernel stands for this port's device, if any.
    pub twin: Option<PortId>,
}

impl Port {
    /// The device that carries its frames; `None` at the end of a tunnel, whose packets leave by whichever device its route
    /// says.
    #[must_use]
    pub fn device(&self) -> Option<PortId> {
        match self.link {
            Link::Device { device, .. } => Some(device),
            Link::Tunnel(_) => None,
        }
    }

    /// The VLANs its frames are tagged with.
    #[must_use]
    pub fn tags(&self) -> Tags {
        match self.link {
            Link::Device { tags, .. } => tags,
            Link::Tunnel(_) => Tags::NONE,
        }
    }
}

/// Bytes of the largest IP packet on an Ethernet that nobody has set to more.
pub const ETHERNET_MTU: u16 = 1500;

/// What carries a port's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A device.
    Device {
        /// Which.
        device: PortId,
        /// The VLANs of the port's frames there.
        tags: Tags,
        /// Bytes of the largest IP packet.
        mtu: u16,
    },
    /// A tunnel.
    Tunnel(Tunnel),
}

impl Link {
    /// The untagged frames of a device with the usual MTU.
    #[must_use]
    pub fn untagged(device: PortId) -> Self {
        Self::Device { device, tags: Tags::NONE, mtu: ETHERNET_MTU }
    }
}

/// A tunnel between an address of the box and another machine, which takes packets out of it and puts packets into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// What packets are wrapped in.
    pub encap: Encap,
    /// The box's own address.
    pub local: IpAddr,
    /// The other machine's, of the same family.
    pub remote: IpAddr,
}

/// Number of a backend, unique among all addresses for as long as any session may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSlot(pub u32);

/// How packets are rewritten on their way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Destination address becomes the locator, of the managed address's family, and back.
    Nat(IpAddr),
    /// MAC addresses only.
    L2,
}

/// Where a managed address's packets can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its number.
    pub slot: BackendSlot,
    /// Port it is behind.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// How packets reach it.
    pub rewrite: Rewrite,
}

/// What happens after cutover to a packet that is not its connection's first and belongs to no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unknown {
    /// Adopted as an old session of the source.
    #[default]
    Source,
    /// Taken as a session of the destination.
    Destination,
    /// Dropped.
    Drop,
}

/// What holds from cutover on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cutover {
    /// What happens to unknown TCP: a segment without SYN.
    pub unknown_tcp: Unknown,
    /// What happens to unknown QUIC: a packet with a short header, whose connection ID nobody knows.
    pub unknown_quic: Unknown,
    /// When the source's sessions that are not TCP end although packets keep coming: milliseconds on the workers' clock.
    pub datagrams_end_ms: Option<u64>,
}

impl Cutover {
    /// Whether the source's sessions that are not TCP have had their time.
    #[must_use]
    pub fn datagrams_ended(&self, now_ms: u64) -> bool {
        self.datagrams_end_ms.is_some_and(|end_ms| now_ms > end_ms)
    }
}

/// The destination of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it is.
    pub backend: Backend,
    /// `None` until cutover.
    pub cut_over: Option<Cutover>,
}

/// The most ports of an address that speak QUIC.
pub const QUIC_PORTS: usize = 4;

/// Where a managed address speaks QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quic {
    /// UDP ports; 0 is none.
    pub ports: [u16; QUIC_PORTS],
    /// Bytes of the connection IDs that its server chooses, 1 to 20: packets with a short header do not tell.
    pub connection_id_len: u8,
}

impl Quic {
    /// Whether this UDP port speaks it.
    #[must_use]
    pub fn is_spoken_at(&self, port: u16) -> bool {
        port != 0 && self.ports.contains(&port)
    }
}

/// A managed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagedAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether the box answers for it.
    pub hosted: bool,
    /// Whether sessions are recorded; otherwise packets only go to `home` and back.
    pub tracked: bool,
    /// Current steering generation; new sessions are born in it.
    pub epoch: u32,
    /// Where it lives; the source, during a migration.
    pub home: Backend,
    /// Set during a migration.
    pub destination: Option<Destination>,
    /// Where it speaks QUIC, if it does.
    pub quic: Option<Quic>,
}

impl ManagedAddress {
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        std::iter::once(&self.home)
            .chain(self.destination.as_ref().map(|destination| &destination.backend))
    }
}

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Port it is behind.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
}
