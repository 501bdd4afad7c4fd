//! What the model test cannot say: messages' content is tested at the service, slots and snapshots here.

use std::{net::Ipv4Addr, path::Path, sync::Arc};

use tidegate_dataplane::{
    packet::{Address as _, Mac},
    steering::{Cutover, Direction, Hop, PortId, PrefixTable, Recent, RouteTables, Unknown},
};

use super::*;
use crate::config;

const V4: u32 = 0x0a08_0064;
const A: IpAddr = IpAddr::V4(Ipv4Addr::from_bits(V4));

fn spec(name: &str, port: u16, rewrite: Rewrite) -> BackendSpec {
    BackendSpec {
        name: name.into(),
        port: PortId(port),
        mac: Mac([2, 0, 0, 0, 8, port as u8]),
        rewrite,
        tunnel: None,
    }
}

fn at(address: IpAddr, home: BackendSpec) -> AddressSpec {
    AddressSpec { address, home, quic: None }
}

fn network() -> Network {
    let text = r#"
        [api]
        listen = ["unix:/a"]
        [[port]]
        name = "uplink"
        device = "net_null0"
        addresses = ["10.9.0.1/24", "2001:db8:9::1/64", "fe80::9/64"]
        role = "uplink"
        [[port]]
        name = "east"
        device = "net_null1"
        mac = "02:00:00:00:00:fe"
        addresses = ["10.8.0.1/24", "2001:db8:8::1/64", "fe80::1/64"]
        role = "access"
        [[port]]
        name = "west"
        device = "net_null2"
        mac = "02:00:00:00:00:fe"
        addresses = ["10.8.0.1/24", "2001:db8:8::1/64", "fe80::1/64"]
        role = "access"
        [[neighbour]]
        address = "10.8.0.9"
        mac = "02:00:00:00:08:09"
        port = "west"
        [[route]]
        to = "0.0.0.0/0"
        via = "10.9.0.254"
        [[route]]
        to = "2001:db8:5::/48"
        via = "fe80::5"
        port = "uplink"
        [[route]]
        to = "2001:db8:6::/48"
        via = "fe80::5"
        port = "east"
        [[route]]
        to = "2001:db8:7::/48"
        via = "fe80::1"
        port = "uplink"
    "#;
    let config = config::parse(Path::new("test.toml"), text).expect("valid");
    Network::new(
        &config,
        &[Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 0xfe]), Mac([2, 0, 0, 0, 0, 0xfe])],
    )
}

#[test]
fn a_slot_with_entries_is_not_given_to_another() {
    let mut steering = Steering::default();
    steering.add(at(A, spec("a", 1, Rewrite::L2)), &|_| false).expect("add");
    let first = steering.get(A).expect("known").home.slot;
    steering.remove(A).expect("remove");
    for _ in 0..tidegate_dataplane::counters::MAX_BACKENDS + 1 {
        steering.add(at(A, spec("a", 1, Rewrite::L2)), &|slot| slot == first).expect("add");
        assert_ne!(steering.get(A).expect("known").home.slot, first);
        steering.remove(A).expect("remove");
    }
}

#[test]
fn a_refusal_changes_nothing() {
    let mut steering = Steering::default();
    steering.add(at(A, spec("a", 1, Rewrite::L2)), &|_| false).expect("add");
    let full = |_| true;
    let before = format!("{steering:?}");
    let refused = steering.set_destination(A, spec("b", 2, Rewrite::L2), &full);
    assert!(matches!(refused, Err(Refused::NoSlot(_))));
    assert_eq!(format!("{steering:?}"), before);
}

