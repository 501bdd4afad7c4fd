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
    config::{Config, InterfaceAddress, PortConfig},
    kernel::{Change, KernelRoute},
};

/// A port and what is configured on it.
#[derive(Clone, Debug)]
pub struct NetworkPort {
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
    /// The network of `config`; `macs` are the MACs its ports really have, in the same order.
    #[must_use]
    pub fn new(config: &Config, macs: &[Mac]) -> Self {
        // Twins come behind the ports, in the ports' order.
        let mut twins = (config.ports.len() as u16..).map(PortId);
        let port = |(port, mac): (&PortConfig, &Mac)| NetworkPort {
            name: port.name.clone(),
            mac: *mac,
            addresses: port.addresses.clone(),
            role: port.role,
            twin: port.twin.as_ref().and_then(|_| twins.next()),
        };
        let ports: Vec<_> = config.ports.iter().zip(macs).map(port).collect();
        let connected = (0..).zip(&ports).flat_map(|(number, port)| {
            let hop = NextHop { port: PortId(number), via: None };
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

    /// Its ports, by [`PortId`].
    #[must_use]
    pub fn ports(&self) -> &[NetworkPort] {
        &self.ports
    }

    /// The port `id`.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&NetworkPort> {
        self.ports.get(usize::from(id.0))
    }

    /// The port with this name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<PortId> {
        let at = self.ports.iter().position(|port| port.name == name)?;
        u16::try_from(at).ok().map(PortId)
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
        (0..).map(PortId).zip(&self.ports).filter_map(move |(id, port)| {
            let here = |own: &&InterfaceAddress| on_link(own) && Some(own.prefix_len) == longest;
            port.addresses.iter().find(here).map(|own| (id, port, own.address))
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
        let port = |(id, port): (PortId, &NetworkPort)| {
            Some(Port {
                mac: port.mac,
                addresses: port.addresses.iter().map(|own| own.address).collect(),
                role: port.role,
                link: Link::untagged(id),
                twin: port.twin,
            })
        };
        let twin = |(of, port): (PortId, &NetworkPort)| {
            Some(Port {
                mac: port.mac,
                addresses: Vec::new(),
                role: PortRole::Twin(of),
                link: Link::untagged(port.twin?),
                twin: None,
            })
        };
        let numbered = || (0..).map(PortId).zip(&self.ports);
        let twins = numbered().filter_map(twin).map(Some);
        let ports: Vec<_> = numbered().map(port).chain(twins).collect();
        let routing = Routing { tables, hops: self.routes.hops(&ports) };
        let mut snapshot = Snapshot::new(generation, ports, steering.managed(), routing)?;
        snapshot.timeouts = self.timeouts;
        snapshot.counted_at_install = counted;
        Ok(snapshot)
    }
}
