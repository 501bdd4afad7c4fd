//! Routes and neighbours, and the numbered next hops they come to.
//!
//! Everything that can be looked up is a prefix with the number of a [`Hop`]: routes as they are given, a host route for
//! each neighbour, for each backend that has an address of its own, and for the box's own addresses. A change touches
//! the prefixes it is about, however many others there are; a neighbour's new MAC touches none, only the hop.
//!
//! A neighbour that the kernel knows has a host route where the routes lead to its link: whoever says on one link that
//! he has an address of another gets none of its packets.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use tidegate_dataplane::steering::{
    Hop, HopNumber, IpPrefix, LinkHop, Neighbour, NextHop, Port, PortId, RouteChange,
};

use super::neighbours::{Neighbours, Word};

/// What [`RouteTable`](tidegate_dataplane::steering::RouteTable)s can hold: they keep numbers in 15 bits, and the largest
/// is DPDK's tables' own.
pub(super) const MOST_HOPS: usize = (1 << 15) - 1;

/// Where a prefix leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// To a router, or to whatever of a link has the address looked for.
    Next(NextHop),
    /// To the box itself.
    Host,
    /// Nowhere.
    Unreachable,
    /// Nowhere, and nobody is told.
    Blackhole,
}

/// All routes and neighbours.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    given: HashMap<IpPrefix, Target>,
    neighbours: Neighbours,
    /// Backends with an address of their own.
    locators: HashMap<IpAddr, Neighbour>,
    own: BTreeSet<IpAddr>,
    /// Prefixes about which something has changed.
    dirty: BTreeSet<IpPrefix>,
    /// What the tables were last told.
    told: HashMap<IpPrefix, HopNumber>,
    numbers: Numbers,
    /// By number, as it was last asked for; `None` when it may have changed.
    hops: Option<Arc<[Hop]>>,
}

/// Targets by number and back. A number that is no longer used may come again.
#[derive(Clone, Debug, Default)]
struct Numbers {
    by_target: HashMap<Target, HopNumber>,
    targets: Vec<Option<(Target, u32)>>,
    free: Vec<HopNumber>,
}

impl Numbers {
    /// The number of `target`, which is used once more; `None` when there are too many.
    fn take(&mut self, target: Target) -> Option<HopNumber> {
        if let Some(number) = self.by_target.get(&target) {
            if let Some((_, uses)) = &mut self.targets[usize::from(*number)] {
                *uses += 1;
            }
            return Some(*number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.targets.len() >= MOST_HOPS => return None,
            None => {
                self.targets.push(None);
                (self.targets.len() - 1) as HopNumber
            }
        };
        self.targets[usize::from(number)] = Some((target, 1));
        self.by_target.insert(target, number);
        Some(number)
    }

    /// It is used once less.
    fn give_back(&mut self, number: HopNumber) {
        let Some(Some((target, uses))) = self.targets.get_mut(usize::from(number)) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.by_target.remove(target);
            self.targets[usize::from(number)] = None;
            self.free.push(number);
        }
    }
}

impl Default for Routes {
    fn default() -> Self {
        let mut numbers = Numbers::default();
        // Number 0 is what a table answers that knows nothing.
        numbers.take(Target::Unreachable);
        Self {
            given: HashMap::new(),
            neighbours: Neighbours::default(),
            locators: HashMap::new(),
            own: BTreeSet::new(),
            dirty: BTreeSet::new(),
            told: HashMap::new(),
            numbers,
            hops: None,
        }
    }
}

impl Routes {
    /// Let `prefix` lead to `target`, or be no route any more.
    pub(super) fn set(&mut self, prefix: IpPrefix, target: Option<Target>) {
        match target {
            Some(target) => self.given.insert(prefix, target),
            None => self.given.remove(&prefix),
        };
        self.dirty.insert(prefix);
        // Who is behind which port may be another matter now.
        self.dirty.extend(self.neighbours.inside(prefix).map(IpPrefix::host));
    }

    /// Where `address` is by our own word.
    pub(super) fn neighbour(&self, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.ours(address)
    }

    /// `address` on this port, whoever says so.
    pub(super) fn neighbour_on(&self, address: IpAddr, port: PortId) -> Option<Neighbour> {
        self.neighbours.on(address, port).map(|mac| Neighbour { port, mac })
    }

    /// Whether packets go to `address` on this port, by what the tables were told.
    pub(super) fn leads_to(&self, address: IpAddr, port: PortId) -> bool {
        let target = Target::Next(NextHop { port, via: Some(address) });
        self.numbers.by_target.contains_key(&target)
    }

    /// How many neighbours there are.
    pub(super) fn neighbours(&self) -> usize {
        self.neighbours.len()
    }

