//! The immutable configuration a worker acts on.
//!
//! The control core builds a new one for every change and hands it to each worker, which takes it up between two
//! bursts and acknowledges its generation. Nothing in it is ever changed in place.

use ahash::RandomState;
use hashbrown::HashMap;

use super::{
    BackendSlot, Fib, ManagedAddress, Neighbour, Path, Port, PortId, Service, Timeouts,
    filter::Filter,
};
use crate::packet::Macs;

/// Two things in one configuration exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The address is there twice.
    #[error("managed address {} is configured twice", std::net::Ipv4Addr::from_bits(*.0))]
    AddressTwice(u32),
    /// Two backends have one locator.
    #[error("locator {} belongs to two backends", std::net::Ipv4Addr::from_bits(*.0))]
    LocatorTwice(u32),
    /// A locator is itself a managed address.
    #[error("locator {} is itself a managed address", std::net::Ipv4Addr::from_bits(*.0))]
    LocatorManaged(u32),
    /// A backend names a port that is not there.
    #[error("backend of {} is behind a port that does not exist", std::net::Ipv4Addr::from_bits(*.0))]
    NoSuchPort(u32),
}

/// Which way a packet goes through the box.
#[derive(Clone, Copy, Debug)]
pub enum Direction<'a> {
    /// From a client to this managed address.
    ToAddress(&'a Service),
    /// From a client to the own address of the backend at the end of this path.
    ToLocator(&'a Service, &'a Path),
    /// From the backend of this managed address at the end of this path.
    FromBackend(&'a Service, &'a Path),
    /// A managed address or locator as source, from a port none of its backends is behind.
    Spoofed,
    /// Nothing to do with managed addresses.
    Plain,
}

/// What was found last: packets of one address come in runs.
#[derive(Default)]
pub struct Recent<'a> {
    to: Option<&'a Service>,
    from: Option<(u32, PortId, &'a Service, &'a Path)>,
}

/// The way to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHop {
    /// Port it is behind.
    pub port: PortId,
    /// The link header of frames to it.
    pub macs: Macs,
}

/// What an address is.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// The managed address of this service.
    Managed(usize),
    /// The locator of this service's backend.
    Locator(usize, BackendSlot),
}

/// All a worker needs to know.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every snapshot published.
    pub generation: u64,
    /// By [`PortId`]; the filter has their addresses.
    pub(crate) ports: Vec<Port>,
    /// Routes for everything that is not managed, and back to clients.
    pub fib: Fib,
    /// Timeouts of sessions.
    pub timeouts: Timeouts,
    /// Slots whose live sessions each shard notes down as it takes this snapshot up: the sources of a cutover.
    pub counted_at_install: Vec<BackendSlot>,
    neighbours: HashMap<u32, LinkHop, RandomState>,
    services: Vec<Service>,
    roles: HashMap<u32, Role, RandomState>,
    filter: Filter,
}

impl Snapshot {
    /// A snapshot of these ports, addresses, routes and neighbours.
    ///
    /// # Errors
    /// [`SnapshotError`] when two of them exclude each other.
    pub fn new(
        generation: u64,
        ports: Vec<Port>,
        managed: impl IntoIterator<Item = ManagedAddress>,
        fib: Fib,
        neighbours: impl IntoIterator<Item = (u32, Neighbour)>,
    ) -> Result<Self, SnapshotError> {
        let mut services = Vec::new();
        let mut roles = HashMap::with_hasher(RandomState::new());
        for address in managed {
            if address.backends().any(|backend| usize::from(backend.port.0) >= ports.len()) {
                return Err(SnapshotError::NoSuchPort(address.address));
            }
            if roles.insert(address.address, Role::Managed(services.len())).is_some() {
                return Err(SnapshotError::AddressTwice(address.address));
            }
            services.push(Service::new(&address, &ports));
        }
        for (number, service) in services.iter().enumerate() {
            for path in service.paths() {
                let Some(locator) = path.locator else { continue };
                match roles.insert(locator, Role::Locator(number, path.slot)) {
                    None => {}
                    Some(Role::Managed(_)) => return Err(SnapshotError::LocatorManaged(locator)),
                    Some(Role::Locator(..)) => return Err(SnapshotError::LocatorTwice(locator)),
                }
            }
        }
        // A neighbour behind a port that is not there cannot be sent to.
        let neighbours = neighbours.into_iter().filter_map(|(address, neighbour)| {
            let port = ports.get(usize::from(neighbour.port.0))?;
            let macs = Macs::new(neighbour.mac, port.mac);
            Some((address, LinkHop { port: neighbour.port, macs }))
        });
        Ok(Self {
            generation,
            neighbours: neighbours.collect(),
            fib,
            timeouts: Timeouts::default(),
            counted_at_install: Vec::new(),
            filter: roles
                .keys()
                .chain(ports.iter().flat_map(|port| &port.addresses))
                .copied()
                .collect(),
            ports,
            services,
            roles,
        })
    }

