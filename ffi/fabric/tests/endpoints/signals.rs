//! The library installs handlers for SIGTERM and others when it is loaded: none of them may stay.

use std::fs;

use tidegate_fabric::{Endpoint, Provider};

use crate::{processes::Child, rig::LOOPBACK};

#[test]
fn the_programs_own_handlers_stay() {
    // In a process of its own, where nothing has loaded the library yet.
    let mut child = Child::start("count_handlers", &[]);
    child.expect_line("unchanged");
}

/// Not a test by itself: what the test above starts.
pub(crate) fn count_handlers() {
    let caught = || {
        let status = fs::read_to_string("/proc/self/status").expect("status");
        status.lines().find(|line| line.starts_with("SigCgt")).expect("SigCgt").to_owned()
    };
    let before = caught();
    for provider in [Provider::Tcp, Provider::Shm] {
        drop(Endpoint::open(provider, LOOPBACK).expect("endpoint"));
    }
    let after = caught();
    println!("{}", if before == after { "unchanged".to_owned() } else { after });
}
