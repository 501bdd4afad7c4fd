//! The immutable configuration a worker acts on.
//!
//! The control core builds a new one for every change and hands it to each worker, which takes it up between two
//! bursts and acknowledges its generation. Nothing in it is ever changed in place.

use std::{net::IpAddr, sync::Arc};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{
    BackendSlot, Hop, HopNumber, Link, ManagedAddress, Plane, Port, PortId, PortRole, Routing,
    Timeouts, Tunnels,
};
use crate::packet::{Address, Tags};

/// Two things in one configuration exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The address is there twice.
    #[error("managed address {0} is configured twice")]
    AddressTwice(IpAddr),
    /// Two backends have one locator.
    #[error("locator {0} belongs to two backends")]
    LocatorTwice(IpAddr),
    /// A locator is itself a managed address.
    #[error("locator {0} is itself a managed address")]
    LocatorManaged(IpAddr),
    /// A backend names a port that is not there.
    #[error("backend of {0} is behind a port that does not exist")]
    NoSuchPort(IpAddr),
    /// The end of a tunnel is something else as well.
    #[error("{0} is the box's end of a tunnel, and a managed address or a locator")]
    TunnelEndTaken(IpAddr),
    /// Nothing tells the packets of two tunnels apart.
    #[error("two tunnels from {local} to {remote} have the same packets")]
    TunnelTwice {
        /// The box's end.
        local: IpAddr,
        /// The other.
        remote: IpAddr,
    },
    /// The ends of a tunnel are not of one family.
    #[error("a tunnel from {local} to {remote} would be of both IP families")]
    TunnelFamilies {
        /// The box's end.
        local: IpAddr,
        /// The other.
        remote: IpAddr,
    },
    /// Address and locator are not of one family.
    #[error("locator {locator} of {address} is of the other IP family")]
    OtherFamily {
        /// The managed address.
        address: IpAddr,
        /// The backend's.
        locator: IpAddr,
    },
}

/// All a worker needs to know.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every snapshot published.
    pub generation: u64,
    /// Timeouts of sessions.
    pub timeouts: Timeouts,
    /// Slots whose live sessions each shard notes down as it takes this snapshot up: the sources of a cutover.
    pub counted_at_install: Vec<BackendSlot>,
    /// By [`PortId`]; a place without port is one that was removed.
    pub(crate) ports: Arc<[Option<Port>]>,
    /// Ports that share a device, by device and tags.
    tagged: HashMap<(PortId, Tags), PortId, RandomState>,
    /// By number; behind those of the routes is [`Hop::HAIRPIN`].
    hops: Arc<[Hop]>,
    tunnels: Tunnels,
    v4: Plane<u32>,
    v6: Plane<u128>,
}

/// An IP family with its part of a snapshot.
pub trait Family: Address {
    /// The family's managed addresses and routes.
    fn plane(snapshot: &Snapshot) -> &Plane<Self>;
}

impl Family for u32 {
    #[inline]
    fn plane(snapshot: &Snapshot) -> &Plane<Self> {
        &snapshot.v4
    }
}

impl Family for u128 {
    #[inline]
    fn plane(snapshot: &Snapshot) -> &Plane<Self> {
        &snapshot.v6
    }
}

impl Snapshot {
    /// A snapshot of these ports, addresses and routes.
    ///
    /// # Errors
    /// [`SnapshotError`] when two of them exclude each other.
    pub fn new(
        generation: u64,
        ports: impl Into<Arc<[Option<Port>]>>,
        managed: impl IntoIterator<Item = ManagedAddress>,
        routing: Routing,
    ) -> Result<Self, SnapshotError> {
        let mut ports: Arc<[Option<Port>]> = ports.into();
        if let Some((possible, [_, ..])) = ports.split_at_checked(usize::from(PortId::HAIRPIN.0)) {
            // The last number is no port's.
            ports = possible.into();
        }
        let managed: Vec<_> = managed.into_iter().collect();
        let twin = |address: &ManagedAddress| {
            let of = |port: PortId| ports.get(usize::from(port.0)).and_then(Option::as_ref);
            let is_twin = |port| matches!(of(port), Some(Port { role: PortRole::Twin(_), .. }));
            address.backends().any(|backend| is_twin(backend.port))
        };
        if let Some(behind_twin) = managed.iter().find(|address| twin(address)) {
            return Err(SnapshotError::NoSuchPort(behind_twin.address));
        }
        let tagged = ports.iter().zip(0..).filter_map(|(port, number)| {
            let Link::Device { device, tags, .. } = port.as_ref()?.link else { return None };
            (tags != Tags::NONE).then_some(((device, tags), PortId(number)))
        });
        let mut this = Self {
            generation,
            timeouts: Timeouts::default(),
            counted_at_install: Vec::new(),
            tagged: tagged.collect(),
            hops: routing.hops.iter().copied().chain([Hop::HAIRPIN]).collect(),
            tunnels: Tunnels::default(),
            v4: Plane::new(&managed, &ports, routing.tables.v4)?,
            v6: Plane::new(&managed, &ports, routing.tables.v6)?,
            ports,
        };
        this.tunnels = Tunnels::new(&this)?;
        Ok(this)
    }