    /// What a worker starts with: no ports, so that every packet is dropped.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: 0,
            ports: Vec::new(),
            fib: Fib::default(),
            timeouts: Timeouts::default(),
            counted_at_install: Vec::new(),
            neighbours: HashMap::default(),
            services: Vec::new(),
            roles: HashMap::default(),
            filter: Filter::default(),
        }
    }

    /// Whether `address` is a port's own.
    #[inline]
    #[must_use]
    pub fn is_own(&self, address: u32) -> bool {
        self.filter.may_hold(address)
            && self.ports.iter().any(|port| port.addresses.contains(&address))
    }

    /// The managed address, if `address` is one.
    #[inline]
    #[must_use]
    pub fn managed(&self, address: u32) -> Option<&Service> {
        if !self.filter.may_hold(address) {
            return None;
        }
        match self.roles.get(&address)? {
            Role::Managed(number) => self.services.get(*number),
            Role::Locator(..) => None,
        }
    }

    /// The service that `address` is the managed address of, or a backend's locator.
    #[must_use]
    pub fn service(&self, address: u32) -> Option<&Service> {
        let (Role::Managed(number) | Role::Locator(number, _)) = self.roles.get(&address)?;
        self.services.get(*number)
    }

    /// The way to the neighbour with this address.
    #[inline]
    #[must_use]
    pub fn neighbour(&self, address: u32) -> Option<&LinkHop> {
        self.neighbours.get(&address)
    }

    /// Which way a packet that arrived on `port` goes.
    ///
    /// Which VM sent a packet is known from its port (`l2`) or its address (`nat`).
    #[inline]
    #[must_use]
    pub fn direction<'a>(
        &'a self,
        port: PortId,
        source: u32,
        destination: u32,
        recent: &mut Recent<'a>,
    ) -> Direction<'a> {
        if self.filter.may_hold(source)
            && let Some(sent) = self.sent_by_vm(port, source, recent)
        {
            return sent;
        }
        match recent.to {
            Some(service) if service.address == destination => Direction::ToAddress(service),
            _ if !self.filter.may_hold(destination) => Direction::Plain,
            _ => self.sent_to_vm(destination, recent),
        }
    }

    /// Who sent a packet with this source, if it is a managed address or a locator.
    fn sent_by_vm<'a>(
        &'a self,
        port: PortId,
        source: u32,
        recent: &mut Recent<'a>,
    ) -> Option<Direction<'a>> {
        if let Some((address, from, service, path)) = recent.from
            && (address, from) == (source, port)
        {
            return Some(Direction::FromBackend(service, path));
        }
        let role = self.roles.get(&source)?;
        let (Role::Managed(number) | Role::Locator(number, _)) = *role;
        let service = self.services.get(number)?;
        let sender = service.paths().find(|path| {
            let is_own = match role {
                Role::Managed(_) => path.locator.is_none(),
                Role::Locator(_, slot) => path.slot == *slot,
            };
            is_own && path.port == port
        });
        let Some(path) = sender else { return Some(Direction::Spoofed) };
        recent.from = Some((source, port, service, path));
        Some(Direction::FromBackend(service, path))
    }

    /// To whom a client sends a packet with this destination.
    fn sent_to_vm<'a>(&'a self, destination: u32, recent: &mut Recent<'a>) -> Direction<'a> {
        let Some(service) = self.service(destination) else { return Direction::Plain };
        if service.address == destination {
            recent.to = Some(service);
            return Direction::ToAddress(service);
        }
        let path = service.paths().find(|path| path.locator == Some(destination));
        path.map_or(Direction::Plain, |path| Direction::ToLocator(service, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::Mac,
        steering::{Backend, PortRole, Rewrite},
    };

    const A: u32 = 0x0a09_0064;
    const LOCATOR: u32 = 0x0a08_000b;
    const CLIENT: u32 = 0x0a09_0002;

    fn port() -> Port {
        Port { mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![], role: PortRole::Access }
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
            address: A,
            hosted: false,
            tracked: true,
            epoch: 1,
            home,
            destination: None,
        }
    }

    fn snapshot(addresses: Vec<ManagedAddress>) -> Result<Snapshot, SnapshotError> {
        Snapshot::new(1, vec![port(), port(), port()], addresses, Fib::default(), [])
    }

    #[test]
    fn a_vm_is_known_by_port_or_by_locator() {
        let l2 = snapshot(vec![address(backend(0, 1, Rewrite::L2))]).expect("snapshot");
        let mut recent = Recent::default();
        let mut way = |port, source, destination| {
            l2.direction(PortId(port), source, destination, &mut recent)
        };
        for _ in 0..2 {
            assert!(matches!(way(1, A, CLIENT), Direction::FromBackend(..)));
            assert!(matches!(way(2, A, CLIENT), Direction::Spoofed));
            assert!(matches!(way(0, CLIENT, A), Direction::ToAddress(_)));
            assert!(matches!(way(0, CLIENT, LOCATOR), Direction::Plain));
        }

        let nat = snapshot(vec![address(backend(0, 1, Rewrite::Nat(LOCATOR)))]).expect("snapshot");
        let mut recent = Recent::default();
        let mut way = |port, source, destination| {
            nat.direction(PortId(port), source, destination, &mut recent)
        };
        for _ in 0..2 {
            assert!(matches!(way(1, LOCATOR, CLIENT), Direction::FromBackend(..)));
            assert!(matches!(way(2, LOCATOR, CLIENT), Direction::Spoofed));
            assert!(matches!(way(0, CLIENT, LOCATOR), Direction::ToLocator(..)));
            assert!(matches!(way(1, A, CLIENT), Direction::Spoofed));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let home = address(backend(0, 1, Rewrite::L2));
        assert_eq!(snapshot(vec![home, home]).expect_err("twice"), SnapshotError::AddressTwice(A));
        let nat = |slot, address| ManagedAddress {
            address,
            ..self::address(backend(slot, 1, Rewrite::Nat(LOCATOR)))
        };
        assert_eq!(
            snapshot(vec![nat(0, A), nat(1, A + 1)]).expect_err("twice"),
            SnapshotError::LocatorTwice(LOCATOR)
        );
        let managed = snapshot(vec![nat(0, A), ManagedAddress { address: LOCATOR, ..home }]);
        assert_eq!(managed.expect_err("managed"), SnapshotError::LocatorManaged(LOCATOR));
        let missing = snapshot(vec![address(backend(0, 3, Rewrite::L2))]);
        assert_eq!(missing.expect_err("port"), SnapshotError::NoSuchPort(A));
    }
}
