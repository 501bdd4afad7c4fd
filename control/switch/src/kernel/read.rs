//! The kernel's messages, read into what the mirror is about.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
        RouteNextHopFlags, RouteType, RouteVia,
    },
};
use tidegate_dataplane::{packet::Mac, steering::IpPrefix};

/// The table of the kernel's own addresses (rtnetlink(7)).
const TABLE_LOCAL: u32 = 255;

/// One of the routes to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The less, the sooner it is used.
    pub(super) rank: Rank,
    /// Where it leads.
    pub(super) way: Way,
}

/// What the kernel looks at first: its own addresses, then the least metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    is_of_main: bool,
    metric: u32,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the box itself.
    Host,
    /// Nowhere.
    Nowhere,
    /// Nowhere, and nobody is told.
    Blackhole,
    /// By one of these; never empty.
    By(Vec<KernelHop>),
}

/// A next hop as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelHop {
    /// Index of its interface.
    pub(super) interface: u32,
    /// The router, which may be of the other family (RFC 8950); `None` for the link itself.
    pub(super) router: Option<IpAddr>,
    /// The kernel does not use it for now.
    pub(super) is_dead: bool,
}

impl KernelHop {
    /// Whether it is the same one, dead or alive.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.interface, self.router) == (other.interface, other.router)
    }
}

impl Way {
    /// Whether it is the same one, whatever of it is dead.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::By(a), Self::By(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is(b))
            }
            _ => self == other,
        }
    }

    /// Its next hops; none if it needs none.
    pub(super) fn hops(&self) -> &[KernelHop] {
        match self {
            Self::By(hops) => hops,
            Self::Host | Self::Nowhere | Self::Blackhole => &[],
        }
    }
}

/// A neighbour as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelNeighbour {
    /// Index of its interface.
    pub(super) interface: u32,
    /// Its address.
    pub(super) address: IpAddr,
    /// What is known of it.
    pub(super) state: Known,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It has this MAC.
    Is(Mac),
    /// It had this MAC when it was last heard of.
    Was(Mac),
    /// It is being looked for: until that has failed, the last MAC is the best there is.
    Sought,
    /// It does not answer, or is nobody a packet can be sent to.
    Not,
}

/// An interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// Whether it is set up.
    pub(super) is_up: bool,
}

/// Index and state of an interface; `None` when it has no name, which each has.
pub(super) fn interface(message: &LinkMessage) -> Option<(u32, Interface)> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let is_up = message.header.flags.contains(LinkFlags::Up);
    Some((message.header.index, Interface { name, is_up }))
}

/// The neighbour a message is about; `None` for what is none: groups, addresses that are answered for.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<KernelNeighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => {
                address = Some(IpAddr::V4(*it));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => {
                address = Some(IpAddr::V6(*it));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.first_chunk::<6>().map(|bytes| Mac(*bytes));
            }
            _ => {}
        }
    }
    let address = address.filter(|it| !it.is_multicast())?;
    let mac = mac.filter(|mac| !mac.is_group());
    use NeighbourState::{Delay, Incomplete, Permanent, Probe, Reachable, Stale};
    let state = match (message.header.state, mac) {
        (Reachable | Delay | Probe | Permanent, Some(mac)) => Known::Is(mac),
        (Stale, Some(mac)) => Known::Was(mac),
        (Incomplete, _) => Known::Sought,
        _ => Known::Not,
    };
    Some(KernelNeighbour { interface: message.header.ifindex, address, state })
}

/// A route to a prefix that counts for all packets to it; `None` for others, and for what workers do not route.
pub(super) fn route(message: &RouteMessage) -> Option<(IpPrefix, Route)> {
    let header = &message.header;
    // A route for some packets only: of a kind of service, from some sources, or learned from one packet.
    let is_special = header.tos != 0
        || header.source_prefix_length != 0
        || header.flags.contains(RouteFlags::Cloned);
    if is_special {
        return None;
    }
    let mut table = u32::from(header.table);
    let (mut metric, mut destination) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(address) => destination = ip(address),
            _ => {}
        }
    }
    let is_of_main = match (table, header.kind) {
        (TABLE_LOCAL, RouteType::Local) => false,
        (table, _) if table == u32::from(RouteHeader::RT_TABLE_MAIN) => true,
        _ => return None,
    };
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let destination = destination.unwrap_or(any);
    let is_nobodys = match destination {
        IpAddr::V4(it) => it.is_loopback(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unicast_link_local() || it.is_multicast(),
    };
    if is_nobodys {
        return None;
    }
    let prefix = IpPrefix::new(destination, header.destination_prefix_length)?;
    Some((prefix, Route { rank: Rank { is_of_main, metric }, way: way(message)? }))
}

fn way(message: &RouteMessage) -> Option<Way> {
    match message.header.kind {
        RouteType::Unicast => {
            let hops = hops(message);
            // Without one it leads by a next hop object that the kernel did not spell out.
            Some(if hops.is_empty() { Way::Nowhere } else { Way::By(hops) })
        }
        RouteType::Local => Some(Way::Host),
        RouteType::BlackHole => Some(Way::Blackhole),
        RouteType::Unreachable
        | RouteType::Prohibit
        // It would lead on to a table that nobody fills.
        | RouteType::Throw => Some(Way::Nowhere),
        _ => None,
    }
}

fn hops(message: &RouteMessage) -> Vec<KernelHop> {
    let mut interface = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => return hops.iter().map(hop_of_several).collect(),
            _ => {}
        }
    }
    let is_dead = message.header.flags.contains(RouteFlags::Dead);
    let router = message.attributes.iter().find_map(router);
    interface.map(|interface| KernelHop { interface, router, is_dead }).into_iter().collect()
}

fn hop_of_several(hop: &RouteNextHop) -> KernelHop {
    KernelHop {
        interface: hop.interface_index,
        router: hop.attributes.iter().find_map(router),
        is_dead: hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