    /// What a worker starts with: no ports, so that every packet is dropped.
    ///
    /// # Panics
    /// Never: there is nothing in it that could exclude each other.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(0, Vec::new(), [], Routing::default()).expect("nothing excludes nothing")
    }

    /// The port with this number.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// The port to which frames with these tags on this device belong.
    #[must_use]
    pub fn tagged_port(&self, device: PortId, tags: Tags) -> Option<PortId> {
        if tags == Tags::NONE { Some(device) } else { self.tagged.get(&(device, tags)).copied() }
    }

    /// Bytes of the largest IP packet that can leave by a port; more than there can be while it is not known.
    #[must_use]
    pub fn mtu(&self, port: PortId) -> u16 {
        match self.port(port).map(|port| port.link) {
            Some(Link::Device { mtu, .. }) => mtu,
            Some(Link::Tunnel(_)) => self.tunnels.mtu(port),
            None => u16::MAX,
        }
    }

    /// The address under which the box speaks on a port: the port's own, or another of its own.
    #[must_use]
    pub fn own_address<A: Family>(&self, port: PortId) -> Option<A> {
        let here = self.port(port).into_iter();
        let elsewhere = self.ports.iter().flatten();
        let all = here.chain(elsewhere).flat_map(|port| &port.addresses);
        all.filter_map(|address| A::of(*address)).find(|address| !address.is_link_local())
    }

    /// The tunnels among the ports.
    #[must_use]
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// The managed addresses and routes of a family.
    #[inline]
    #[must_use]
    pub fn plane<A: Family>(&self) -> &Plane<A> {
        A::plane(self)
    }

    /// The next hop with this number.
    #[inline]
    #[must_use]
    pub fn hop(&self, number: HopNumber) -> &Hop {
        self.hops.get(usize::from(number)).unwrap_or(&Hop::Unreachable)
    }

    /// The number of [`Hop::HAIRPIN`]; where none is left for it, that of [`Hop::Unreachable`].
    #[must_use]
    pub fn hairpin(&self) -> HopNumber {
        HopNumber::try_from(self.hops.len() - 1).unwrap_or(0)
    }

    /// The next hop to `destination`.
    #[inline]
    #[must_use]
    pub fn route<A: Family>(&self, destination: A) -> &Hop {
        let mut hop = [0];
        self.plane::<A>().routes.find_all(&[destination], &mut hop);
        self.hop(hop[0])
    }

    /// The next hop to `destination` of what arrived on `port` and has been through a VM's side of the box: if another VM is
    /// to get it, it comes in again; but what has come in again does not do so twice.
    #[must_use]
    pub fn way_from_vm<A: Family>(&self, port: PortId, destination: A) -> &Hop {
        if port != PortId::HAIRPIN && self.plane::<A>().serves(destination) {
            &Hop::HAIRPIN
        } else {
            self.route(destination)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::Mac,
        steering::{Backend, Direction, Recent, Rewrite},
    };

    const A: u32 = 0x0a09_0064;
    const LOCATOR: u32 = 0x0a08_000b;
    const CLIENT: u32 = 0x0a09_0002;

    fn port(device: u16) -> Option<Port> {
        Some(Port {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![],
            role: PortRole::Access,
            link: Link::untagged(PortId(device)),
            twin: None,
        })
    }

    fn backend(slot: u32, port: u16, rewrite: Rewrite) -> Backend {
        Backend {
            slot: BackendSlot(slot),
            port: PortId(port),
            mac: Mac([2, 0, 0, 0, 1, slot as u8]),
            rewrite,
        }
    }

    fn address(home: Backend) -> ManagedAddress {
        ManagedAddress {
            address: A.ip(),
            hosted: false,
            tracked: true,
            epoch: 1,
            home,
            destination: None,
            quic: None,
        }
    }

    fn snapshot(addresses: Vec<ManagedAddress>) -> Result<Snapshot, SnapshotError> {
        Snapshot::new(1, vec![port(0), port(1), port(2), None], addresses, Routing::default())
    }

    #[test]
    fn a_vm_is_known_by_port_or_by_locator() {
        let l2 = snapshot(vec![address(backend(0, 1, Rewrite::L2))]).expect("snapshot");
        let mut recent = Recent::default();
        let mut way = |port, source, destination| {
            l2.v4.direction(PortId(port), source, destination, &mut recent)
        };
        for _ in 0..2 {
            assert!(matches!(way(1, A, CLIENT), Direction::FromBackend(..)));
            assert!(matches!(way(2, A, CLIENT), Direction::Spoofed));
            assert!(matches!(way(0, CLIENT, A), Direction::ToAddress(_)));
            assert!(matches!(way(0, CLIENT, LOCATOR), Direction::Plain));
        }

        let nat =
            snapshot(vec![address(backend(0, 1, Rewrite::Nat(LOCATOR.ip())))]).expect("snapshot");
        let mut recent = Recent::default();
        let mut way = |port, source, destination| {
            nat.v4.direction(PortId(port), source, destination, &mut recent)
        };
        for _ in 0..2 {
            assert!(matches!(way(1, LOCATOR, CLIENT), Direction::FromBackend(..)));
            assert!(matches!(way(2, LOCATOR, CLIENT), Direction::Spoofed));
            assert!(matches!(way(0, CLIENT, LOCATOR), Direction::ToLocator(..)));
            assert!(matches!(way(1, A, CLIENT), Direction::Spoofed));
        }
    }

    #[test]
    fn the_number_of_what_comes_in_again_is_no_ports() {
        let behind = |number: PortId| {
            let home = address(backend(0, number.0, Rewrite::L2));
            let ports = vec![port(0); usize::from(u16::MAX) + 1];
            Snapshot::new(1, ports, [home], Routing::default())
        };
        let last = behind(PortId(PortId::HAIRPIN.0 - 1)).expect("snapshot");
        assert!(last.port(PortId::HAIRPIN).is_none());
        assert_eq!(behind(PortId::HAIRPIN).expect_err("port"), SnapshotError::NoSuchPort(A.ip()));
    }

    #[test]
    fn what_goes_to_a_vm_comes_in_again_once() {
        let nat = address(backend(0, 1, Rewrite::Nat(LOCATOR.ip())));
        let snapshot = snapshot(vec![nat]).expect("snapshot");
        for destination in [A, LOCATOR] {
            assert_eq!(*snapshot.way_from_vm(PortId(1), destination), Hop::HAIRPIN);
            assert_eq!(*snapshot.way_from_vm(PortId::HAIRPIN, destination), Hop::Unreachable);
        }
        assert_eq!(*snapshot.way_from_vm(PortId(1), CLIENT), Hop::Unreachable);
        assert_eq!(*snapshot.hop(snapshot.hairpin()), Hop::HAIRPIN);
    }

    #[test]
    fn contradictions_are_refused() {
        let home = address(backend(0, 1, Rewrite::L2));
        assert_eq!(
            snapshot(vec![home, home]).expect_err("twice"),
            SnapshotError::AddressTwice(A.ip())
        );
        let nat = |slot, address: u32| ManagedAddress {
            address: address.ip(),
            ..self::address(backend(slot, 1, Rewrite::Nat(LOCATOR.ip())))
        };
        assert_eq!(
            snapshot(vec![nat(0, A), nat(1, A + 1)]).expect_err("twice"),
            SnapshotError::LocatorTwice(LOCATOR.ip())
        );
        let managed = snapshot(vec![nat(0, A), ManagedAddress { address: LOCATOR.ip(), ..home }]);
        assert_eq!(managed.expect_err("managed"), SnapshotError::LocatorManaged(LOCATOR.ip()));
        let missing = snapshot(vec![address(backend(0, 3, Rewrite::L2))]);
        assert_eq!(missing.expect_err("port"), SnapshotError::NoSuchPort(A.ip()));
        let (address, locator) = (A.ip(), 7u128.ip());
        let mixed = snapshot(vec![self::address(backend(0, 1, Rewrite::Nat(locator)))]);
        let expected = SnapshotError::OtherFamily { address, locator };
        assert_eq!(mixed.expect_err("family"), expected);
    }
}
