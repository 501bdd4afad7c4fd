//! Plain forwarding: longest prefix match to a numbered next hop.
//!
//! Hosts on a link whose MAC is known have a route of their own, so that one lookup finds the way to any destination.

use std::{fmt::Debug, net::IpAddr, sync::Arc};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{IpPrefix, Link, Neighbour, Port, PortId};
use crate::packet::{Address, LinkHeader, Tags};

/// Number of a [`Hop`]; 0 is none.
pub type HopNumber = u16;

/// A prefix leads elsewhere from now on, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Which.
    pub prefix: IpPrefix,
    /// Where; `None` when there is no such route any more.
    pub hop: Option<HopNumber>,
}

/// Routes of one family, by prefix, to numbers of next hops.
///
/// Readers need no lock: a table that workers may look at is never changed.
pub trait RouteTable<A>: Debug + Send + Sync {
    /// Find the longest match for each destination; 0 where there is none.
    ///
    /// # Panics
    /// When there are fewer `hops` than `destinations`.
    fn find_all(&self, destinations: &[A], hops: &mut [HopNumber]);
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Nowhere: there is no route, or one that says so. The sender is told.
    Unreachable,
    /// Nowhere, and nobody is told: a route says so.
    Blackhole,
    /// To this neighbour.
    Link(LinkHop),
    /// To a neighbour on this port's link whose MAC is not known: the router `via`, or the destination itself.
    Unresolved {
        /// The link's port.
        port: PortId,
        /// The router.
        via: Option<IpAddr>,
    },
    /// To the box itself.
    Host,
}

impl Hop {
    /// Out of the box and in again, by [`PortId::HAIRPIN`], where everything fits.
    pub const HAIRPIN: Self = Self::Link(LinkHop {
        port: PortId::HAIRPIN,
        device: PortId::HAIRPIN,
        header: LinkHeader::NOBODY,
        plain_up_to: u16::MAX,
    });
}

/// The way to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkHop {
    /// Port it is behind.
    pub port: PortId,
    /// The device that carries the port's frames; the port itself when that is the end of a tunnel.
    pub device: PortId,
    /// The link header of frames to it; inside the tunnel, if there is one.
    pub header: LinkHeader,
    /// An IP packet of up to so many bytes leaves with nothing but both MACs before it: one that fits, on a link without
    /// tags and tunnel. 0 on other links.
    pub plain_up_to: u16,
}

impl LinkHop {
    /// To `neighbour`; `None` when there is no such port.
    #[must_use]
    pub fn new(neighbour: Neighbour, ports: &[Option<Port>]) -> Option<Self> {
        let port = ports.get(usize::from(neighbour.port.0))?.as_ref()?;
        let header = LinkHeader::new(neighbour.mac, port.mac, port.tags());
        let plain_up_to = match port.link {
            Link::Device { tags: Tags::NONE, mtu, .. } => mtu,
            Link::Device { .. } | Link::Tunnel(_) => 0,
        };
        let device = port.device().unwrap_or(neighbour.port);
        Some(Self { port: neighbour.port, device, header, plain_up_to })
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Port to leave by.
    pub port: PortId,
    /// Router to send to; `None` when the destination itself is on the link.
    pub via: Option<IpAddr>,
}

/// All routes, by what their tables answer.
#[derive(Clone, Debug)]
pub struct RouteTables {
    /// Routes of IPv4.
    pub v4: Arc<dyn RouteTable<u32>>,
    /// Routes of IPv6.
    pub v6: Arc<dyn RouteTable<u128>>,
}

impl Default for RouteTables {
    fn default() -> Self {
        let (v4, v6) = (PrefixTable::default(), PrefixTable::default());
        Self { v4: Arc::new(v4), v6: Arc::new(v6) }
    }
}

/// All routes, and what their numbers mean.
#[derive(Clone, Debug)]
pub struct Routing {
    /// The routes.
    pub tables: RouteTables,
    /// By [`HopNumber`]; the first is [`Hop::Unreachable`].
    pub hops: Arc<[Hop]>,
}

impl Routing {
    /// Routing with [`PrefixTable`]s: to the box's own addresses, to these neighbours, and along these routes; of two routes
    /// for one prefix the later one stays.
    pub fn plain(
        ports: &[Option<Port>],
        routes: impl IntoIterator<Item = (IpPrefix, NextHop)>,
        neighbours: impl IntoIterator<Item = (IpAddr, Neighbour)>,
    ) -> Self {
        let neighbours: HashMap<IpAddr, Neighbour, RandomState> = neighbours.into_iter().collect();
        let hop = |next: NextHop| {
            let router = next.via.and_then(|via| neighbours.get(&via));
            let known = router.filter(|router| router.port == next.port);
            let link = known.and_then(|router| LinkHop::new(*router, ports));
            let unresolved = Hop::Unresolved { port: next.port, via: next.via };
            link.map_or(unresolved, Hop::Link)
        };
        let along = routes.into_iter().map(|(prefix, next)| (prefix, hop(next)));
        let beside = neighbours.iter().filter_map(|(address, neighbour)| {
            Some((IpPrefix::host(*address), Hop::Link(LinkHop::new(*neighbour, ports)?)))
        });
        let own = ports.iter().flatten().flat_map(|port| &port.addresses);
        let own = own.map(|address| (IpPrefix::host(*address), Hop::Host));
        let (mut v4, mut v6) = (PrefixTable::default(), PrefixTable::default());
        let mut hops = vec![Hop::Unreachable];
        let mut numbers: HashMap<Hop, HopNumber, RandomState> = HashMap::default();
        for (prefix, hop) in along.chain(beside).chain(own) {
            let number = *numbers.entry(hop).or_insert_with(|| {
                hops.push(hop);
                // What no number is left for is unreachable.
                HopNumber::try_from(hops.len() - 1).unwrap_or(0)
            });
            match prefix.address() {
                IpAddr::V4(address) => v4.insert(address.to_bits(), prefix.len(), number),
                IpAddr::V6(address) => v6.insert(address.to_bits(), prefix.len(), number),
            }
        }
        let tables = RouteTables { v4: Arc::new(v4), v6: Arc::new(v6) };
        Self { tables, hops: hops.into() }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self { tables: RouteTables::default(), hops: [Hop::Unreachable].into() }
    }
}

/// Routes in maps by prefix length, longest first: for boxes with few routes, and for tests.
#[derive(Clone, Debug)]
pub struct PrefixTable<A> {
    lengths: Vec<(u8, HashMap<A, HopNumber, RandomState>)>,
}

impl<A> Default for PrefixTable<A> {
    fn default() -> Self {
        Self { lengths: Vec::new() }
    }
}

impl<A: Address> PrefixTable<A> {
    /// Add the route to the first `len` bits of `address`, or change where it leads.
    pub fn insert(&mut self, address: A, len: u8, hop: HopNumber) {
        let at = self.lengths.partition_point(|(other, _)| *other > len);
        if self.lengths.get(at).is_none_or(|(other, _)| *other != len) {
            self.lengths.insert(at, (len, HashMap::with_hasher(RandomState::new())));
        }
        self.lengths[at].1.insert(address.masked(len), hop);
    }

