//! What the kernel has told so far, and what of it is news to the mirror's owner. No I/O.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tidegate_dataplane::{
    packet::Mac,
    steering::{IpPrefix, NextHop, PortId},
};

use super::{
    Change, KernelRoute,
    read::{Interface, KernelHop, KernelNeighbour, Known, Route, Way},
    table::{Fit, Place, Table},
};

/// What may have changed although nobody said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// Nothing.
    Nothing,
    /// Routes by an interface.
    Routes,
    /// What is to be known of an interface that stands for a port now.
    Everything,
}

/// Interfaces, routes and neighbours.
#[derive(Default)]
pub(super) struct Followed {
    /// Ports by their interface's name.
    ports: HashMap<String, PortId>,
    interfaces: HashMap<u32, Interface>,
    table: Table,
    /// Prefixes about which something may have changed.
    touched: HashSet<IpPrefix>,
    told: HashMap<IpPrefix, KernelRoute>,
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    stale: HashSet<(PortId, IpAddr)>,
    /// What to tell of neighbours; of routes it is found in the end.
    changes: Vec<Change>,
}

impl Followed {
    pub(super) fn new(ports: HashMap<String, PortId>) -> Self {
        Self { ports, ..Self::default() }
    }

    /// The port an interface stands for.
    fn port(&self, interface: u32) -> Option<PortId> {
        let interface = self.interfaces.get(&interface)?;
        self.ports.get(&interface.name).copied()
    }

    /// The index of a port's interface.
    pub(super) fn index(&self, port: PortId) -> Option<u32> {
        self.interfaces.keys().copied().find(|index| self.port(*index) == Some(port))
    }

    /// An interface is now like this; `None` when it is gone. Returns what may have changed without a word.
    pub(super) fn interface(&mut self, index: u32, now: Option<Interface>) -> Silent {
        if self.interfaces.get(&index) == now.as_ref() {
            return Silent::Nothing;
        }
        let port = self.port(index);
        let before = match now {
            Some(now) => self.interfaces.insert(index, now),
            None => self.interfaces.remove(&index),
        };
        let port_now = self.port(index);
        if let Some(port) = port
            && port_now != Some(port)
        {
            self.forget(|(of, _)| *of == port);
        }
        if before.is_none() && port_now.is_none() {
            // Nothing leads there yet.
            return Silent::Nothing;
        }
        self.touched.extend(self.table.prefixes());
        if port == port_now { Silent::Routes } else { Silent::Everything }
    }

    /// These are the interfaces, and no others.
    pub(super) fn set_interfaces(&mut self, now: HashMap<u32, Interface>) {
        let gone: Vec<_> =
            self.interfaces.keys().filter(|index| !now.contains_key(*index)).copied().collect();
        for index in gone {
            self.interface(index, None);
        }
        for (index, interface) in now {
            self.interface(index, Some(interface));
        }
    }

    /// A route was added.
    pub(super) fn add(&mut self, (prefix, route): (IpPrefix, Route), place: Place) -> Fit {
        self.touched.insert(prefix);
        self.table.add(prefix, route, place)
    }

    /// A route was taken away.
    pub(super) fn remove(&mut self, (prefix, route): (IpPrefix, Route)) -> Fit {
        self.touched.insert(prefix);
        self.table.remove(prefix, &route)
    }

    /// These are the routes, and no others.
    pub(super) fn set_table(&mut self, table: Table) {
        self.touched.extend(self.told.keys());
        self.touched.extend(table.prefixes());
        self.table = table;
    }

    /// A neighbour is now like this.
    pub(super) fn neighbour(&mut self, now: KernelNeighbour) {
        let Some(port) = self.port(now.interface) else { return };
        let key = (port, now.address);
        let mac = match now.state {
            Known::Is(mac) => {
                self.stale.remove(&key);
                mac
            }
            Known::Was(mac) => {
                self.stale.insert(key);
                mac
            }
            Known::Sought => return,
            Known::Not => {
                self.stale.remove(&key);
                if self.neighbours.remove(&key).is_some() {
                    self.changes.push(Change::Neighbour(key.0, key.1, None));
                }
                return;
            }
        };
        if self.neighbours.insert(key, mac) != Some(mac) {
            self.changes.push(Change::Neighbour(key.0, key.1, Some(mac)));
        }
    }

    /// These are the neighbours, and no others.
    pub(super) fn set_neighbours(&mut self, now: Vec<KernelNeighbour>) {
        let key = |it: &KernelNeighbour| Some((self.port(it.interface)?, it.address));
        let seen: HashSet<_> = now.iter().filter_map(key).collect();
        self.forget(|key| !seen.contains(key));
        now.into_iter().for_each(|it| self.neighbour(it));
    }

    /// Neighbours that nobody has heard of for a while, at most so many.
    pub(super) fn stale(&self, most: usize) -> Vec<(PortId, IpAddr)> {
        self.stale.iter().take(most).copied().collect()
    }

    fn forget(&mut self, is_gone: impl Fn(&(PortId, IpAddr)) -> bool) {
        self.stale.retain(|key| !is_gone(key));
        let changes = &mut self.changes;
        self.neighbours.retain(|key, _| {
            let gone = is_gone(key);
            if gone {
                changes.push(Change::Neighbour(key.0, key.1, None));
            }
            !gone
        });
    }

    /// Whether something may have changed since the last time.
    pub(super) fn has_news(&self) -> bool {
        !self.touched.is_empty() || !self.changes.is_empty()
    }

    /// What has changed since the last time.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        for prefix in std::mem::take(&mut self.touched) {
            let now = self.route(prefix);
            let before = match now {
                Some(now) => self.told.insert(prefix, now),
                None => self.told.remove(&prefix),
            };
            if now != before {
                self.changes.push(Change::Route(prefix, now));
            }
        }
        std::mem::take(&mut self.changes)
    }

    /// Where the kernel would send packets to `prefix`.
    fn route(&self, prefix: IpPrefix) -> Option<KernelRoute> {
        self.table.of(prefix).iter().find_map(|route| match &route.way {
            Way::Host => Some(KernelRoute::Host),
            Way::Nowhere => Some(KernelRoute::Unreachable),
            Way::Blackhole => Some(KernelRoute::Blackhole),
            Way::By(hops) => {
                // Of an interface that is not known more is heard soon.
                let is_up = |index| self.interfaces.get(&index).is_none_or(|it| it.is_up);
                let living = || hops.iter().filter(|hop| !hop.is_dead && is_up(hop.interface));
                let by_port = |hop: &KernelHop| {
                    Some(NextHop { port: self.port(hop.interface)?, via: hop.router })
                };
                living().next()?;
                // Always the same one, in whichever order the kernel lists them.
                let next = living().filter_map(by_port).min_by_key(|next| (next.port, next.via));
                Some(next.map_or(KernelRoute::Unreachable, KernelRoute::Next))
            }
        })
    }
}
