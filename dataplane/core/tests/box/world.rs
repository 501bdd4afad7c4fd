//! The network the tests' box stands in.
//!
//! Tests write addresses as IPv4 numbers. Where [`OVER_IPV6`](crate::OVER_IPV6) is set, each stands for the IPv6 address
//! that ends in it, and everything is the same over IPv6.
//!
//! ```text
//! clients 10.9.0.0/24 ── port 0 (uplink) ┐   ┌ port 1 (access) ── VM "old", locator 10.8.0.11
//! 10.77.0.0/16 ── router 10.9.0.254 ─────┘box├ port 2 (access) ── VM "new", locator 10.8.0.12
//! 10.11.0.0/24 ── port 7 (uplink) ───────┘   └ port 3 (access) ── bystander 10.7.0.33, ends of tunnels
//!                   └ port 8, the kernel's
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_dataplane::{
    packet::Mac,
    session::{SessionRecord, SessionState},
    steering::{
        Backend, BackendSlot, Hop, IpPrefix, Link, ManagedAddress, Neighbour, NextHop, Port,
        PortId, PortRole, Rewrite, Routing, Snapshot,
    },
};

use super::carrier;

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const OLD_PORT: PortId = PortId(1);
pub(crate) const NEW_PORT: PortId = PortId(2);
pub(crate) const OTHER_PORT: PortId = PortId(3);
/// An uplink behind which the kernel stands.
pub(crate) const KERNEL_UPLINK: PortId = PortId(7);
/// The port by which it does.
pub(crate) const TWIN: PortId = PortId(8);

/// The managed address.
pub(crate) const SERVICE: u32 = 0x0a09_0064;
/// A managed address beside it.
pub(crate) const SECOND: u32 = 0x0a09_0065;
/// The box's own address on the uplink.
pub(crate) const BOX: u32 = 0x0a09_0001;
/// The box's own address on port 3.
pub(crate) const BOX_INSIDE: u32 = 0x0a07_0001;
pub(crate) const CLIENT: u32 = 0x0a09_0002;
pub(crate) const CLIENT_2: u32 = 0x0a09_0003;
/// A client behind the router.
pub(crate) const FAR_CLIENT: u32 = 0x0a4d_0005;
pub(crate) const ROUTER: u32 = 0x0a09_00fe;
/// On the uplink's link, MAC not known.
pub(crate) const SILENT: u32 = 0x0a09_0077;
pub(crate) const BYSTANDER: u32 = 0x0a07_0021;
/// The box's own address on the uplink's VLAN.
pub(crate) const BOX_TAGGED: u32 = 0x0a0a_0001;
/// A client there.
pub(crate) const TAGGED_CLIENT: u32 = 0x0a0a_0002;
/// The box's own address inside each tunnel.
pub(crate) const GATEWAY: u32 = 0x0a08_0001;
/// The box's own address on the uplink that has a twin.
pub(crate) const BOX_BY_KERNEL: u32 = 0x0a0b_0001;
/// A client there.
pub(crate) const KERNEL_CLIENT: u32 = 0x0a0b_0002;
/// The gateway of guests that have IPv6, the box's own address on port 1's link.
pub(crate) const LINK_LOCAL_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const UNROUTED: u32 = 0x0808_0808;
/// A route leads there, and nowhere.
pub(crate) const SWALLOWED: u32 = 0x0909_0909;
/// Locators of VMs behind other ports are this and the port's number.
const FIRST_LOCATOR: u32 = 0x0a08_0100;
const OLD_LOCATOR: u32 = 0x0a08_000b;
const NEW_LOCATOR: u32 = 0x0a08_000c;

/// The IPv6 prefix in which the network is, when it is over IPv6.
const PREFIX: u128 = 0x2001_0db8 << 96;

/// The address that a test writes as `number`.
///
/// Groups are groups and zero is zero in both families.
pub(crate) fn ip(number: u32) -> IpAddr {
    if !crate::OVER_IPV6 {
        return Ipv4Addr::from_bits(number).into();
    }
    let prefix = match number {
        0 => 0,
        0xe000_0000.. => 0xff02 << 112,
        _ => PREFIX,
    };
    Ipv6Addr::from_bits(prefix | u128::from(number)).into()
}

/// How a test writes `address`.
pub(crate) fn number(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            assert_eq!(address.to_bits() & !0xffff_ffff, PREFIX, "an address of this network");
            address.to_bits() as u32
        }
    }
}

/// How a VM is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nat,
    L2,
}

/// A VM that can be a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vm {
    pub(crate) backend: Backend,
    /// Its own address, whether or not the box rewrites to it.
    pub(crate) locator: u32,
}

impl Vm {
    /// The VM on port 1.
    pub(crate) fn old(slot: u32, mode: Mode) -> Self {
        Self::on(OLD_PORT, OLD_LOCATOR, slot, mode)
    }

    /// The VM on port 2.
    pub(crate) fn new(slot: u32, mode: Mode) -> Self {
        Self::on(NEW_PORT, NEW_LOCATOR, slot, mode)
    }

    /// A VM behind any other port.
    pub(crate) fn behind(port: PortId, slot: u32, mode: Mode) -> Self {
        let mut vm = Self::on(port, FIRST_LOCATOR + u32::from(port.0), slot, mode);
        if let Link::Tunnel(tunnel) = carrier::link(port)
            && !tunnel.encap.carries_frames()
        {
            vm.backend.mac = carrier::NO_MAC;
        }
        vm
    }

