//! The network the oracle's box stands in, the same in both families.
//!
//! ```text
//! device 0 ┬ port 0 (uplink)             10.9.0.0/24: clients, router 10.9.0.254 to 10.77.0.0/16, managed addresses
//!          └ port 4 (uplink, VLAN 200)   10.10.0.0/24: clients
//! device 1 ┬ port 1 (access)             VMs 10.8.0.10, .14, .18
//!          └ port 5 (access, VLAN 7)     VMs 10.8.0.12, .16, .20
//! device 2 ┬ port 2 (access)             VMs 10.8.0.11, .15, .19
//!          └ port 6 (access, QinQ 100.7) VMs 10.8.0.13, .17, .21
//! device 3 ─ port 3 (access)             10.7.0.0/24: bystanders
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_dataplane::{
    packet::{Mac, Tags},
    steering::{
        Backend, BackendSlot, ETHERNET_MTU, IpPrefix, Link, Neighbour, NextHop, Port, PortId,
        PortRole, Quic, Rewrite, Routing,
    },
};

use crate::packet::ID_LEN;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const BYSTANDERS: PortId = PortId(3);
pub(crate) const TAGGED_UPLINK: PortId = PortId(4);
/// Where that comes in which one VM of the box sends another.
pub(crate) const AGAIN: PortId = PortId::HAIRPIN;
/// VMs are behind these in turn.
const VM_PORTS: [PortId; 4] = [PortId(1), PortId(2), PortId(5), PortId(6)];
/// Device and tags of each port.
const DEVICES: [(u16, u16, Option<u16>); 7] = [
    (0, 0, None),
    (1, 0, None),
    (2, 0, None),
    (3, 0, None),
    (0, 200, None),
    (1, 7, None),
    (2, 100, Some(7)),
];

const BOX: u32 = 0x0a09_0001;
const ROUTER: u32 = 0x0a09_00fe;
const FAR: u32 = 0x0a4d_0000;
const TAGGED: u32 = 0x0a0a_0000;
const BYSTANDER_LINK: u32 = 0x0a07_0000;
const NEAR: u32 = 0x0a09_0000;
const CLIENTS: [u32; 5] = [NEAR + 2, NEAR + 3, FAR + 5, FAR + 6, TAGGED + 2];
const BYSTANDER: u32 = BYSTANDER_LINK + 0x21;
const SILENT: u32 = NEAR + 0x77;
const UNROUTED: u32 = 0x0808_0808;
const FIRST_MANAGED: u32 = NEAR + 0x64;
const FIRST_LOCATOR: u32 = 0x0a08_000a;

/// Where an address speaks QUIC, if it does.
pub(crate) const QUIC: Quic = Quic { ports: [443, 0, 0, 0], connection_id_len: ID_LEN };

/// Managed addresses in each family.
pub(crate) const ADDRESSES: u32 = 3;
/// How many VMs there are in each family.
pub(crate) const VMS: u32 = 12;

const V6_PREFIX: u128 = 0x2001_0db8 << 96;

fn ip(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(number).into(),
        Family::V6 => Ipv6Addr::from_bits(V6_PREFIX | u128::from(number)).into(),
    }
}

fn number(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    }
}

pub(crate) fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Clients: two on the uplink's link, two behind its router, one on the tagged uplink.
pub(crate) fn clients(family: Family) -> [IpAddr; 5] {
    CLIENTS.map(|client| ip(family, client))
}

pub(crate) fn is_client(address: IpAddr) -> bool {
    CLIENTS.contains(&number(address))
}

/// Whether VMs are known by this address, or could be.
pub(crate) fn is_of_vms(address: IpAddr) -> bool {
    let number = number(address);
    (FIRST_MANAGED..FIRST_MANAGED + ADDRESSES).contains(&number)
        || (FIRST_LOCATOR..FIRST_LOCATOR + VMS).contains(&number)
}

/// The port behind which a client is.
pub(crate) fn port_of(address: IpAddr) -> PortId {
    match number(address) & 0xffff_0000 {
        TAGGED => TAGGED_UPLINK,
        BYSTANDER_LINK => BYSTANDERS,
        _ => UPLINK,
    }
}

pub(crate) fn bystander(family: Family) -> IpAddr {
    ip(family, BYSTANDER)
}

pub(crate) fn router(family: Family) -> IpAddr {
    ip(family, ROUTER)
}

/// A host of the uplink's link whose MAC is not known.
pub(crate) fn silent(family: Family) -> IpAddr {
    ip(family, SILENT)
}

pub(crate) fn unrouted(family: Family) -> IpAddr {
    ip(family, UNROUTED)
}

/// The box's own address on the uplink.
pub(crate) fn own(family: Family) -> IpAddr {
    ip(family, BOX)
}

/// The box's own address by which it speaks on a port: the port's, or its first.
pub(crate) fn own_on(port: PortId, family: Family) -> IpAddr {
    ip(
        family,
        match port {
            BYSTANDERS => BYSTANDER_LINK + 1,
            TAGGED_UPLINK => TAGGED + 1,
            _ => BOX,
        },
    )
}

