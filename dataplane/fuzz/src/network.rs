//! The network before the fuzzed box: an uplink, its VLAN 7, two guests' ports, tunnels of each kind, and two managed
//! addresses of each family.

use std::net::IpAddr;

use tidegate_dataplane::{
    packet::{Mac, Tags, tunnel::Encap},
    steering::{
        Backend, BackendSlot, ETHERNET_MTU, IpPrefix, Link, ManagedAddress, Neighbour, NextHop,
        Port, PortId, PortRole, Quic, Rewrite, Routing, Snapshot, Tunnel,
    },
};

pub(crate) const PORTS: u16 = 4;
pub(crate) const PORT_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const CLIENTS: [&str; 2] = ["10.9.0.2", "2001:db8:9::2"];
pub(crate) const L2: [&str; 2] = ["10.9.0.100", "2001:db8:9::64"];
pub(crate) const NAT: [&str; 2] = ["10.9.0.101", "2001:db8:9::65"];
pub(crate) const LOCATORS: [[&str; 2]; 2] =
    [["10.8.0.11", "2001:db8:8::11"], ["10.8.0.12", "2001:db8:8::12"]];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this network")
}

fn port(id: u16, role: PortRole, device: u16, tags: Tags) -> Option<Port> {
    let addresses = vec![ip("10.9.0.1"), ip("2001:db8:9::1")];
    Some(Port {
        mac: PORT_MAC,
        addresses: if id == 0 { addresses } else { vec![] },
        role,
        link: Link::Device { device: PortId(device), tags, mtu: ETHERNET_MTU },
        twin: None,
    })
}

/// A tunnel to a client's machine.
fn tunnel(encap: Encap, family: usize) -> Option<Port> {
    let (local, remote) = (ip(["10.9.0.1", "2001:db8:9::1"][family]), ip(CLIENTS[family]));
    let link = Link::Tunnel(Tunnel { encap, local, remote });
    Some(Port { mac: PORT_MAC, addresses: vec![], role: PortRole::Access, link, twin: None })
}

/// The managed addresses at rest; slots are their numbers.
pub(crate) fn managed() -> Vec<ManagedAddress> {
    let addresses = L2.iter().chain(&NAT).map(|text| ip(text));
    let address = |(number, address): (u32, IpAddr)| ManagedAddress {
        address,
        hosted: true,
        tracked: true,
        epoch: 1,
        home: backend(number, address, 0),
        destination: None,
        // Where services are here.
        quic: Some(Quic { ports: [80, 0, 0, 0], connection_id_len: 4 }),
    };
    (0..).zip(addresses).map(address).collect()
}

/// One of two places for the managed address with this number.
pub(crate) fn backend(number: u32, address: IpAddr, place: u32) -> Backend {
    let family = usize::from(address.is_ipv6());
    let rewrite = match number {
        0 | 1 => Rewrite::L2,
        _ => Rewrite::Nat(ip(LOCATORS[place as usize][family])),
    };
    Backend {
        slot: BackendSlot(number * 2 + place),
        port: PortId(1 + place as u16),
        mac: Mac([2, 0, 0, 1, place as u8, number as u8]),
        rewrite,
    }
}

pub(crate) fn snapshot(generation: u64, managed: Vec<ManagedAddress>) -> Snapshot {
    let tags = Tags::new(7, None).expect("a VLAN");
    let ports = vec![
        port(0, PortRole::Uplink, 0, Tags::NONE),
        port(1, PortRole::Access, 1, Tags::NONE),
        port(2, PortRole::Access, 2, Tags::NONE),
        port(3, PortRole::Uplink, 0, tags),
        tunnel(Encap::Ipip, 0),
        tunnel(Encap::Gue { port: 6080 }, 0),
        tunnel(Encap::Vxlan { port: 4789, vni: 7 }, 1),
        tunnel(Encap::Ipip, 1),
    ];
    let route = |text: &str, port| {
        let prefix: IpPrefix = text.parse().expect("a prefix of this network");
        (prefix, NextHop { port: PortId(port), via: None })
    };
    let routes = [route("10.9.0.0/24", 0), route("2001:db8:9::/64", 0), route("10.7.0.0/16", 3)];
    let neighbours =
        CLIENTS.map(|text| (ip(text), Neighbour { port: PortId(0), mac: Mac([2, 0, 0, 0, 9, 2]) }));
    let routing = Routing::plain(&ports, routes, neighbours);
    Snapshot::new(generation, ports, managed, routing).expect("nothing excludes nothing")
}
