//! Neighbours: found, kept, moved, forgotten.

use std::{
    fs,
    time::{Duration, Instant},
};

use tidegate_dataplane::packet::Mac;

use crate::rig::{A, B, Links, Other, PATIENCE, Told, ip, run, shown};

const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const TWO: Mac = Mac([2, 0, 0, 0, 0, 2]);

#[test]
fn neighbours_come_move_and_go() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    let (host, host6) = (ip("10.1.0.9"), ip("2001:db8:1::9"));
    run("ip neigh add 10.1.0.9 lladdr 02:00:00:00:00:01 dev tga nud permanent");
    run("ip neigh add 2001:db8:1::9 lladdr 02:00:00:00:00:01 dev tga nud reachable");
    told.until("known", |told| told.neighbours.get(&(A, host)) == Some(&ONE));
    told.until("known", |told| told.neighbours.get(&(A, host6)) == Some(&ONE));
    run("ip neigh replace 10.1.0.9 lladdr 02:00:00:00:00:02 dev tga nud stale");
    told.until("moved", |told| told.neighbours.get(&(A, host)) == Some(&TWO));
    run("ip neigh del 10.1.0.9 dev tga");
    told.until("gone", |told| !told.neighbours.contains_key(&(A, host)));
    run("ip neigh add fe80::9 lladdr 02:00:00:00:00:01 dev tga nud permanent");
    run("ip neigh add fe80::9 lladdr 02:00:00:00:00:02 dev tgb nud permanent");
    told.until("each on its link", |told| {
        let on = |port| told.neighbours.get(&(port, ip("fe80::9")));
        on(A) == Some(&ONE) && on(B) == Some(&TWO)
    });
    run("ip link set tga down");
    told.until("gone with the link", |told| !told.neighbours.contains_key(&(A, host6)));
}

#[test]
fn the_kernel_looks_for_who_is_missing() {
    let _links = Links::new();
    let (mirror, _told) = Told::start();
    for missing in ["10.1.0.77", "2001:db8:1::77"] {
        mirror.find(A, ip(missing));
        let started = Instant::now();
        // Nobody answers, but it has begun.
        while !shown(&format!("ip neigh show {missing}")).contains(missing) {
            assert!(started.elapsed() < PATIENCE, "the kernel looks for {missing}");
        }
    }
}

/// Workers' packets do not touch the kernel's entries: without more they would grow stale, and old.
#[test]
fn who_is_there_is_kept_and_who_is_not_is_forgotten() {
    let _links = Links::new();
    for (setting, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
        fs::write(format!("/proc/sys/net/ipv4/neigh/tga/{setting}"), value).expect("set");
    }
    let (_mirror, mut told) = Told::start();
    // The interface's other end answers for itself, and for nobody else.
    let _other = Other::new();
    run("ip -n other addr add 10.1.0.9/24 dev tgap");
    let other = shown("ip netns exec other cat /sys/class/net/tgap/address");
    run(&format!("ip neigh add 10.1.0.9 lladdr {} dev tga nud stale", other.trim()));
    run("ip neigh add 10.1.0.10 lladdr 02:00:00:00:00:01 dev tga nud stale");
    told.until("both", |told| told.neighbours.len() == 2);
    told.until("one is not there", |told| !told.neighbours.contains_key(&(A, ip("10.1.0.10"))));
    let started = Instant::now();
    while !shown("ip neigh show 10.1.0.9 dev tga").contains("REACHABLE") {
        assert!(started.elapsed() < PATIENCE, "asked, and answered");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(told.neighbours.contains_key(&(A, ip("10.1.0.9"))));
}