/// A managed address.
pub(crate) fn managed(family: Family, which: u32) -> IpAddr {
    ip(family, FIRST_MANAGED + which)
}

/// A VM's own address, whether or not the box rewrites to it.
pub(crate) fn locator(family: Family, vm: u32) -> IpAddr {
    ip(family, FIRST_LOCATOR + vm)
}

/// A VM as a backend under `slot`.
pub(crate) fn backend(family: Family, vm: u32, slot: BackendSlot, nat: bool) -> Backend {
    let locator = locator(family, vm);
    let rewrite = if nat { Rewrite::Nat(locator) } else { Rewrite::L2 };
    let port = VM_PORTS[(vm % 4) as usize];
    Backend { slot, port, mac: mac_of(locator), rewrite }
}

/// MAC of the box's port.
pub(crate) fn port_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0 as u8])
}

/// MAC of a host.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = number(address).to_be_bytes();
    Mac([6, address.is_ipv6().into(), a, b, c, d])
}

/// The device that carries a port's frames, and the tags they have there.
pub(crate) fn wire(port: PortId) -> (PortId, Tags) {
    let (device, outer, inner) = DEVICES[usize::from(port.0)];
    let tags = if outer == 0 { Tags::NONE } else { Tags::new(outer, inner).expect("VLANs") };
    (PortId(device), tags)
}

/// The tags' VLANs, outermost first.
pub(crate) fn vlans(port: PortId) -> Vec<u16> {
    let (_, outer, inner) = DEVICES[usize::from(port.0)];
    if outer == 0 { Vec::new() } else { std::iter::once(outer).chain(inner).collect() }
}

/// Where plain forwarding takes a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    To(PortId, Mac),
    /// This neighbour's MAC is not known.
    Unresolved(PortId, IpAddr),
    Host,
    Nowhere,
}

/// The routes below, in words.
pub(crate) fn way(destination: IpAddr) -> Way {
    let (family, number) = (family(destination), number(destination));
    if number == BOX || number == BYSTANDER_LINK + 1 || number == TAGGED + 1 {
        return Way::Host;
    }
    if (FIRST_LOCATOR..FIRST_LOCATOR + VMS).contains(&number) {
        let port = VM_PORTS[((number - FIRST_LOCATOR) % 4) as usize];
        return Way::To(port, mac_of(destination));
    }
    let port = port_of(destination);
    match number & 0xffff_0000 {
        FAR => Way::To(UPLINK, mac_of(router(family))),
        _ if number == UNROUTED => Way::Nowhere,
        _ if CLIENTS.contains(&number) || number == BYSTANDER || number == ROUTER => {
            Way::To(port, mac_of(destination))
        }
        _ => Way::Unresolved(port, destination),
    }
}

pub(crate) fn ports() -> Vec<Option<Port>> {
    let port = |id: u16| {
        let (device, tags) = wire(PortId(id));
        let link = Link::Device { device, tags, mtu: ETHERNET_MTU };
        let (addresses, role): (&[u32], _) = match id {
            0 => (&[BOX], PortRole::Uplink),
            3 => (&[BYSTANDER_LINK + 1], PortRole::Access),
            4 => (&[TAGGED + 1], PortRole::Uplink),
            _ => (&[], PortRole::Access),
        };
        let both = |number: &u32| [ip(Family::V4, *number), ip(Family::V6, *number)];
        let addresses = addresses.iter().flat_map(both).collect();
        Some(Port { mac: port_mac(PortId(id)), addresses, role, link, twin: None })
    };
    (0..DEVICES.len() as u16).map(port).collect()
}

pub(crate) fn routing(ports: &[Option<Port>]) -> Routing {
    let (mut routes, mut neighbours) = (Vec::new(), Vec::new());
    for family in [Family::V4, Family::V6] {
        let base: u8 = if family == Family::V6 { 96 } else { 0 };
        let mut route = |number, len: u8, port, via: Option<u32>| {
            let prefix = IpPrefix::new(ip(family, number), base + len).expect("a prefix");
            routes.push((prefix, NextHop { port, via: via.map(|via| ip(family, via)) }));
        };
        route(NEAR, 24, UPLINK, None);
        route(TAGGED, 24, TAGGED_UPLINK, None);
        route(FAR, 16, UPLINK, Some(ROUTER));
        route(BYSTANDER_LINK, 24, BYSTANDERS, None);
        let near = CLIENTS.into_iter().filter(|client| client & 0xffff_0000 != FAR);
        for host in near.chain([ROUTER, BYSTANDER]).map(|host| ip(family, host)) {
            neighbours.push((host, Neighbour { port: port_of(host), mac: mac_of(host) }));
        }
        for vm in 0..VMS {
            let vm = backend(family, vm, BackendSlot(0), true);
            let Rewrite::Nat(locator) = vm.rewrite else { unreachable!("nat was asked for") };
            neighbours.push((locator, Neighbour { port: vm.port, mac: vm.mac }));
        }
    }
    Routing::plain(ports, routes, neighbours)
}