#[test]
fn a_snapshot_says_what_is_counted_and_who_is_where() {
    let (mut network, mut steering) = (network(), Steering::default());
    let free = |_| false;
    steering.add(at(A, spec("a", 1, Rewrite::L2)), &free).expect("add");
    steering.takeover(A, &free).expect("takeover");
    steering.set_destination(A, spec("b", 2, Rewrite::L2), &free).expect("destination");
    let cutover = Cutover { unknown_tcp: Unknown::Drop, ..Cutover::default() };
    let dropping = DrainPolicy { cutover, ..DrainPolicy::default() };
    let source = steering.cutover(A, dropping).expect("cutover");
    let tables = RouteTables::default();
    let snapshot = network.snapshot(7, &steering, tables, vec![source]).expect("snapshot");
    assert_eq!((snapshot.generation, snapshot.counted_at_install.as_slice()), (7, &[source][..]));
    let managed = snapshot.plane().managed(V4).expect("managed");
    assert_eq!((managed.hosted, managed.tracked, managed.epoch), (true, true, 2));
    let (destination, now) = managed.active_destination().expect("cut over");
    assert_eq!((destination.link.port, now), (PortId(2), &cutover));
    assert!(
        matches!(snapshot.plane().direction(PortId(2), V4, 1, &mut Recent::default()), Direction::FromBackend(_, backend) if backend.link.port == PortId(2))
    );
}

#[test]
fn routes_lead_to_where_neighbours_are() {
    let (mut network, mut steering) = (network(), Steering::default());
    steering.add(at(A, spec("n", 2, Rewrite::Nat(0x0a08_000c_u32.ip()))), &|_| false).expect("add");
    assert_eq!(
        network.learn(PortId(0), 0x0a09_00fe_u32.ip(), Mac([2, 0, 0, 0, 9, 0xfe]), true),
        Learned::Changed
    );
    assert_eq!(
        network.learn(PortId(2), 0x0a08_0020_u32.ip(), Mac([2, 0, 0, 0, 8, 0x20]), true),
        Learned::Changed
    );
    let mut table = PrefixTable::default();
    for change in network.take_route_changes(&steering) {
        let Some(address) = u32::of(change.prefix.address()) else { continue };
        table.insert(address, change.prefix.len(), change.hop.expect("a new route"));
    }
    let tables = RouteTables { v4: Arc::new(table), ..RouteTables::default() };
    let snapshot = network.snapshot(1, &steering, tables, vec![]).expect("snapshot");
    let port = |address: u32| match snapshot.route(address) {
        Hop::Link(link) => (link.port.0, Some(link.port.0)),
        Hop::Unresolved { port, via: None } => (port.0, None),
        other => panic!("{other:?}"),
    };
    assert_eq!(port(0x0a08_0030), (1, None), "of two ports on one prefix, the first");
    assert_eq!(port(0x0a08_0009), (2, Some(2)), "a configured neighbour behind the second");
    assert_eq!(port(0x0a08_0020), (2, Some(2)), "a learned one, too");
    assert_eq!(port(0x0a08_000c), (2, Some(2)), "a guest is where its backend says");
    assert_eq!(port(0x0808_0808), (0, Some(0)), "by the default route");
}

#[test]
fn lies_are_not_learned() {
    let mut network = network();
    let host = Mac([2, 0, 0, 0, 9, 9]);
    let mut learn = |port, address: u32, mac| network.learn(PortId(port), address.ip(), mac, true);
    assert_eq!(learn(0, 0x0a09_0009, host), Learned::Changed);
    assert_eq!(learn(0, 0x0a09_0009, host), Learned::Known);
    assert_eq!(learn(0, 0x0a09_0009, Mac([2, 0, 0, 0, 9, 8])), Learned::Changed);
    for (port, address, mac, why) in [
        (1, 0x0a09_0009, host, "not on that link"),
        (0, 0x0a09_0001, host, "the box's own address"),
        (2, 0x0a08_0009, host, "configured otherwise"),
        (0, 0x0a09_0009, Mac::BROADCAST, "a group address"),
        (0, 0x0a09_0009, Mac([2, 0, 0, 0, 0, 1]), "the box's own MAC"),
        (9, 0x0a09_0009, host, "no such port"),
    ] {
        assert_eq!(learn(port, address, mac), Learned::Ignored, "{why}");
    }
}

