//! The links around the box: ports, routes, neighbours. Together with [`Steering`] they make a [`Snapshot`].

use std::{collections::HashSet, net::IpAddr};

use tidegate_dataplane::{
    packet::Mac,
    steering::{
        BackendSlot, IpPrefix, Link, Neighbour, NextHop, Port, PortId, PortRole, Rewrite,
        RouteChange, RouteTables, Routing, Snapshot, SnapshotError, Timeouts,
    },
};

use super::{
    Address, PortClash, Refused, Steering, TunnelPort, check_address, check_device, check_name,
    neighbours::{Word, is_link_local},
    routes::{MOST_HOPS, Routes, Target},
};
use crate::{
    config::{Carrier, Config, InterfaceAddress, PortConfig},
    kernel::{Change, KernelRoute},
};

/// A port that is there.
#[derive(Clone, Debug)]
pub struct NetworkPort {
    /// What is configured on it.
    pub config: PortConfig,
    /// The MAC it really has.
    pub mac: Mac,
    /// The port behind which the kernel stands for it.
    pub twin: Option<PortId>,
}

impl NetworkPort {
    /// As whom the box asks on this link for `address`: by an address of its prefix, by one that every neighbour can answer,
    /// or by any of the same family.
    #[must_use]
    pub fn speaks_as(&self, address: IpAddr) -> Option<IpAddr> {
        let own = || {
            let all = self.config.addresses.iter();
            all.filter(|own| own.address.is_ipv4() == address.is_ipv4())
        };
        let beside = own().find(|own| !is_link_local(address) && own.is_beside(address));
        let any = || own().find(|own| is_link_local(own.address)).or_else(|| own().next());
        beside.or_else(any).map(|own| own.address)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.config.addresses.iter().any(|own| own.address == address)
    }
}

/// More learned neighbours than this are not kept: a scan of the links, or a guest that says it is everybody of an IPv6
/// prefix, must leave routes and other guests their next hops.
const MAX_LEARNED: usize = MOST_HOPS / 2;

