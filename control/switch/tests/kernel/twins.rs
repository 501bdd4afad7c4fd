//! What a twin is set to, as those on its link see it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::rig::{Links, Other, PATIENCE, run, shown};

/// Whether somebody answers when `sender` asks for `target`.
fn is_answered(sender: &str, target: &str) -> bool {
    let mut ask = Command::new("ip");
    ask.args(["netns", "exec", "other", "busybox", "arping", "-f", "-c", "1", "-w", "1"]);
    let output = ask.args(["-I", "tgap", "-s", sender, target]).output().expect("started");
    output.status.success()
}

#[test]
fn questions_are_answered_whoever_asks_for_what_the_link_has() {
    let _links = Links::new();
    let _other = Other::new();
    run("ip -n other addr add 10.1.0.9/24 dev tgap");
    run("ip -n other addr add 172.16.0.9/24 dev tgap");
    run("ip addr add 10.2.0.1/24 dev tgb");
    assert!(is_answered("10.1.0.9", "10.1.0.1"));
    // No route leads to whoever asks.
    assert!(is_answered("172.16.0.9", "10.1.0.1"));
    // That is the other link's.
    assert!(!is_answered("10.1.0.9", "10.2.0.1"));
}

#[test]
fn the_kernel_asks_as_who_it_is_on_that_link() {
    let _links = Links::new();
    let _other = Other::new();
    run("ip addr add 10.255.0.1/32 dev lo");
    run("ip -n other addr add 10.1.0.9/24 dev tgap");
    // As a routing daemon that speaks for the box as a whole.
    let mut ping = Command::new("busybox");
    ping.args(["ping", "-c", "1", "-W", "1", "-I", "10.255.0.1", "10.1.0.9"]);
    // What is asked is looked at, not the answer, which finds no way back.
    ping.output().expect("started");
    let known = shown("ip -n other neigh show dev tgap");
    run("ip addr del 10.255.0.1/32 dev lo");
    assert!(known.contains("10.1.0.1 ") && !known.contains("10.255.0.1 "), "{known}");
}

#[test]
fn a_router_says_that_it_is_one_and_leaves_forwarding_to_workers() {
    let _links = Links::new();
    let _other = Other::new();
    run("ip -n other addr add 2001:db8:1::9/64 dev tgap nodad");
    run("ip -n other neigh replace 2001:db8:1::1 dev tgap use");
    let started = Instant::now();
    let shows = || shown("ip -n other neigh show 2001:db8:1::1 dev tgap");
    while !shows().contains("REACHABLE") {
        assert!(started.elapsed() < PATIENCE, "{}", shows());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(shows().contains("router"), "{}", shows());

    let forwarded = || {
        let counters = shown("cat /proc/net/snmp6 /proc/net/snmp");
        let ipv6 = counters.lines().find(|line| line.starts_with("Ip6OutForwDatagrams"));
        // The second line of `Ip:` has the numbers; the sixth of them is ForwDatagrams.
        let ipv4 = counters.lines().filter(|line| line.starts_with("Ip:")).nth(1);
        let last = |line: Option<&str>, at: usize| {
            let words: Vec<_> = line.expect("a counter").split_whitespace().collect();
            words[at].parse::<u64>().expect("a number")
        };
        (last(ipv6, 1), last(ipv4, 6))
    };
    let before = forwarded();
    run("ip addr add 10.2.0.1/24 dev tgb");
    run("ip addr add 2001:db8:2::1/64 dev tgb nodad");
    run("ip neigh add 10.2.0.9 lladdr 02:00:00:00:00:01 dev tgb nud permanent");
    run("ip neigh add 2001:db8:2::9 lladdr 02:00:00:00:00:01 dev tgb nud permanent");
    run("ip -n other addr add 10.1.0.9/24 dev tgap");
    for (route, target) in [
        ("10.2.0.0/24 via 10.1.0.1", "10.2.0.9"),
        ("2001:db8:2::/64 via 2001:db8:1::1", "2001:db8:2::9"),
    ] {
        run(&format!("ip -n other route add {route}"));
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", "other", "busybox", "ping", "-c", "1", "-W", "1", target]);
        assert!(!ping.output().expect("started").status.success());
    }
    assert_eq!(forwarded(), before);
}

#[test]
fn addresses_count_at_once_and_stay() {
    let _links = Links::new();
    let shows = || shown("ip addr show dev tga");
    // The kernel's own link-local address is asked for, whatever the link.
    let shown_now = shows();
    let mut ours = shown_now.lines().filter(|line| !line.contains("fe80:"));
    assert!(!ours.any(|line| line.contains("tentative")), "{shown_now}");
    run("ip link set tga down");
    run("ip link set tga up");
    for address in ["10.1.0.1/24", "2001:db8:1::1/64"] {
        assert!(shows().contains(address), "{}", shows());
    }
    assert!(!shows().contains("tentative"), "{}", shows());
}
