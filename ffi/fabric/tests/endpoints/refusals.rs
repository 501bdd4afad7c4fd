//! What may not be is refused with a reason, and changes nothing.

use std::net::IpAddr;

use tidegate_fabric::{Endpoint, Error, Message, Missing, Provider, Window};

use crate::pair::{LOOPBACK, MIB, Pair, bytes_of, for_each_provider, image, region};

for_each_provider! {
    a_wrong_key a_write_beyond_the_window bounds_are_checked_here addresses_are_checked
    messages_too_long
}

fn assert_refused(pair: &mut Pair, at: u64, window: Window) {
    let error = pair.write_once(at, 4096, window).expect_err("refused");
    assert!(matches!(error, Error::Write { .. } | Error::Arrival { .. }), "{error}");
    let untouched = bytes_of(&pair.into, 0, MIB).iter().all(|byte| *byte == 0);
    assert!(untouched, "something was written");
}

fn a_wrong_key(provider: Provider) {
    let mut pair = Pair::new(provider, &image(MIB));
    let window = Window { key: pair.window.key ^ 1, ..pair.window };
    assert_refused(&mut pair, 0, window);
}

fn a_write_beyond_the_window(provider: Provider) {
    let mut pair = Pair::new(provider, &image(MIB));
    // What a writer believes that was told a wrong length.
    let window = Window { len: 3 * MIB, ..pair.window };
    assert_refused(&mut pair, 2 * MIB, window);
}

fn bounds_are_checked_here(provider: Provider) {
    let mut pair = Pair::new(provider, &image(2 * MIB));
    let window = pair.window;
    for (from, at, len) in [
        (0, 2 * MIB, 1),
        (2 * MIB, 0, 1),
        (2 * MIB - 1, 0, 2),
        (0, 2 * MIB - 1, 2),
        (0, 0, 0),
        (0, 0, MIB + 1),
        (u64::MAX, 0, 2),
        (0, u64::MAX, 2),
    ] {
        let write = tidegate_fabric::Write { from, at, len, ..pair.write(0, 1, 1) };
        let write = tidegate_fabric::Write { to: &window, ..write };
        let error = pair.writer.write(&write).expect_err("out of bounds");
        assert!(matches!(error, Error::OutOfBounds { .. }), "{from} {at} {len}: {error}");
    }
    let wide = Window { base: u64::MAX, ..window };
    let write = tidegate_fabric::Write { at: 1, to: &wide, ..pair.write(0, 1, 1) };
    assert!(pair.writer.write(&write).is_err());
}

fn addresses_are_checked(provider: Provider) {
    let mut endpoint = Endpoint::open(provider, LOOPBACK).expect("endpoint");
    let good = endpoint.address().to_vec();
    for bad in [&good[..good.len() - 1], &[][..], &[0xff; 300], b"fi_shm://../../x:0:0\0"] {
        let error = endpoint.connect(bad).expect_err("bad address");
        assert!(matches!(error, Error::Address { .. }), "{error}");
    }
    endpoint.connect(&good).expect("its own");
}

/// A message longer than the places is an error at the receiver, not a piece of it.
fn messages_too_long(provider: Provider) {
    let mut pair = Pair::new(provider, &image(MIB));
    pair.target.receive_into(region(8192), 4096).expect("places");
    let message =
        Message { source: pair.source, from: 0, len: 30_000, peer: pair.peer, id: 1 };
    let mut begun = false;
    let error = pair
        .run(|writer, _, arrived| {
            begun = begun || writer.send(&message)?;
            Ok(!arrived.is_empty())
        })
        .expect_err("too long");
    assert!(matches!(error, Error::Arrival { .. } | Error::Write { .. }), "{error}");
}

#[test]
fn a_provider_that_is_not_there_says_why() {
    let devices = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if devices > 0 {
        eprintln!("NOT TESTED: this machine has RDMA devices, so nothing is missing");
        return;
    }
    assert_eq!(Provider::Verbs.probe(None), Err(Missing::NoRdmaDevice));
    let error = Endpoint::open(Provider::Verbs, LOOPBACK).expect_err("no device");
    assert!(error.to_string().contains("no RDMA device"), "{error}");
}

#[test]
fn an_address_of_another_host_is_refused() {
    let elsewhere: IpAddr = "192.0.2.77".parse().expect("address");
    let missing = Provider::Tcp.probe(Some(elsewhere)).expect_err("not ours");
    assert!(missing.to_string().contains("192.0.2.77"), "{missing}");
}
