//! What may not be is refused with a reason, and changes nothing.

use std::net::IpAddr;

use tidegate_fabric::{Endpoint, Error, Missing, Provider, Window, Write};

use crate::rig::{LOOPBACK, MIB, Rig, WINDOW, for_each_provider};

for_each_provider! {
    a_wrong_key a_write_beyond_the_window bounds_are_checked_here addresses_are_checked
}

/// A write through a window that is not the target's writes nothing and does not count; the writer may be told or not.
fn assert_refused(provider: Provider, make: impl FnOnce(Window) -> Window, at: u64) {
    let mut rig = Rig::new(provider);
    let good = rig.window;
    rig.window = make(good);
    let told = rig.write_all(&[(at, 4096)]);
    assert!(matches!(told, Ok(()) | Err(Error::Write { .. })), "{told:?}");
    // What comes behind it shows that the target has seen it: over one way nothing overtakes.
    rig.window = good;
    let behind = rig.write_all(&[(0, 1), (1, 1), (2, 1)]);
    let events = if behind.is_ok() { rig.ask("events 3") } else { rig.ask("events 0") };
    let counted = events.split(' ').filter(|event| event.parse::<u64>().is_ok()).count();
    assert!(counted <= 3, "{events}");
    rig.write_all(&[]).expect("nothing");
    assert_eq!(rig.ask("whole"), "false");
    let mut image_bytes = rig.ask("head 4096");
    image_bytes.truncate(8);
    assert!(image_bytes == "3" || image_bytes == "0", "{image_bytes} bytes were written");
}

fn a_wrong_key(provider: Provider) {
    assert_refused(provider, |window| Window { key: window.key ^ 1, ..window }, 0);
}

/// What a writer believes that was told a wrong length.
fn a_write_beyond_the_window(provider: Provider) {
    // The last page of what the source has, of which the target has half.
    let longer = |window: Window| Window { base: window.base + 2048, ..window };
    assert_refused(provider, longer, WINDOW - 4096);
}

fn bounds_are_checked_here(provider: Provider) {
    let mut rig = Rig::new(provider);
    let window = rig.window;
    for (from, at, len) in [
        (0, WINDOW, 1),
        (WINDOW, 0, 1),
        (WINDOW - 1, 0, 2),
        (0, WINDOW - 1, 2),
        (0, 0, 0),
        (0, 0, MIB + 1),
        (u64::MAX, 0, 2),
        (0, u64::MAX, 2),
    ] {
        let write = Write { from, at, len, to: &window, ..rig.write(0, 1, 1) };
        let error = rig.writer.write(&write).expect_err("out of bounds");
        assert!(matches!(error, Error::OutOfBounds { .. }), "{from} {at} {len}: {error}");
    }
    let wide = Window { base: u64::MAX, ..window };
    let write = Write { at: 1, to: &wide, ..rig.write(0, 1, 1) };
    assert!(matches!(rig.writer.write(&write), Err(Error::OutOfBounds { .. })));
    assert_eq!(rig.ask("zero"), "true");
}

fn addresses_are_checked(provider: Provider) {
    let mut endpoint = Endpoint::open(provider, LOOPBACK).expect("endpoint");
    let good = endpoint.address().to_vec();
    for bad in [&good[..good.len() - 1], &[][..], &[0xff; 300], b"fi_shm://../../x:0:0\0"] {
        let error = endpoint.connect(bad).expect_err("bad address");
        assert!(matches!(error, Error::Address { .. }), "{error}");
    }
    // `shm` is between processes.
    assert_eq!(endpoint.connect(&good).is_ok(), provider != Provider::Shm);
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
    let elsewhere: IpAddr = "203.0.113.77".parse().expect("address");
    let error = Endpoint::open(Provider::Tcp, elsewhere).expect_err("not ours");
    assert!(error.to_string().starts_with("tcp;ofi_rxm"), "{error}");
}
