//! One process dies in the middle: the other says so within bounded time, and does not hang.

use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_fabric::{Endpoint, Error, PATIENCE, Provider};

use crate::processes::Child;
use crate::rig::{DEADLINE, LOOPBACK, MIB, Rig, for_each_provider, unhex};

for_each_provider! { nobody_listens_any_more }

/// Round and round.
fn pieces(count: u64) -> Vec<(u64, u64)> {
    (0..count).map(|number| (number % 16 * MIB, MIB)).collect()
}

/// Writes fail in time, and the endpoint can be dropped.
fn assert_ends(mut rig: Rig, limit: Duration) {
    let began = Instant::now();
    let error = rig.write_all(&pieces(1 << 16)).expect_err("nobody is there");
    assert!(began.elapsed() < limit, "took {:?}", began.elapsed());
    let dropped = Instant::now();
    drop(rig.writer);
    assert!(dropped.elapsed() < Duration::from_secs(5), "closing took {:?}", dropped.elapsed());
    eprintln!("{error}, after {:?}", began.elapsed());
}

/// Not over `shm`: a process that is killed while it holds its queue's lock keeps it, and libfabric 1.17 waits for the lock
/// without end.
#[test]
fn the_target_dies() {
    let mut rig = Rig::new(Provider::Tcp);
    rig.write_all(&pieces(5)).expect("write");
    rig.child.kill();
    assert_ends(rig, Duration::from_secs(5));
}

/// The peer's endpoint is closed, and its process lives.
fn nobody_listens_any_more(provider: Provider) {
    let mut rig = Rig::new(provider);
    rig.ask("close");
    assert_ends(rig, PATIENCE + Duration::from_secs(5));
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
            Ok(_) => assert!(began.elapsed() < DEADLINE, "not seen"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::PeerGone { .. }), "{error}");
    let error = target.connect(&address).expect_err("a dead process");
    assert!(matches!(error, Error::PeerGone { .. }), "{error}");
}

/// A process that is killed leaves its queue; the next endpoint takes it away.
#[test]
fn what_a_killed_process_leaves_is_removed() {
    let mut child = Child::start("idle shm", &[]);
    let address = unhex(&child.line("address "));
    let name = str::from_utf8(&address).expect("text").trim_end_matches('\0');
    let queue = Path::new("/dev/shm").join(name.trim_start_matches("fi_shm://"));
    assert!(queue.exists(), "{}", queue.display());
    child.kill();
    assert!(queue.exists(), "{}", queue.display());
    drop(Endpoint::open(Provider::Shm, LOOPBACK).expect("endpoint"));
    assert!(!queue.exists(), "{}", queue.display());
}

/// Where one process may not reach into the other's memory, `shm` has to take another way.
#[test]
fn shm_without_reaching_into_the_other_process() {
    let mut rig = Rig::with(Provider::Shm, &[("FI_SHM_DISABLE_CMA", "1")]);
    rig.write_all(&pieces(16)).expect("write");
    rig.ask("events 16");
    assert_eq!(rig.ask("whole"), "true");
}
