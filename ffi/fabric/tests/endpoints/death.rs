//! One process dies in the middle: the other says so within bounded time, and does not hang.

use std::io::{self, BufRead as _};
use std::time::{Duration, Instant};

use tidegate_fabric::{Endpoint, Error, Event, Provider, Window, Write};

use crate::pair::{LOOPBACK, MIB, Pair, bytes_of, for_each_provider, image, region, same};
use crate::processes::Child;

for_each_provider! { two_processes the_target_dies nobody_listens_any_more }

const PIECES: u64 = 16;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// A target in another process, and a writer here that knows it.
struct Rig {
    child: Child,
    writer: Endpoint,
    write: Write<'static>,
}

impl Rig {
    fn new(provider: Provider, environment: &[(&str, &str)]) -> Self {
        let mut child = Child::start(&format!("target {}", provider.name()), environment);
        let address = unhex(&child.line("address "));
        let numbers = child.line("window ");
        let mut numbers = numbers.split(' ').map(|number| number.parse().expect("number"));
        let mut number = || numbers.next().expect("three numbers");
        let window = Window { key: number(), base: number(), len: number() };
        let mut writer = Endpoint::open(provider, LOOPBACK).expect("writer");
        let peer = writer.connect(&address).expect("peer");
        let source = writer.attach(image(PIECES * MIB)).expect("source");
        let to: &'static Window = Box::leak(Box::new(window));
        let write = Write { source, from: 0, len: MIB, peer, to, at: 0, data: 0, id: 0 };
        Self { child, writer, write }
    }

    /// Write round and round until `count` writes have left, or an error.
    fn write_on(&mut self, count: u64) -> Result<(), Error> {
        let began = Instant::now();
        let (mut begun, mut sent) = (0, 0);
        while sent < count {
            let at = begun % PIECES * MIB;
            let write = Write { from: at, at, id: begun, data: begun as u32, ..self.write };
            if begun < count && begun - sent < PIECES && self.writer.write(&write)? {
                begun += 1;
            }
            self.writer.poll(&mut |event| sent += u64::from(matches!(event, Event::Sent { .. })))?;
            assert!(began.elapsed() < crate::pair::DEADLINE, "hangs after {sent} of {begun}");
        }
        Ok(())
    }
}

fn two_processes(provider: Provider) {
    let mut rig = Rig::new(provider, &[]);
    rig.write_on(PIECES).expect("write");
    rig.child.expect_line(&format!("whole after {PIECES}"));
}

/// Where one process may not reach into the other's memory, `shm` has to take another way.
#[test]
fn shm_without_reaching_into_the_other_process() {
    let mut rig = Rig::new(Provider::Shm, &[("FI_SHM_DISABLE_CMA", "1")]);
    rig.write_on(PIECES).expect("write");
    rig.child.expect_line(&format!("whole after {PIECES}"));
}

fn the_target_dies(provider: Provider) {
    let mut rig = Rig::new(provider, &[]);
    rig.write_on(5).expect("write");
    rig.child.kill();
    let began = Instant::now();
    let error = rig.write_on(1 << 20).expect_err("nobody is there");
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}", began.elapsed());
    let dropped = Instant::now();
    drop(rig.writer);
    assert!(dropped.elapsed() < Duration::from_secs(5), "closing took {:?}", dropped.elapsed());
    eprintln!("{provider}: {error} after {:?}", began.elapsed());
}

#[test]
fn over_shm_a_target_sees_its_writer_die() {
    let mut child = Child::start("idle shm", &[]);
    let address = unhex(&child.line("address "));
    let mut target = Endpoint::open(Provider::Shm, LOOPBACK).expect("target");
    target.connect(&address).expect("watch");
    target.poll(&mut |_| ()).expect("alive");
    child.kill();
    let began = Instant::now();
    let error = loop {
        match target.poll(&mut |_| ()) {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(5), "not seen"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::PeerGone { .. }), "{error}");
    let error = target.connect(&address).expect_err("a dead process");
    assert!(matches!(error, Error::PeerGone { .. }), "{error}");
}

/// The peer's endpoint is closed before the first write.
fn nobody_listens_any_more(provider: Provider) {
    let mut pair = Pair::new(provider, &image(MIB));
    let gone = std::mem::replace(
        &mut pair.target,
        Endpoint::open(provider, LOOPBACK).expect("another endpoint"),
    );
    drop(gone);
    let window = pair.window;
    let write = Write { to: &window, ..pair.write(0, MIB, 0) };
    let began = Instant::now();
    let mut begun = false;
    let outcome = loop {
        let step = if begun { Ok(true) } else { pair.writer.write(&write) };
        match step.and_then(|done| pair.writer.poll(&mut |_| ()).map(|_| done)) {
            Ok(done) => begun = done,
            Err(error) => break Some(error),
        }
        // `shm` names a process, and this one lives: only its caller's own limit ends the wait.
        if provider == Provider::Shm && began.elapsed() > Duration::from_secs(1) {
            break None;
        }
        assert!(began.elapsed() < crate::pair::DEADLINE, "hangs");
    };
    assert!(outcome.is_some() || provider == Provider::Shm);
    assert!(bytes_of(&pair.into, 0, MIB).iter().all(|byte| *byte == 0));
    let dropped = Instant::now();
    drop(pair.writer);
    assert!(dropped.elapsed() < Duration::from_secs(5), "closing took {:?}", dropped.elapsed());
}

/// The parts of the other process.
pub(crate) fn play(part: &str) {
    let (part, provider) = part.split_once(' ').expect("part and provider");
    let provider = Provider::ALL.into_iter().find(|known| known.name() == provider);
    let mut endpoint = Endpoint::open(provider.expect("provider"), LOOPBACK).expect("endpoint");
    println!("address {}", hex(endpoint.address()));
    if part == "target" {
        let into = region(PIECES * MIB);
        let window = endpoint.expose(into.clone()).expect("window");
        println!("window {} {} {}", window.key, window.base, window.len);
        let expected = image(PIECES * MIB);
        let mut arrived = 0;
        while arrived < PIECES {
            endpoint.poll(&mut |_| arrived += 1).expect("poll");
        }
        let whole = if same(&into, &expected) { "whole" } else { "damaged" };
        println!("{whole} after {arrived}");
        loop {
            endpoint.poll(&mut |_| arrived += 1).expect("poll");
        }
    }
    // Until the other process is done, or kills this one.
    let _ = io::stdin().lock().lines().next();
}