    /// Forget the route to the first `len` bits of `address`.
    pub fn remove(&mut self, address: A, len: u8) {
        let Some(at) = self.lengths.iter().position(|(other, _)| *other == len) else { return };
        self.lengths[at].1.remove(&address.masked(len));
        if self.lengths[at].1.is_empty() {
            self.lengths.remove(at);
        }
    }

    fn find(&self, destination: A) -> HopNumber {
        let longest = self
            .lengths
            .iter()
            .find_map(|(len, routes)| routes.get(&destination.masked(*len)).copied());
        longest.unwrap_or(0)
    }
}

impl<A: Address> RouteTable<A> for PrefixTable<A> {
    fn find_all(&self, destinations: &[A], hops: &mut [HopNumber]) {
        for (destination, hop) in destinations.iter().zip(&mut hops[..destinations.len()]) {
            *hop = self.find(*destination);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equals_a_linear_scan<A: Address>(routes: Vec<(A, u8)>, wanted: Vec<A>) {
        let mut table = PrefixTable::default();
        for ((address, len), hop) in routes.iter().zip(1..) {
            table.insert(*address, *len, hop);
        }
        let mut hops = vec![u16::MAX; wanted.len() + 1];
        table.find_all(&wanted, &mut hops);
        assert_eq!(hops.pop(), Some(u16::MAX), "one more than asked for");
        for (address, hop) in wanted.into_iter().zip(hops) {
            // Of two routes for one prefix the later one.
            let matches = |(at, len): &(A, u8)| at.masked(*len) == address.masked(*len);
            let longest = (1..).zip(&routes).filter(|(_, route)| matches(route));
            let longest = longest.max_by_key(|(number, (_, len))| (*len, *number));
            assert_eq!(hop, longest.map_or(0, |(number, _)| number));
        }
    }

    proptest! {
        #[test]
        fn v4_equals_a_linear_scan(
            routes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            near in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..20),
        ) {
            let address = |(at, bit): (prop::sample::Index, u32)| {
                routes.get(at.index(routes.len().max(1))).map_or(7, |(address, _)| address ^ bit)
            };
            let wanted = near.into_iter().map(address).collect();
            equals_a_linear_scan(routes, wanted);
        }

        #[test]
        fn v6_equals_a_linear_scan(
            routes in prop::collection::vec((0u128..9, 0u8..=128), 0..20),
            wanted in prop::collection::vec(0u128..9, 1..20),
        ) {
            let spread = |low: u128| low << 125 | low;
            let routes = routes.into_iter().map(|(at, len)| (spread(at), len)).collect();
            equals_a_linear_scan(routes, wanted.into_iter().map(spread).collect());
        }
    }
}