/// Ports, routes and neighbours.
#[derive(Clone, Debug)]
pub struct Network {
    /// In the order of their numbers.
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
    /// Nothing new, or nothing that replaces what is known.
    Known,
    /// It is not believed: not on that link, link-local and no router, the box's own address, a configured neighbour, or one too many.
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
        let fixed = config.neighbours.iter().map(|(address, _)| *address).collect();
        let routes = Routes::default();
        let mut network = Self { ports: Vec::new(), routes, fixed, timeouts: config.timeouts };
        for port in &config.ports {
            let mac = match port.carrier {
                Carrier::Device(_) => macs[usize::from(port.id.0)],
                Carrier::Vlan { on, .. } => port.mac.unwrap_or(macs[usize::from(on.0)]),
            };
            let twin = port.twin.as_ref().and_then(|_| twins.next());
            network.insert(NetworkPort { config: port.clone(), mac, twin });
        }
        for (prefix, hop) in &config.routes {
            network.routes.set(*prefix, Some(Target::Next(*hop)));
        }
        for (address, neighbour) in &config.neighbours {
            network.routes.set_neighbour(*address, *neighbour, Word::Ours);
        }
        network
    }

    /// There is a port, of which nothing stands in the way: see [`Network::check`].
    pub fn insert(&mut self, port: NetworkPort) {
        let id = port.config.id;
        for prefix in port.config.addresses.iter().filter_map(|own| own.prefix()) {
            // Of several ports on one prefix (anycast gateway) one stands for it.
            if self.on_prefix(prefix).is_none() {
                self.routes.set(prefix, Some(Target::Next(NextHop { port: id, via: None })));
            }
        }
        let at = self.ports.partition_point(|other| other.config.id < id);
        self.ports.insert(at, port);
        self.ports_changed();
    }

    /// A port is gone, with what was heard there. Nothing that is configured leads to it: see [`Network::holds`].
    pub fn remove(&mut self, id: PortId) -> Option<NetworkPort> {
        let at = self.ports.iter().position(|port| port.config.id == id)?;
        let port = self.ports.remove(at);
        for prefix in port.config.addresses.iter().filter_map(|own| own.prefix()) {
            let left = self.on_prefix(prefix);
            let target = left.map(|port| Target::Next(NextHop { port, via: None }));
            self.routes.set(prefix, target);
        }
        self.routes.forget_port(id);
        self.ports_changed();
        Some(port)
    }

    /// Whether a port like this can be beside those there are.
    ///
    /// # Errors
    /// [`Refused::Port`], [`Refused::PortExists`], or who has one of its addresses.
    pub fn check(&self, port: &PortConfig) -> Result<(), Refused> {
        let others = self.ports.iter().map(|other| &other.config);
        check_name(&port.name, others.clone())
            .map_err(|_| Refused::PortExists(port.name.clone()))?;
        if let Some(device) = port.device() {
            check_device(device, others.clone())?;
        }
        for (at, own) in port.addresses.iter().enumerate() {
            if port.addresses[..at].iter().any(|other| other.address == own.address) {
                let port = port.name.clone();
                return Err(PortClash::Address { address: *own, port }.into());
            }
            let is_shared = check_address(*own, port, others.clone())?;
            if self.fixed.contains(&own.address) {
                return Err(Refused::PortAddressIsNeighbour(own.address));
            }
            let routed = own.prefix().filter(|prefix| !is_shared && self.routes.is_given(*prefix));
            if let Some(prefix) = routed {
                return Err(Refused::PortPrefixRouted(prefix));
            }
        }
        Ok(())
    }

    /// What is configured to lead to the port, in words.
    #[must_use]
    pub fn holds(&self, id: PortId) -> Option<String> {
        let neighbour = |address: &&IpAddr| {
            self.routes.neighbour(**address).is_some_and(|neighbour| neighbour.port == id)
        };
        let carried = |port: &&NetworkPort| matches!(port.config.carrier, Carrier::Vlan { on, .. } if on == id);
        if let Some(vlan) = self.ports.iter().find(carried) {
            return Some(format!("port `{}`, a VLAN of it", vlan.config.name));
        }
        if self.port(id).is_some_and(|port| port.twin.is_some()) {
            return Some("its twin, which is made at start".to_owned());
        }
        // Of several, always the same is named.
        if let Some(address) = self.fixed.iter().filter(neighbour).min() {
            return Some(format!("[[neighbour]] {address}"));
        }
        self.routes.by_router_on(id).min().map(|prefix| format!("[[route]] {prefix}"))
    }

    fn ports_changed(&mut self) {
        let own = self.ports.iter().flat_map(|port| &port.config.addresses);
        self.routes.set_own(own.map(|own| own.address).collect());
    }

    /// A port whose link has this prefix.
    fn on_prefix(&self, prefix: IpPrefix) -> Option<PortId> {
        let has = |port: &NetworkPort| {
            port.config.addresses.iter().any(|own| own.prefix() == Some(prefix))
        };
        self.ports.iter().find(|port| has(port)).map(|port| port.config.id)
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
        self.ports.iter().find(|port| port.config.id == id)
    }

    /// Whether the kernel stands behind the device of the port `id`.
    #[must_use]
    pub fn has_kernel(&self, id: PortId) -> bool {
        let device = self.port(id).and_then(|port| match port.config.link() {
            Link::Device { device, .. } => self.port(device),
            _ => None,
        });
        device.is_some_and(|device| device.twin.is_some())
    }

    /// The port with this name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<PortId> {
        self.ports.iter().find(|port| port.config.name == name).map(|port| port.config.id)
    }

    /// The port that has `address` as its own.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&NetworkPort> {
        self.ports.iter().find(|port| port.has(address))
    }

    /// The ports on whose links `address` can be, those of the longest prefix, each with the box's own address there.
    pub fn links_of(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (PortId, &NetworkPort, IpAddr)> {
        let on_link = move |own: &&InterfaceAddress| {
            own.prefix().is_some_and(|prefix| prefix.contains(address))
        };
        let all = self.ports.iter().flat_map(|port| &port.config.addresses);
        let longest = all.filter(on_link).map(|own| own.prefix_len).max();
        self.ports.iter().filter_map(move |port| {
            let here = |own: &&InterfaceAddress| on_link(own) && Some(own.prefix_len) == longest;
            port.config.addresses.iter().find(here).map(|own| (port.config.id, port, own.address))
        })
    }

    /// Whether `address` is the box's own as packets on `port` mean it: each link has a link-local address of its own.
    #[must_use]
    pub fn is_own(&self, port: PortId, address: IpAddr) -> bool {
        if !is_link_local(address) {
            return self.owner_of(address).is_some();
        }
        self.port(port).is_some_and(|port| port.has(address))
    }

    /// `address` announced itself on `port` with `mac`. What is known of it stays unless that `overrides`.
    pub fn learn(&mut self, port: PortId, address: IpAddr, mac: Mac, overrides: bool) -> Learned {
        let of_the_link = is_link_local(address);
        // Of link-local ones any machine may have as many as it likes, and those of routers alone are of use.
        let on_link = if of_the_link {
            self.routes.leads_to(address, port)
        } else {
            self.links_of(address).any(|(id, ..)| id == port)
        };
        let own = self.is_own(port, address) || self.ports.iter().any(|port| port.mac == mac);
        if !on_link || own || mac.is_group() || self.fixed.contains(&address) {
            return Learned::Ignored;
        }
        let neighbour = Neighbour { port, mac };
        let known = if of_the_link {
            self.routes.neighbour_on(address, port)
        } else {
            self.routes.neighbour(address).copied()
        };
        if known == Some(neighbour) || (known.is_some() && !overrides) {
            return Learned::Known;
        }
        if known.is_none() && self.routes.neighbours() >= MAX_LEARNED {
            return Learned::Ignored;
        }
        if let Some(before) = known {
            self.routes.forget_neighbour(address, before.port);
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
                    KernelRoute::Blackhole => Target::Blackhole,
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
                Some((locator, Neighbour { port: placed.port, mac: placed.spec.mac }))
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
        let ports = self.logical_ports(steering);
        let routing = Routing { tables, hops: self.routes.hops(&ports) };
        let mut snapshot = Snapshot::new(generation, ports, steering.managed(), routing)?;
        snapshot.timeouts = self.timeouts;
        snapshot.counted_at_install = counted;
        Ok(snapshot)
    }

    /// The ports, their twins and the tunnels of `steering` by number, as packets see them.
    fn logical_ports(&self, steering: &Steering) -> Vec<Option<Port>> {
        let mut ports = Vec::new();
        let mut set = |id: PortId, port| {
            let at = usize::from(id.0);
            ports.resize(ports.len().max(at + 1), None);
            ports[at] = Some(port);
        };
        for NetworkPort { config, mac, twin } in &self.ports {
            let logical = Port {
                mac: *mac,
                addresses: config.addresses.iter().map(|own| own.address).collect(),
                role: config.role,
                link: config.link(),
                twin: *twin,
            };
            if let Some(twin) = *twin {
                let role = PortRole::Twin(config.id);
                let (addresses, link) = (Vec::new(), Link::untagged(twin));
                set(twin, Port { role, addresses, link, twin: None, ..logical.clone() });
            }
            set(config.id, logical);
        }
        for TunnelPort { id, tunnel, gateway } in steering.tunnels() {
            let Some(gateway) = self.port(gateway) else { continue };
            let port = Port {
                mac: gateway.mac,
                addresses: gateway.config.addresses.iter().map(|own| own.address).collect(),
                role: PortRole::Access,
                link: Link::Tunnel(tunnel),
                twin: None,
            };
            set(id, port);
        }
        ports
    }
}