    /// Know that `address` is there.
    pub(super) fn set_neighbour(&mut self, address: IpAddr, neighbour: Neighbour, word: Word) {
        if self.neighbours.set(address, neighbour, word) {
            self.dirty.insert(IpPrefix::host(address));
            self.hops = None;
        }
    }

    /// Forget that `address` is on this port.
    pub(super) fn forget_neighbour(&mut self, address: IpAddr, port: PortId) {
        if self.neighbours.remove(address, port) {
            self.dirty.insert(IpPrefix::host(address));
            self.hops = None;
        }
    }

    /// Whether `prefix` was given a target.
    pub(super) fn is_given(&self, prefix: IpPrefix) -> bool {
        self.given.contains_key(&prefix)
    }

    /// The prefixes that were given a router on `port`.
    pub(super) fn by_router_on(&self, port: PortId) -> impl Iterator<Item = IpPrefix> {
        let on_port = move |target: &Target| matches!(target, Target::Next(NextHop { port: at, via: Some(_) }) if *at == port);
        self.given.iter().filter(move |(_, target)| on_port(target)).map(|(prefix, _)| *prefix)
    }

    /// Forget the neighbours on `port`.
    pub(super) fn forget_port(&mut self, port: PortId) {
        let gone: Vec<_> = self.neighbours.on_port(port).collect();
        gone.into_iter().for_each(|address| self.forget_neighbour(address, port));
    }

    /// These backends have addresses of their own, and no others. A guest is where its backend says, whatever was heard.
    pub(super) fn set_locators(&mut self, locators: HashMap<IpAddr, Neighbour>) {
        if locators == self.locators {
            return;
        }
        let before = std::mem::replace(&mut self.locators, locators);
        for address in before.keys().chain(self.locators.keys()) {
            if before.get(address) != self.locators.get(address) {
                self.dirty.insert(IpPrefix::host(*address));
            }
        }
        self.hops = None;
    }

