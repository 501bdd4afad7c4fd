//! One managed address.

use std::{fmt, net::IpAddr, time::Instant};

use tidegate_dataplane::{
    packet::Mac,
    steering::{
        Backend, BackendSlot, Cutover, Destination, ManagedAddress, PortId, Quic, Rewrite, Tunnel,
    },
};

use super::neighbours::is_link_local;

/// What a port or backend may be called.
pub const NAME_RULE: &str = "use 1 to 64 letters, digits, `.`, `_` or `-`";

/// Whether `text` follows [`NAME_RULE`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether one machine can have `address`, beyond its own link.
#[must_use]
pub fn is_unicast(address: IpAddr) -> bool {
    is_unicast_on_link(address) && !is_link_local(address)
}

/// Whether one machine can have `address` on a link.
#[must_use]
pub fn is_unicast_on_link(address: IpAddr) -> bool {
    let is_other = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !(is_other || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// A backend as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its name, unique within the address.
    pub name: String,
    /// Port it is behind; with a tunnel, the port whose MAC and addresses it sees as its gateway's.
    pub port: PortId,
    /// Its MAC; [`NO_MAC`] behind a tunnel that carries no frames.
    pub mac: Mac,
    /// How packets reach it.
    pub rewrite: Rewrite,
    /// The tunnel it is behind, if it is on no link of the box.
    pub tunnel: Option<Tunnel>,
}

/// Of a backend that no frame is sent to.
pub const NO_MAC: Mac = Mac([0; 6]);

impl BackendSpec {
    /// Whether both are one VM: the same locator, or the same station on the same link. Two locators with one MAC are
    /// two VMs behind a router.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self.rewrite, other.rewrite) {
            (Rewrite::Nat(mine), Rewrite::Nat(theirs)) => mine == theirs,
            _ => self.is_behind_same(other) && self.mac == other.mac,
        }
    }
}

impl BackendSpec {
    /// The address it has itself, if that is not the managed one.
    #[must_use]
    pub fn locator(&self) -> Option<IpAddr> {
        match self.rewrite {
            Rewrite::Nat(locator) => Some(locator),
            Rewrite::L2 => None,
        }
    }

    /// Whether both are behind one port: then nothing but their addresses tells them apart.
    #[must_use]
    pub fn is_behind_same(&self, other: &Self) -> bool {
        match (self.tunnel, other.tunnel) {
            (None, None) => self.port == other.port,
            (mine, theirs) => mine == theirs,
        }
    }
}

/// A managed address as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSpec {
    /// The address.
    pub address: IpAddr,
    /// Where it lives.
    pub home: BackendSpec,
    /// Where it speaks QUIC, if it does.
    pub quic: Option<Quic>,
}

/// A backend with its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its number towards the workers.
    pub slot: BackendSlot,
    /// The port it is behind towards the workers: its own, or its tunnel's.
    pub port: PortId,
    /// What it is.
    pub spec: BackendSpec,
}

impl Placed {
    fn backend(&self) -> Backend {
        let BackendSpec { mac, rewrite, .. } = self.spec;
        Backend { slot: self.slot, port: self.port, mac, rewrite }
    }
}

/// How a drain goes, as asked for at cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainPolicy {
    /// What workers hold to.
    pub cutover: Cutover,
    /// Whether the drain does not wait for sessions that the source began itself.
    pub ignores_begun_by_source: bool,
}

/// The destination of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub placed: Placed,
    /// `None` until cutover.
    pub cut_over: Option<DrainPolicy>,
    /// Whether the source has once had no live session since cutover.
    pub drained: bool,
}

/// A managed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Whether the box answers for it.
    pub hosted: bool,
    /// Whether sessions are recorded.
    pub tracked: bool,
    /// Since when they are, if they are.
    pub tracked_since: Instant,
    /// Its steering generation; never goes back.
    pub epoch: u32,
    /// Where it lives; the source, during a migration.
    pub home: Placed,
    /// Set during a migration.
    pub destination: Option<Target>,
    /// Where it speaks QUIC, if it does.
    pub quic: Option<Quic>,
}

/// Where an address is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// Packets go to the home without sessions.
    Bound,
    /// Sessions are recorded.
    Tracked,
    /// And the box answers for the address.
    Hosted,
    /// Cut over; old sessions are left.
    Draining,
    /// Cut over; the last old session is gone.
    Drained,
}

impl fmt::Display for AddressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bound => "BOUND",
            Self::Tracked => "TRACKED",
            Self::Hosted => "HOSTED",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
        })
    }
}

impl Address {
    pub(super) fn new(address: IpAddr, home: Placed, quic: Option<Quic>) -> Self {
        Self {
            address,
            hosted: false,
            tracked: true,
            tracked_since: Instant::now(),
            epoch: 1,
            home,
            destination: None,
            quic,
        }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> AddressState {
        match &self.destination {
            Some(target) if target.drained => AddressState::Drained,
            Some(target) if target.cut_over.is_some() => AddressState::Draining,
            _ if self.hosted => AddressState::Hosted,
            _ if self.tracked => AddressState::Tracked,
            _ => AddressState::Bound,
        }
    }

    /// The addresses that clients may name and reach it by: its own, and its backends' locators.
    pub fn ways_in(&self) -> impl Iterator<Item = IpAddr> {
        let locators = self.backends().filter_map(|placed| placed.spec.locator());
        std::iter::once(self.address).chain(locators)
    }

    /// Its backends, the home first.
    pub fn backends(&self) -> impl Iterator<Item = &Placed> {
        std::iter::once(&self.home).chain(self.destination.as_ref().map(|target| &target.placed))
    }

    pub(super) fn managed(&self) -> ManagedAddress {
        ManagedAddress {
            address: self.address,
            hosted: self.hosted,
            tracked: self.tracked,
            epoch: self.epoch,
            home: self.home.backend(),
            destination: self.destination.as_ref().map(|target| Destination {
                backend: target.placed.backend(),
                cut_over: target.cut_over.map(|policy| policy.cutover),
            }),
            quic: self.quic,
        }
    }
}
