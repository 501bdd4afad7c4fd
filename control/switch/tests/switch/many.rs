//! Ten thousand addresses, two hundred migrations at once.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use tidegate_dataplane::{
    packet::Mac,
    steering::{PortId, Rewrite},
};
use tidegate_switch::{
    config,
    core::{Core, CutoverPolicy},
    steering::{AddressSpec, AddressState, BackendSpec, Network},
};

use crate::{
    double::Double,
    testbox::CONFIG,
    wire::{EAST, GATEWAY_MAC, Tcp, UPLINK_MAC, WEST},
};

const ADDRESSES: u32 = 10_000;
const ADDED: u32 = 100;
const MIGRATIONS: u32 = 200;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a10_0000 + number)
}

fn backend(name: &str, port: PortId, number: u32) -> BackendSpec {
    let [_, _, a, b] = number.to_be_bytes();
    let mac = Mac([2, 0, 0, port.0 as u8, a, b]);
    BackendSpec { name: name.to_owned(), port, mac, rewrite: Rewrite::L2, tunnel: None }
}

#[test]
fn a_cutover_of_one_does_not_touch_the_others() {
    let config = config::parse(Path::new("test.toml"), CONFIG).expect("valid");
    let macs = [Mac(UPLINK_MAC), Mac(GATEWAY_MAC), Mac(GATEWAY_MAC)];
    let (double, shards) = Double::with_sessions(config.ports.len(), 2, 16_384);
    let network = Network::new(&config, &macs);
    let managed = |number| AddressSpec {
        address: IpAddr::from(address(number)),
        home: backend("home", EAST, number),
        quic: None,
    };
    // Most are in the configuration, the last ones come while the box runs.
    let configured = (0..ADDRESSES - ADDED).map(managed);
    let mut core = Core::new(Box::new(double), network, configured).expect("core");
    for spec in (ADDRESSES - ADDED..ADDRESSES).map(managed) {
        core.add(spec).expect("added");
    }
    let tcp = |number| Tcp { shards: &shards, address: address(number).octets(), client_port: 7 };
    (0..ADDRESSES).step_by(7).for_each(|number| assert_eq!(tcp(number).open(), EAST));

    let migrating = || (0..MIGRATIONS).map(|number| number * (ADDRESSES / MIGRATIONS));
    for number in migrating() {
        core.takeover(address(number).into()).expect("hosted");
        let destination = backend("away", WEST, number);
        core.set_destination(address(number).into(), destination).expect("destination");
    }
    let mut cut_over = HashSet::new();
    for number in migrating() {
        let report = core.cutover(address(number).into(), CutoverPolicy::default());
        let old = u64::from(number % 7 == 0);
        assert_eq!(report.expect("cut over").old_sessions, old);
        cut_over.insert(number);
    }
    for number in 0..ADDRESSES {
        let is_cut_over = cut_over.contains(&number);
        if number % 7 == 0 {
            assert_eq!(tcp(number).talk(), Ok(EAST), "an old session stays");
        }
        let newcomer = Tcp { client_port: 8, ..tcp(number) };
        assert_eq!(newcomer.open(), if is_cut_over { WEST } else { EAST }, "address {number}");
        let record = core.address(address(number).into()).expect("known");
        let state = match (is_cut_over, number % 7) {
            (false, _) => AddressState::Tracked,
            (true, _) => AddressState::Draining,
        };
        assert_eq!(record.address.state(), state);
    }
}