    /// These are the box's own addresses, and no others.
    pub(super) fn set_own(&mut self, own: BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.own, own);
        let changed = before.symmetric_difference(&self.own);
        self.dirty.extend(changed.map(|address| IpPrefix::host(*address)));
        self.hops = None;
    }

    /// What the tables are to be told since the last time.
    pub(super) fn take_changes(&mut self) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        for prefix in std::mem::take(&mut self.dirty) {
            // Taken before the old one is given back, so that it keeps its number where nothing changes.
            let number = self.target(prefix).and_then(|target| self.number(prefix, target));
            let before = match number {
                Some(number) => self.told.insert(prefix, number),
                None => self.told.remove(&prefix),
            };
            if let Some(before) = before {
                self.numbers.give_back(before);
            }
            if number != before {
                changes.push(RouteChange { prefix, hop: number });
                self.hops = None;
            }
        }
        changes
    }

    fn number(&mut self, prefix: IpPrefix, target: Target) -> Option<HopNumber> {
        let number = self.numbers.take(target);
        if number.is_none() {
            tracing::warn!(%prefix, most = MOST_HOPS, "no route: too many next hops");
        }
        number
    }

    /// Where `prefix` leads itself.
    fn target(&self, prefix: IpPrefix) -> Option<Target> {
        let address = prefix.address();
        let given = self.given.get(&prefix).copied();
        if IpPrefix::host(address) != prefix {
            return given;
        }
        if self.own.contains(&address) {
            return Some(Target::Host);
        }
        let on_link = |port| Target::Next(NextHop { port, via: Some(address) });
        if let Some(locator) = self.locators.get(&address) {
            return Some(on_link(locator.port));
        }
        match given {
            // The address itself is the router.
            Some(Target::Next(NextHop { port, via: None })) => Some(on_link(port)),
            Some(given) => Some(given),
            None => {
                let ours = || self.neighbours.ours(address).map(|neighbour| neighbour.port);
                let is_there = |port: &PortId| self.neighbours.on(address, *port).is_some();
                ours().or_else(|| self.link_of(address).filter(is_there)).map(on_link)
            }
        }
    }

    /// The port on whose link `address` is by the routes; `None` when they lead it elsewhere.
    fn link_of(&self, address: IpAddr) -> Option<PortId> {
        let lengths = (0..=IpPrefix::host(address).len()).rev();
        let mut prefixes = lengths.filter_map(|len| IpPrefix::new(address, len));
        match prefixes.find_map(|prefix| self.given.get(&prefix)) {
            Some(Target::Next(NextHop { port, via: None })) => Some(*port),
            _ => None,
        }
    }

    /// What the numbers mean on these ports.
    pub(super) fn hops(&mut self, ports: &[Option<Port>]) -> Arc<[Hop]> {
        if let Some(hops) = &self.hops {
            return Arc::clone(hops);
        }
        let hop = |target: &Option<(Target, u32)>| match target {
            Some((Target::Next(next), _)) => self.hop(*next, ports),
            Some((Target::Host, _)) => Hop::Host,
            Some((Target::Unreachable, _)) | None => Hop::Unreachable,
            Some((Target::Blackhole, _)) => Hop::Blackhole,
        };
        let hops: Arc<[Hop]> = self.numbers.targets.iter().map(hop).collect();
        self.hops = Some(Arc::clone(&hops));
        hops
    }

    fn hop(&self, next: NextHop, ports: &[Option<Port>]) -> Hop {
        let known = |via: IpAddr| {
            let locator = self.locators.get(&via).filter(|it| it.port == next.port).copied();
            let neighbour = || {
                let mac = self.neighbours.on(via, next.port)?;
                Some(Neighbour { port: next.port, mac })
            };
            LinkHop::new(locator.or_else(neighbour)?, ports)
        };
        let link = next.via.and_then(known);
        link.map_or(Hop::Unresolved { port: next.port, via: next.via }, Hop::Link)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_dataplane::{packet::Mac, steering::PortId};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn prefix(text: &str) -> IpPrefix {
        text.parse().expect("a prefix")
    }

    fn next(port: u16, via: Option<&str>) -> Option<Target> {
        Some(Target::Next(NextHop { port: PortId(port), via: via.map(ip) }))
    }

    fn neighbour(port: u16, last: u8) -> Neighbour {
        Neighbour { port: PortId(port), mac: Mac([2, 0, 0, 0, 0, last]) }
    }

    fn ports() -> Vec<Option<Port>> {
        let port = |number| {
            Some(Port {
                mac: Mac([2, 0, 0, 0, 1, number as u8]),
                addresses: vec![],
                role: tidegate_dataplane::steering::PortRole::Access,
                link: tidegate_dataplane::steering::Link::untagged(PortId(number)),
                twin: None,
            })
        };
        (0..3).map(port).collect()
    }

    /// The port behind which `prefix` is by what the tables were told.
    fn told_port(routes: &Routes, prefix: IpPrefix) -> Option<PortId> {
        let number = routes.told.get(&prefix)?;
        match routes.numbers.targets[usize::from(*number)] {
            Some((Target::Next(next), _)) => Some(next.port),
            _ => None,
        }
    }

    /// The hop of `prefix` by what the tables were told.
    fn hop(routes: &mut Routes, text: &str) -> Option<Hop> {
        let number = *routes.told.get(&prefix(text))?;
        Some(routes.hops(&ports())[usize::from(number)])
    }

    #[test]
    fn a_change_touches_its_prefix_alone() {
        let mut routes = Routes::default();
        routes.set(prefix("10.0.0.0/8"), next(0, Some("10.9.0.254")));
        routes.set(prefix("10.9.0.0/24"), next(0, None));
        assert_eq!(routes.take_changes().len(), 2);
        assert_eq!(routes.take_changes(), []);
        let unresolved = Hop::Unresolved { port: PortId(0), via: Some(ip("10.9.0.254")) };
        assert_eq!(hop(&mut routes, "10.0.0.0/8"), Some(unresolved));

        // The router is heard of: it has a route of its own, and all routes by it are resolved without a change.
        routes.set_neighbour(ip("10.9.0.254"), neighbour(0, 7), Word::Ours);
        let changes = routes.take_changes();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].prefix, prefix("10.9.0.254/32"));
        for text in ["10.0.0.0/8", "10.9.0.254/32"] {
            assert!(
                matches!(hop(&mut routes, text), Some(Hop::Link(link)) if link.port == PortId(0))
            );
        }
        // A new MAC changes the hop and no table.
        routes.set_neighbour(ip("10.9.0.254"), neighbour(0, 8), Word::Ours);
        assert_eq!(routes.take_changes(), []);
        let Some(Hop::Link(link)) = hop(&mut routes, "10.0.0.0/8") else { panic!("a link") };
        assert_eq!(link.header.destination(), Mac([2, 0, 0, 0, 0, 8]));

        routes.forget_neighbour(ip("10.9.0.254"), PortId(0));
        let gone = RouteChange { prefix: prefix("10.9.0.254/32"), hop: None };
        assert_eq!(routes.take_changes(), [gone]);
        assert_eq!(hop(&mut routes, "10.0.0.0/8"), Some(unresolved));
    }

    #[test]
    fn a_port_takes_its_neighbours_along() {
        let mut routes = Routes::default();
        for (port, last) in [(1, 5), (1, 6), (2, 7)] {
            routes.set_neighbour(ip(&format!("10.8.0.{last}")), neighbour(port, last), Word::Ours);
        }
        routes.set_neighbour(ip("10.8.0.7"), neighbour(1, 8), Word::Kernel);
        routes.take_changes();
        routes.forget_port(PortId(1));
        assert_eq!(routes.take_changes().len(), 2, "10.8.0.7 is where it was");
        assert_eq!(routes.neighbours(), 1);
        assert_eq!(told_port(&routes, prefix("10.8.0.7/32")), Some(PortId(2)));
        assert_eq!(told_port(&routes, prefix("10.8.0.5/32")), None);
    }

    #[test]
    fn who_comes_first() {
        let mut routes = Routes::default();
        let host = prefix("10.8.0.11/32");
        routes.set_neighbour(ip("10.8.0.11"), neighbour(0, 1), Word::Ours);
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(0)));
        routes.set(host, next(1, Some("10.9.0.254")));
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(1)), "a route before a neighbour");
        routes.set_locators([(ip("10.8.0.11"), neighbour(2, 3))].into());
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(2)), "a backend before a route");
        routes.set_own([ip("10.8.0.11")].into());
        routes.take_changes();
        assert_eq!(hop(&mut routes, "10.8.0.11/32"), Some(Hop::Host), "oneself before all");
        routes.set_own(BTreeSet::new());
        routes.set_locators(HashMap::new());
        routes.set(host, None);
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(0)));
    }

    #[test]
    fn what_the_kernel_heard_counts_on_the_link_that_routes_lead_to() {
        let mut routes = Routes::default();
        routes.set(prefix("10.9.0.0/24"), next(0, None));
        let host = prefix("10.9.0.5/32");
        // A guest says that it has an address of the uplink's.
        routes.set_neighbour(ip("10.9.0.5"), neighbour(1, 66), Word::Kernel);
        routes.take_changes();
        assert_eq!(told_port(&routes, host), None);
        routes.set_neighbour(ip("10.9.0.5"), neighbour(0, 5), Word::Kernel);
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(0)));
        // It is behind the guest's port indeed, by a route of its own or a larger one.
        for text in ["10.9.0.5/32", "10.9.0.4/30"] {
            routes.set(prefix(text), next(1, None));
            routes.take_changes();
            assert_eq!(told_port(&routes, host), Some(PortId(1)), "{text}");
            let Some(Hop::Link(link)) = hop(&mut routes, "10.9.0.5/32") else { panic!("{text}") };
            assert_eq!(link.header.destination(), Mac([2, 0, 0, 0, 0, 66]));
            routes.set(prefix(text), None);
            routes.take_changes();
            assert_eq!(told_port(&routes, host), Some(PortId(0)), "{text}");
        }
        // A router stands before it.
        routes.set(prefix("10.9.0.4/30"), next(1, Some("10.9.0.9")));
        routes.take_changes();
        assert_eq!(told_port(&routes, host), None);
        routes.set(prefix("10.9.0.4/30"), None);
        // It is forgotten where it was not looked for, and then where it was.
        routes.forget_neighbour(ip("10.9.0.5"), PortId(1));
        routes.take_changes();
        assert_eq!(told_port(&routes, host), Some(PortId(0)));
        routes.forget_neighbour(ip("10.9.0.5"), PortId(0));
        routes.take_changes();
        assert_eq!(told_port(&routes, host), None);
    }

    #[test]
    fn routers_with_link_local_addresses() {
        let mut routes = Routes::default();
        routes.set(prefix("2001:db8:1::/48"), next(0, Some("fe80::1")));
        routes.set(prefix("2001:db8:2::/48"), next(1, Some("fe80::1")));
        routes.set_neighbour(ip("fe80::1"), neighbour(0, 1), Word::Kernel);
        routes.set_neighbour(ip("fe80::1"), neighbour(1, 2), Word::Kernel);
        routes.take_changes();
        for (text, port, last) in [("2001:db8:1::/48", 0, 1), ("2001:db8:2::/48", 1, 2)] {
            let Some(Hop::Link(link)) = hop(&mut routes, text) else { panic!("{text}") };
            let mac = link.header.destination();
            assert_eq!((link.port, mac), (PortId(port), Mac([2, 0, 0, 0, 0, last])));
        }
        assert_eq!(told_port(&routes, prefix("fe80::1/128")), None);
    }

    #[test]
    fn numbers_are_used_again_and_run_out() {
        let mut routes = Routes::default();
        for round in 0..3u32 {
            for n in 0..MOST_HOPS as u32 {
                let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
                routes.set_neighbour(address, neighbour(0, round as u8), Word::Ours);
            }
            let told = routes.take_changes().iter().filter(|change| change.hop.is_some()).count();
            assert_eq!(told, MOST_HOPS - 1, "0 is taken");
            assert_eq!(routes.hops(&ports()).len(), MOST_HOPS);
            for n in 0..MOST_HOPS as u32 {
                let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
                routes.forget_neighbour(address, PortId(0));
            }
            routes.take_changes();
            assert!(routes.told.is_empty());
        }
    }
}
