//! Many routes, and many changes at once.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::rig::{Links, Told, batch, prefix, run, shown, via};

/// `count` routes to prefixes of 24 bits, from this one on.
fn routes(verb: &str, first: u8, count: u32) -> String {
    let mut lines = String::new();
    for n in 0..count {
        let (a, b, c) = (u32::from(first) + (n >> 16), n >> 8 & 255, n & 255);
        writeln!(lines, "route {verb} {a}.{b}.{c}.0/24 via 10.1.0.5").expect("written");
    }
    lines
}

#[test]
fn a_flood_of_changes_comes_to_what_the_kernel_has() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    let mut lines = routes("add", 100, 20_000);
    for n in (0..20_000u32).step_by(2) {
        writeln!(lines, "route del 100.{}.{}.0/24", n / 256, n % 256).expect("written");
    }
    batch(&lines);
    let is_ours = |prefix: &str| prefix.starts_with("100.");
    let table = shown("ip route show");
    let words = table.lines().filter_map(|line| line.split_whitespace().next());
    let mut kernels: Vec<_> = words.filter(|word| is_ours(word)).map(str::to_owned).collect();
    kernels.sort();
    assert_eq!(kernels.len(), 10_000);
    told.until("all", |told| {
        let ours = told.routes.keys().map(ToString::to_string);
        let mut ours: Vec<_> = ours.filter(|it| is_ours(it)).collect();
        ours.sort();
        ours == kernels
    });
    run("ip route flush root 100.0.0.0/8");
    told.until("none", |told| !told.routes.keys().any(|prefix| is_ours(&prefix.to_string())));
}

/// The kernel keeps only so many notifications for whoever does not listen.
#[test]
fn what_was_not_heard_is_read() {
    let _links = Links::new();
    let gate = Arc::new(Mutex::new(()));
    let wait = Arc::clone(&gate);
    let (_mirror, mut told) = Told::start_with(move || drop(wait.lock()));
    let closed = gate.lock().expect("nobody panics with it");
    batch(&routes("add", 100, 200_000));
    batch(&routes("del", 101, 65_536));
    drop(closed);
    told.until("all but what is gone", |told| {
        let has = |text: &str| told.routes.contains_key(&prefix(text));
        let count = told.routes.keys().filter(|prefix| prefix.len() == 24).count();
        // With the link's own.
        count == 200_000 - 65_536 + 1 && has("103.13.63.0/24") && !has("101.0.0.0/24")
    });
}

/// In force within 10 ms is what users are promised. The mirror's part of it is measured beside as many routes as the
/// largest networks have inside, and while a table is being filled.
#[test]
fn a_change_is_told_within_milliseconds() {
    let _links = Links::new();
    batch(&routes("add", 101, 150_000));
    let (_mirror, mut told) = Told::start();
    told.leads("101.0.0.0/24", via("10.1.0.5"));
    told.leads("103.73.239.0/24", via("10.1.0.5"));
    let mut took = Vec::new();
    for n in 0..31 {
        let started = std::time::Instant::now();
        run(&format!("ip route add 120.0.{n}.0/24 via 10.1.0.5"));
        // What `ip` needs to end is not counted, the kernel's notification comes before it.
        let ended = std::time::Instant::now();
        told.until("told", |told| told.routes.contains_key(&prefix(&format!("120.0.{n}.0/24"))));
        took.push((ended.elapsed(), started.elapsed()));
    }
    took.sort();
    eprintln!("told after {:?} in the median, {:?} at most", took[15], took[30]);
    assert!(took[15].0 < Duration::from_millis(10), "{took:?}");
}