    fn on(port: PortId, locator: u32, slot: u32, mode: Mode) -> Self {
        let rewrite = match mode {
            Mode::Nat => Rewrite::Nat(ip(locator)),
            Mode::L2 => Rewrite::L2,
        };
        let mac = host_mac(locator);
        Self { backend: Backend { slot: BackendSlot(slot), port, mac, rewrite }, locator }
    }

    pub(crate) fn mode(&self) -> Mode {
        if self.backend.rewrite == Rewrite::L2 { Mode::L2 } else { Mode::Nat }
    }

    /// The address it serves under, as it knows it itself.
    pub(crate) fn speaks_as(&self) -> u32 {
        if self.mode() == Mode::L2 { SERVICE } else { self.locator }
    }
}

/// MAC of the box's port.
pub(crate) fn port_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0 as u8])
}

/// MAC of the host with this address.
pub(crate) fn host_mac(address: u32) -> Mac {
    let [a, b, c, d] = address.to_be_bytes();
    Mac([6, 0, a, b, c, d])
}

/// The managed address at rest, tracked, not hosted yet.
pub(crate) fn managed(home: Vm) -> ManagedAddress {
    ManagedAddress {
        address: ip(SERVICE),
        hosted: false,
        tracked: true,
        epoch: 1,
        home: home.backend,
        destination: None,
        quic: None,
    }
}

pub(crate) fn snapshot(
    generation: u64,
    addresses: impl IntoIterator<Item = ManagedAddress>,
) -> Snapshot {
    let port = |id, addresses: &[u32], role| {
        Some(Port {
            mac: port_mac(PortId(id)),
            addresses: addresses.iter().map(|address| ip(*address)).collect(),
            role,
            link: carrier::link(PortId(id)),
            twin: None,
        })
    };
    let mut ports = vec![
        port(0, &[BOX], PortRole::Uplink),
        port(1, &[], PortRole::Access),
        port(2, &[], PortRole::Access),
        port(3, &[BOX_INSIDE], PortRole::Access),
        port(4, &[], PortRole::Access),
        port(5, &[], PortRole::Access),
        port(6, &[BOX_TAGGED], PortRole::Uplink),
        port(KERNEL_UPLINK.0, &[BOX_BY_KERNEL], PortRole::Uplink),
        port(TWIN.0, &[], PortRole::Twin(KERNEL_UPLINK)),
    ];
    if let Some(guests) = &mut ports[1] {
        guests.addresses.push(LINK_LOCAL_GATEWAY.into());
    }
    if let Some(by_kernel) = &mut ports[7] {
        by_kernel.twin = Some(TWIN);
    }
    if let Some(other) = &mut ports[3] {
        other.addresses.extend(carrier::local_ends());
    }
    ports.resize(usize::from(carrier::TUNNELS[0].0), None);
    let tunnels = carrier::TUNNELS.into_iter().chain([carrier::SILENT_TUNNEL]);
    ports.extend(tunnels.map(|tunnel| port(tunnel.0, &[GATEWAY], PortRole::Access)));
    let route = |address, len, port, via: Option<u32>| {
        let len = if crate::OVER_IPV6 { 96 + len } else { len };
        let prefix = IpPrefix::new(ip(address), len).expect("a prefix");
        (prefix, NextHop { port, via: via.map(ip) })
    };
    let routes = [
        route(BOX, 24, UPLINK, None),
        route(FAR_CLIENT, 16, UPLINK, Some(ROUTER)),
        route(BOX_INSIDE, 24, OTHER_PORT, None),
        route(OLD_LOCATOR, 32, OLD_PORT, None),
        route(NEW_LOCATOR, 32, NEW_PORT, None),
        route(BOX_TAGGED, 24, carrier::UPLINK_VLAN, None),
        route(BOX_BY_KERNEL, 24, KERNEL_UPLINK, None),
        route(SWALLOWED, 32, UPLINK, Some(SWALLOWED)),
    ];
    let to_silent = IpPrefix::host(carrier::outer_ip(carrier::SILENT_REMOTE, false));
    let to_silent = (to_silent, NextHop { port: OTHER_PORT, via: None });
    let routes = routes.into_iter().chain([to_silent]);
    let neighbour = |address, port| (ip(address), Neighbour { port, mac: host_mac(address) });
    let neighbours = [
        neighbour(CLIENT, UPLINK),
        neighbour(CLIENT_2, UPLINK),
        neighbour(ROUTER, UPLINK),
        neighbour(BYSTANDER, OTHER_PORT),
        neighbour(OLD_LOCATOR, OLD_PORT),
        neighbour(NEW_LOCATOR, NEW_PORT),
        neighbour(TAGGED_CLIENT, carrier::UPLINK_VLAN),
    ];
    let neighbours = neighbours.into_iter().chain(carrier::remote_ends());
    let routing = Routing::plain(&ports, routes, neighbours);
    let swallowed = Hop::Unresolved { port: UPLINK, via: Some(ip(SWALLOWED)) };
    let hops = routing.hops.iter();
    let hops = hops.map(|hop| if *hop == swallowed { Hop::Blackhole } else { *hop }).collect();
    let routing = Routing { hops, ..routing };
    Snapshot::new(generation, ports, addresses, routing).expect("snapshot")
}

pub(crate) fn is_live(session: &SessionRecord) -> bool {
    session.state != SessionState::Lingering
}
