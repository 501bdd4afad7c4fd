//! The managed addresses of one family, and which way its packets go.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use super::{
    BackendSlot, Family, ManagedAddress, Path, Port, PortId, RouteTable, Service, SnapshotError,
    filter::Filter, tunnels,
};

/// Which way a packet goes through the box.
#[derive(Clone, Copy, Debug)]
pub enum Direction<'a, A> {
    /// From a client to this managed address.
    ToAddress(&'a Service<A>),
    /// From a client to the own address of the backend at the end of this path.
    ToLocator(&'a Service<A>, &'a Path<A>),
    /// From the backend of this managed address at the end of this path.
    FromBackend(&'a Service<A>, &'a Path<A>),
    /// To the box's end of a tunnel.
    ToTunnel,
    /// A managed address or locator as source, from a port none of its backends is behind. Not by [`PortId::HAIRPIN`].
    Spoofed,
    /// Nothing to do with managed addresses.
    Plain,
}

/// What was found last: packets of one address come in runs.
pub struct Recent<'a, A> {
    to: Option<&'a Service<A>>,
    from: Option<(A, PortId, &'a Service<A>, &'a Path<A>)>,
}

impl<A> Default for Recent<'_, A> {
    fn default() -> Self {
        Self { to: None, from: None }
    }
}

/// What an address is.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// The managed address of this service.
    Managed(usize),
    /// The locator of this service's backend.
    Locator(usize, BackendSlot),
    /// The box's end of a tunnel.
    TunnelEnd,
}

/// The managed addresses of one family.
#[derive(Clone, Debug)]
pub struct Plane<A> {
    services: Vec<Service<A>>,
    roles: HashMap<A, Role, RandomState>,
    filter: Filter,
    pub(crate) routes: Arc<dyn RouteTable<A>>,
}

impl<A: Family> Plane<A> {
    /// Of those `managed` addresses that are of this family.
    pub(super) fn new(
        managed: &[ManagedAddress],
        ports: &[Option<Port>],
        routes: Arc<dyn RouteTable<A>>,
    ) -> Result<Self, SnapshotError> {
        let mut services: Vec<Service<A>> = Vec::new();
        let mut roles = HashMap::with_hasher(RandomState::new());
        for it in managed {
            let Some(address) = A::of(it.address) else { continue };
            if roles.insert(address, Role::Managed(services.len())).is_some() {
                return Err(SnapshotError::AddressTwice(it.address));
            }
            services.push(Service::new(address, it, ports)?);
        }
        for (number, service) in services.iter().enumerate() {
            for path in service.paths() {
                let Some(locator) = path.locator else { continue };
                match roles.insert(locator, Role::Locator(number, path.slot)) {
                    None => {}
                    Some(Role::Managed(_)) => {
                        return Err(SnapshotError::LocatorManaged(locator.ip()));
                    }
                    Some(Role::Locator(..) | Role::TunnelEnd) => {
                        return Err(SnapshotError::LocatorTwice(locator.ip()));
                    }
                }
            }
        }
        for end in tunnels::local_ends::<A>(ports) {
            if !matches!(roles.insert(end, Role::TunnelEnd), None | Some(Role::TunnelEnd)) {
                return Err(SnapshotError::TunnelEndTaken(end.ip()));
            }
        }
        let filter = roles.keys().copied().collect();
        Ok(Self { services, roles, filter, routes })
    }

    /// The managed address, if `address` is one.
    #[inline]
    #[must_use]
    pub fn managed(&self, address: A) -> Option<&Service<A>> {
        if !self.filter.may_hold(address) {
            return None;
        }
        match self.roles.get(&address)? {
            Role::Managed(number) => self.services.get(*number),
            Role::Locator(..) | Role::TunnelEnd => None,
        }
    }

    /// Whether `address` is a managed address or a locator.
    #[inline]
    #[must_use]
    pub fn serves(&self, address: A) -> bool {
        self.filter.may_hold(address)
            && matches!(self.roles.get(&address), Some(Role::Managed(_) | Role::Locator(..)))
    }

    /// The service that `address` is the managed address of, or a backend's locator.
    #[must_use]
    pub fn service(&self, address: A) -> Option<&Service<A>> {
        match self.roles.get(&address)? {
            Role::Managed(number) | Role::Locator(number, _) => self.services.get(*number),
            Role::TunnelEnd => None,
        }
    }

    /// Which way a packet that arrived on `port` goes.
    ///
    /// Which VM sent a packet is known from its port (`l2`) or its address (`nat`).
    #[inline]
    #[must_use]
    pub fn direction<'a>(
        &'a self,
        port: PortId,
        source: A,
        destination: A,
        recent: &mut Recent<'a, A>,
    ) -> Direction<'a, A> {
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
        source: A,
        recent: &mut Recent<'a, A>,
    ) -> Option<Direction<'a, A>> {
        if let Some((address, from, service, path)) = recent.from
            && (address, from) == (source, port)
        {
            return Some(Direction::FromBackend(service, path));
        }
        let role = self.roles.get(&source)?;
        let (Role::Managed(number) | Role::Locator(number, _)) = *role else { return None };
        let service = self.services.get(number)?;
        let sender = service.paths().find(|path| {
            let is_own = match role {
                Role::Managed(_) => path.locator.is_none(),
                Role::Locator(_, slot) => path.slot == *slot,
                Role::TunnelEnd => false,
            };
            is_own && path.link.port == port
        });
        let Some(path) = sender else {
            // To whom it goes, a VM of the box is a client like others.
            return (port != PortId::HAIRPIN).then_some(Direction::Spoofed);
        };
        recent.from = Some((source, port, service, path));
        Some(Direction::FromBackend(service, path))
    }

    /// To whom a client sends a packet with this destination.
    fn sent_to_vm<'a>(&'a self, destination: A, recent: &mut Recent<'a, A>) -> Direction<'a, A> {
        let Some(service) = self.service(destination) else {
            let is_end = matches!(self.roles.get(&destination), Some(Role::TunnelEnd));
            return if is_end { Direction::ToTunnel } else { Direction::Plain };
        };
        if service.address == destination {
            recent.to = Some(service);
            return Direction::ToAddress(service);
        }
        let path = service.paths().find(|path| path.locator == Some(destination));
        path.map_or(Direction::Plain, |path| Direction::ToLocator(service, path))
    }
}