fn v6(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn an_advertisement_that_does_not_override_tells_only_of_who_is_not_known() {
    let mut network = network();
    let (first, second) = (Mac([2, 0, 0, 0, 9, 9]), Mac([2, 0, 0, 0, 9, 8]));
    let mut learn =
        |port, mac, overrides| network.learn(PortId(port), v6("2001:db8:8::9"), mac, overrides);
    assert_eq!(learn(1, first, false), Learned::Changed);
    assert_eq!(learn(1, second, false), Learned::Known);
    assert_eq!(learn(2, second, false), Learned::Known);
    assert_eq!(learn(1, first, true), Learned::Known, "the first is still known");
    assert_eq!(learn(2, second, true), Learned::Changed);
    assert_eq!(learn(1, first, true), Learned::Changed, "and it was on one port only");
}

#[test]
fn link_local_routers_are_others_on_each_link() {
    let mut network = network();
    network.take_route_changes(&Steering::default());
    let (first, second) = (Mac([2, 0, 0, 0, 9, 9]), Mac([2, 0, 0, 0, 9, 8]));
    let mut learn = |port, address, mac| network.learn(PortId(port), v6(address), mac, true);
    assert_eq!(learn(0, "fe80::5", first), Learned::Changed);
    assert_eq!(learn(1, "fe80::5", second), Learned::Changed);
    assert_eq!(learn(0, "fe80::5", first), Learned::Known);
    assert_eq!(learn(1, "fe80::5", second), Learned::Known);
    assert_eq!(learn(0, "fe80::1", first), Learned::Changed, "the box's own elsewhere");
    for (port, address, why) in [
        (1, "fe80::1", "the box's own"),
        (0, "fe80::9", "the box's own"),
        (2, "fe80::5", "no router there"),
        (0, "fe80::6", "no router"),
        (9, "fe80::5", "no such port"),
        (0, "2001:db8:8::5", "not on that link"),
    ] {
        assert_eq!(learn(port, address, first), Learned::Ignored, "{why}");
    }
}

#[test]
fn a_guest_that_is_everybody_leaves_others_their_next_hops() {
    let mut network = network();
    let host = Mac([2, 0, 0, 0, 9, 9]);
    let learned = (0..1u128 << 16).filter(|n| {
        let address = (0x2001_0db8_0008 << 80 | 0x1_0000 | n).ip();
        network.learn(PortId(1), address, host, true) == Learned::Changed
    });
    assert!((10_000..20_000).contains(&learned.count()));
    let mut steering = Steering::default();
    network.take_route_changes(&steering);
    let home = spec("n", 2, Rewrite::Nat(0x0a08_000c_u32.ip()));
    steering.add(at(A, home), &|_| false).expect("add");
    let locator = tidegate_dataplane::steering::IpPrefix::host(0x0a08_000c_u32.ip());
    let mut changes = network.take_route_changes(&steering).into_iter();
    assert!(changes.any(|change| change.prefix == locator && change.hop.is_some()));
}

#[test]
fn whom_the_box_asks_as() {
    let network = network();
    let asks_as = |port, address: &str| {
        let port = network.port(PortId(port)).expect("a port");
        port.speaks_as(v6(address)).map(|own| own.to_string())
    };
    for (port, address, own) in [
        (0, "2001:db8:9::5", "2001:db8:9::1"),
        (0, "fe80::5", "fe80::9"),
        (0, "2001:db8:7::5", "fe80::9"),
        (1, "fe80::5", "fe80::1"),
        (1, "10.8.0.5", "10.8.0.1"),
        (1, "10.7.0.5", "10.8.0.1"),
    ] {
        assert_eq!(asks_as(port, address).as_deref(), Some(own), "{address} behind {port}");
    }
}
