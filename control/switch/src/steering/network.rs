//! The links around the box: ports, routes, neighbours. Together with [`Steering`] they make a [`Snapshot`].

use std::{collections::HashSet, net::IpAddr};

use tidegate_dataplane::{
    packet::Mac,
    steering::{
        BackendSlot, Link, Neighbour, NextHop, Port, PortId, PortRole, Rewrite, RouteChange,
        RouteTables, Routing, Snapshot, SnapshotError, Timeouts,
    },
};

use super::{
    Address, Steering,
    neighbours::Word,
    routes::{Routes, Target},
};
use crate::{
    config::{Carrier, Config, InterfaceAddress, PortConfig},
    kernel::{Change, KernelRoute},
};

/// A port and what is configured on it.
#[derive(Clone, Debug)]
pub struct NetworkPort {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// The MAC it really has.
    pub mac: Mac,
    /// Its own addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Its side.
    pub role: PortRole,
    /// The port behind which the kernel stands for it.
    pub twin: Option<PortId>,
    /// What carries its packets.
    pub link: Link,
}

/// More learned neighbours than this are not kept: a scan of the links must not fill the memory.
const MAX_LEARNED: usize = 65_536;

/// Ports, routes and neighbours.
#[derive(Clone, Debug)]
pub struct Network {
    ports: Vec<NetworkPort>,
    routes: Routes,
    /// Neighbours that are configured: nobody else may say where they are.
    fixed: HashSet<IpAddr>,
    timeouts: Timeouts,
}

/// What became of a neighbour's announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It is new, or is now elsewhere: workers should know.
    Changed,
    /// Nothing new.
    Known,
    /// It is not believed: not on that link, the box's own address, a configured neighbour, or one too many.
    Ignored,
}

impl Network {
    /// The network of `config`; `macs` are the MACs its devices really have, in the same order.
    ///
    /// # Panics
    /// When there are fewer MACs than devices.
    #[must_use]
    pub fn new(config: &Config, macs: &[Mac]) -> Self {
        // Twins come behind the devices, in their order.
        let devices = config.ports.iter().filter(|port| port.device().is_some()).count();
        let mut twins = (devices as u16..).map(PortId);
        let port = |port: &PortConfig| NetworkPort {
            id: port.id,
            name: port.name.clone(),
            mac: match port.carrier {
                Carrier::Device(_) => macs[usize::from(port.id.0)],
                Carrier::Vlan { on, .. } => port.mac.unwrap_or(macs[usize::from(on.0)]),
            },
            addresses: port.addresses.clone(),
            role: port.role,
            twin: port.twin.as_ref().and_then(|_| twins.next()),
            link: port.link(),
        };
        let ports: Vec<_> = config.ports.iter().map(port).collect();
        let connected = ports.iter().flat_map(|port| {
            let hop = NextHop { port: port.id, via: None };
            port.addresses.iter().filter_map(move |address| Some((address.prefix()?, hop)))
        });
        let mut routes = Routes::default();
        // Of several ports on one prefix (anycast gateway) the first stands for it.
        let connected: Vec<_> = connected.collect();
        for (prefix, hop) in connected.into_iter().rev().chain(config.routes.iter().copied()) {
            routes.set(prefix, Some(Target::Next(hop)));
        }
        for (address, neighbour) in &config.neighbours {
            routes.set_neighbour(*address, *neighbour, Word::Ours);
        }
        let own = ports.iter().flat_map(|port| &port.addresses);
        routes.set_own(own.map(|own| own.address).collect());
        let fixed = config.neighbours.iter().map(|(address, _)| *address).collect();
        Self { ports, routes, fixed, timeouts: config.timeouts }
    }

