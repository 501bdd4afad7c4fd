//! Tunnels as packets see them: what follows from ports and routes is worked out once.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::{Family, Hop, Link, LinkHop, Port, PortId, Snapshot, SnapshotError, Tunnel};
use crate::packet::{
    Address, Packet, Transport,
    tunnel::{Channel, Encap, Inside, Outer},
};

/// How packets get to the other end of a tunnel.
#[derive(Clone, Debug)]
pub enum Underlay {
    /// Wrapped in this, by this device.
    Ready {
        /// What is put before each packet.
        outer: Box<Outer>,
        /// The device that carries them.
        device: PortId,
        /// Bytes of the largest IP packet that fits inside.
        mtu: u16,
    },
    /// By a neighbour whose MAC is not known.
    Unresolved {
        /// The port of the neighbour's link.
        port: PortId,
        /// The neighbour.
        address: IpAddr,
    },
    /// Not at all: there is no route, or one that leads to the box itself or into another tunnel.
    Unreachable,
}

/// Both ends of a tunnel, and what shows on its packets.
type Ends<C> = (IpAddr, IpAddr, C);

/// The tunnels among the ports.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    underlays: HashMap<PortId, Underlay, RandomState>,
    by_ends: HashMap<Ends<Encap>, PortId, RandomState>,
    fragmented: HashSet<Ends<Channel>, RandomState>,
}

/// What a packet to the end of a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// One that came through the tunnel of this port.
    Through(PortId, Encap),
    /// A piece of one.
    Fragment,
    /// None of a tunnel's.
    Other,
}

impl Tunnels {
    /// Those among the ports of `snapshot`.
    pub(super) fn new(snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let mut tunnels = Self::default();
        let mut datagrams: HashMap<Ends<u16>, bool, RandomState> = HashMap::default();
        for (id, tunnel) in among(&snapshot.ports) {
            let Tunnel { encap, local, remote } = tunnel;
            if local.is_ipv4() != remote.is_ipv4() {
                return Err(SnapshotError::TunnelFamilies { local, remote });
            }
            let twice = tunnels.by_ends.insert((local, remote, encap), id).is_some();
            let mixed = udp_port(encap).is_some_and(|port| {
                let carries_frames = encap.carries_frames();
                let before = datagrams.insert((local, remote, port), carries_frames);
                before.is_some_and(|before| before != carries_frames)
            });
            if twice || mixed {
                return Err(SnapshotError::TunnelTwice { local, remote });
            }
            let channel = udp_port(encap).map_or(Channel::Ip, |_| Channel::Udp(0));
            tunnels.fragmented.insert((local, remote, channel));
            tunnels.underlays.insert(id, Underlay::of(tunnel, snapshot));
        }
        Ok(tunnels)
    }

    /// How packets get through the tunnel of this port.
    #[must_use]
    pub fn underlay(&self, port: PortId) -> &Underlay {
        self.underlays.get(&port).unwrap_or(&Underlay::Unreachable)
    }

    /// Bytes of the largest IP packet that fits into the tunnel of this port; more than there can be while its underlay is
    /// not known.
    #[must_use]
    pub fn mtu(&self, port: PortId) -> u16 {
        match self.underlay(port) {
            Underlay::Ready { mtu, .. } => *mtu,
            Underlay::Unresolved { .. } | Underlay::Unreachable => u16::MAX,
        }
    }

    /// What the packet in `frame` is, whose headers are `packet`'s and whose destination is an end of a tunnel.
    #[must_use]
    pub fn at_end<A: Address>(&self, frame: &[u8], packet: &Packet<A>) -> AtEnd {
        let (local, remote) = (packet.destination().ip(), packet.source().ip());
        let Some(channel) = Channel::of(packet) else { return AtEnd::Other };
        if packet.headers.transport == Transport::Fragment {
            let is_ours = self.fragmented.contains(&(local, remote, channel));
            return if is_ours { AtEnd::Fragment } else { AtEnd::Other };
        }
        let through = |encap| {
            let port = self.by_ends.get(&(local, remote, encap))?;
            Some(AtEnd::Through(*port, encap))
        };
        let found = match channel {
            Channel::Ip => through(Encap::Ipip),
            Channel::Udp(port) => through(Encap::Gue { port }).or_else(|| {
                let vni = Inside::vni(frame, packet)?;
                through(Encap::Vxlan { port, vni })
            }),
        };
        found.unwrap_or(AtEnd::Other)
    }
}

impl Underlay {
    /// The way to the other end of `tunnel`.
    fn of(tunnel: Tunnel, snapshot: &Snapshot) -> Self {
        let hop = match tunnel.remote {
            IpAddr::V4(remote) => snapshot.route(remote.to_bits()),
            IpAddr::V6(remote) => snapshot.route(remote.to_bits()),
        };
        match *hop {
            Hop::Link(link) => Self::by(&link, tunnel, snapshot),
            Hop::Unresolved { port, via } => {
                Self::Unresolved { port, address: via.unwrap_or(tunnel.remote) }
            }
            Hop::Unreachable | Hop::Blackhole | Hop::Host => Self::Unreachable,
        }
    }

    fn by(link: &LinkHop, tunnel: Tunnel, snapshot: &Snapshot) -> Self {
        let carrier = snapshot.port(link.port).map(|port| port.link);
        let Some(Link::Device { device, mtu, .. }) = carrier else { return Self::Unreachable };
        let outer = Outer::new(&link.header, tunnel.encap, tunnel.local, tunnel.remote);
        let mtu = mtu.saturating_sub(outer.overhead());
        Self::Ready { outer: Box::new(outer), device, mtu }
    }
}

/// The local ends in one family.
pub(super) fn local_ends<A: Family>(ports: &[Option<Port>]) -> impl Iterator<Item = A> {
    among(ports).filter_map(|(_, tunnel)| A::of(tunnel.local))
}

fn among(ports: &[Option<Port>]) -> impl Iterator<Item = (PortId, Tunnel)> {
    ports.iter().zip(0..).filter_map(|(port, number)| match port.as_ref()?.link {
        Link::Tunnel(tunnel) => Some((PortId(number), tunnel)),
        Link::Device { .. } => None,
    })
}

fn udp_port(encap: Encap) -> Option<u16> {
    match encap {
        Encap::Ipip => None,
        Encap::Gue { port } | Encap::Vxlan { port, .. } => Some(port),
    }
}