    /// How long its silent sessions are kept.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> &[NetworkPort] {
        &self.ports
    }

    /// The port `id`.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&NetworkPort> {
        self.ports.iter().find(|port| port.id == id)
    }

    /// The port with this name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<PortId> {
        self.ports.iter().find(|port| port.name == name).map(|port| port.id)
    }

    /// The port that has `address` as its own.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&NetworkPort> {
        self.ports.iter().find(|port| port.addresses.iter().any(|own| own.address == address))
    }

    /// The ports on whose links `address` can be, those of the longest prefix, each with the box's own address there.
    pub fn links_of(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (PortId, &NetworkPort, IpAddr)> {
        let on_link = move |own: &&InterfaceAddress| {
            own.prefix().is_some_and(|prefix| prefix.contains(address))
        };
        let all = self.ports.iter().flat_map(|port| &port.addresses);
        let longest = all.filter(on_link).map(|own| own.prefix_len).max();
        self.ports.iter().filter_map(move |port| {
            let here = |own: &&InterfaceAddress| on_link(own) && Some(own.prefix_len) == longest;
            port.addresses.iter().find(here).map(|own| (port.id, port, own.address))
        })
    }

    /// `address` announced itself on `port` with `mac`.
    pub fn learn(&mut self, port: PortId, address: IpAddr, mac: Mac) -> Learned {
        let on_link = self.links_of(address).any(|(id, ..)| id == port);
        let own = self.owner_of(address).is_some() || self.ports.iter().any(|port| port.mac == mac);
        if !on_link || own || mac.is_group() || self.fixed.contains(&address) {
            return Learned::Ignored;
        }
        let neighbour = Neighbour { port, mac };
        let known = self.routes.neighbour(address);
        if known == Some(&neighbour) {
            return Learned::Known;
        }
        if known.is_none() && self.routes.neighbours() >= MAX_LEARNED {
            return Learned::Ignored;
        }
        if let Some(before) = known.map(|known| known.port) {
            self.routes.forget_neighbour(address, before);
        }
        self.routes.set_neighbour(address, neighbour, Word::Ours);
        Learned::Changed
    }

    /// Take in what the kernel says.
    pub fn follow_kernel(&mut self, change: Change) {
        match change {
            Change::Route(prefix, route) => {
                let target = route.map(|route| match route {
                    KernelRoute::Next(hop) => Target::Next(hop),
                    KernelRoute::Host => Target::Host,
                    KernelRoute::Unreachable => Target::Unreachable,
                });
                self.routes.set(prefix, target);
            }
            Change::Neighbour(_, address, _) if self.fixed.contains(&address) => {}
            Change::Neighbour(port, address, Some(mac)) => {
                self.routes.set_neighbour(address, Neighbour { port, mac }, Word::Kernel);
            }
            Change::Neighbour(port, address, None) => self.routes.forget_neighbour(address, port),
        }
    }

    /// What the route tables are to be told since the last time, when `steering` is to be in force.
    pub fn take_route_changes(&mut self, steering: &Steering) -> Vec<RouteChange> {
        let placed = steering.addresses().flat_map(Address::backends);
        let locators = placed.filter_map(|placed| match placed.spec.rewrite {
            Rewrite::Nat(locator) => {
                Some((locator, Neighbour { port: placed.spec.port, mac: placed.spec.mac }))
            }
            Rewrite::L2 => None,
        });
        self.routes.set_locators(locators.collect());
        self.routes.take_changes()
    }

    /// What workers act on, with `tables` that were told every change. `counted` are the slots each shard notes the live
    /// sessions of as it takes this up.
    ///
    /// # Errors
    /// [`SnapshotError`] when addresses exclude each other, which [`Steering`] prevents.
    pub fn snapshot(
        &mut self,
        generation: u64,
        steering: &Steering,
        tables: RouteTables,
        counted: Vec<BackendSlot>,
    ) -> Result<Snapshot, SnapshotError> {
        let ports = self.logical_ports();
        let routing = Routing { tables, hops: self.routes.hops(&ports) };
        let mut snapshot = Snapshot::new(generation, ports, steering.managed(), routing)?;
        snapshot.timeouts = self.timeouts;
        snapshot.counted_at_install = counted;
        Ok(snapshot)
    }

    /// The ports and their twins by number, as packets see them.
    fn logical_ports(&self) -> Vec<Option<Port>> {
        let mut ports = Vec::new();
        let mut set = |id: PortId, port| {
            let at = usize::from(id.0);
            ports.resize(ports.len().max(at + 1), None);
            ports[at] = Some(port);
        };
        for port in &self.ports {
            let logical = Port {
                mac: port.mac,
                addresses: port.addresses.iter().map(|own| own.address).collect(),
                role: port.role,
                link: port.link,
                twin: port.twin,
            };
            if let Some(twin) = port.twin {
                let role = PortRole::Twin(port.id);
                let (addresses, link) = (Vec::new(), Link::untagged(twin));
                set(twin, Port { role, addresses, link, twin: None, ..logical.clone() });
            }
            set(port.id, logical);
        }
        ports
    }
}
