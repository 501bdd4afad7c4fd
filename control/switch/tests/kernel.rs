//! The mirror against a real kernel: `ip` changes it, and the mirror says the same as `ip` shows.
//!
//! Runs in the lab's network namespace, and makes interfaces there.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use tidegate_dataplane::{
    packet::Mac,
    steering::{IpPrefix, NextHop, PortId},
};
use tidegate_switch::kernel::{Change, KernelRoute, Mirror, MirroredPort, TwinInterface, set_up};

const PATIENCE: Duration = Duration::from_secs(10);

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let status = Command::new(program).args(words).status().expect("started");
    assert!(status.success(), "{command}");
}

/// An interface with a carrier: somebody is at its other end.
fn add_link(name: &str) {
    run(&format!("ip link add {name} type veth peer name {name}p"));
    run(&format!("ip link set {name}p up"));
}

/// One test at a time: they share the kernel's tables.
static KERNEL: Mutex<()> = Mutex::new(());

/// Two interfaces with a name of this test's, which end with it.
struct Links(&'static str, #[allow(dead_code)] MutexGuard<'static, ()>);

impl Links {
    fn new(name: &'static str) -> Self {
        assert!(
            std::env::var_os("TIDEGATE_LAB").is_some(),
            "this test makes interfaces: run it in the lab, tests/lab/scripts/lab cargo test …"
        );
        let alone = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
        for end in ["a", "b"] {
            add_link(&format!("{name}{end}"));
        }
        let twin = |end: &str, addresses: &[(&str, u8)]| TwinInterface {
            name: format!("{name}{end}"),
            addresses: addresses.iter().map(|(text, len)| (ip(text), *len)).collect(),
        };
        let network = match name {
            "tgr" => 1,
            "tgn" => 2,
            "tgf" => 3,
            _ => 4,
        };
        let (v4, v6) = (format!("10.{network}.0.1"), format!("2001:db8:{network}::1"));
        set_up(&[twin("a", &[(&v4, 24), (&v6, 64)]), twin("b", &[])]).expect("set up");
        Self(name, alone)
    }

    fn ports(&self) -> Vec<MirroredPort> {
        let port = |(port, end)| MirroredPort { port, interface: format!("{}{end}", self.0) };
        [(PortId(3), "a"), (PortId(5), "b")].map(port).into()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for end in ["a", "b"] {
            let _ = Command::new("ip").args(["link", "del", &format!("{}{end}", self.0)]).status();
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().expect("a prefix")
}

fn via(text: &str) -> Option<KernelRoute> {
    Some(KernelRoute::Next(NextHop { port: PortId(3), via: Some(ip(text)) }))
}

/// What the mirror has told, put together.
struct Told {
    changes: Receiver<Vec<Change>>,
    routes: BTreeMap<IpPrefix, KernelRoute>,
    neighbours: BTreeMap<(PortId, IpAddr), Mac>,
}

impl Told {
    fn start(links: &Links) -> (Mirror, Self) {
        let (sender, changes) = mpsc::channel();
        let tell = move |batch| drop(sender.send(batch));
        let mirror = Mirror::start(&links.ports(), tell).expect("the kernel is followed");
        (mirror, Self { changes, routes: BTreeMap::new(), neighbours: BTreeMap::new() })
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            match change {
                Change::Route(prefix, Some(route)) => drop(self.routes.insert(prefix, route)),
                Change::Route(prefix, None) => drop(self.routes.remove(&prefix)),
                Change::Neighbour(port, address, Some(mac)) => {
                    self.neighbours.insert((port, address), mac);
                }
                Change::Neighbour(port, address, None) => {
                    self.neighbours.remove(&(port, address));
                }
            }
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            let left = PATIENCE.saturating_sub(started.elapsed());
            match self.changes.recv_timeout(left) {
                Ok(batch) => self.take(batch),
                Err(_) => panic!("{what}: {:?} {:?}", self.routes, self.neighbours),
            }
        }
    }

    #[track_caller]
    fn leads(&mut self, text: &str, route: Option<KernelRoute>) {
        let prefix = prefix(text);
        self.until(text, |told| told.routes.get(&prefix).copied() == route);
    }
}

#[test]
fn routes_as_the_kernel_uses_them() {
    let links = Links::new("tgr");
    run("ip route add 10.50.0.0/16 via 10.1.0.5");
    let (_mirror, mut told) = Told::start(&links);
    let on_link = Some(KernelRoute::Next(NextHop { port: PortId(3), via: None }));
    told.leads("10.1.0.0/24", on_link);
    told.leads("2001:db8:1::/64", on_link);
    told.leads("10.50.0.0/16", via("10.1.0.5"));

    run("ip route replace 10.50.0.0/16 via 10.1.0.6");
    told.leads("10.50.0.0/16", via("10.1.0.6"));
    // Another one to the same prefix counts when its metric is less.
    run("ip route add 10.50.0.0/16 via 10.1.0.7 metric 9");
    run("ip route add 10.51.0.0/16 via 10.1.0.7 metric 9");
    told.leads("10.51.0.0/16", via("10.1.0.7"));
    told.leads("10.50.0.0/16", via("10.1.0.6"));
    run("ip route del 10.50.0.0/16 via 10.1.0.6");
    told.leads("10.50.0.0/16", via("10.1.0.7"));
    run("ip route flush 10.50.0.0/16");
    told.leads("10.50.0.0/16", None);

    run("ip -6 route add 2001:db8:50::/48 via 2001:db8:1::5");
    told.leads("2001:db8:50::/48", via("2001:db8:1::5"));
    run("ip -6 route append 2001:db8:50::/48 via 2001:db8:1::6");
    run("ip -6 route del 2001:db8:50::/48 via 2001:db8:1::5");
    told.leads("2001:db8:50::/48", via("2001:db8:1::6"));

    run("ip route add 10.52.0.0/16 nexthop via 10.1.0.8 weight 1 nexthop via 10.1.0.9 weight 2");
    told.leads("10.52.0.0/16", via("10.1.0.8"));
    run("ip nexthop add id 7 via 10.1.0.9 dev tgra");
    run("ip route add 10.53.0.0/16 nhid 7");
    told.leads("10.53.0.0/16", via("10.1.0.9"));
    run("ip nexthop replace id 7 via 10.1.0.10 dev tgra");
    told.leads("10.53.0.0/16", via("10.1.0.10"));

    run("ip route add 10.56.0.0/16 via inet6 2001:db8:1::7 dev tgra");
    told.leads("10.56.0.0/16", via("2001:db8:1::7"));

    run("ip route add blackhole 10.54.0.0/16");
    run("ip route add 10.55.0.0/16 dev lo");
    told.leads("10.54.0.0/16", Some(KernelRoute::Unreachable));
    told.leads("10.55.0.0/16", Some(KernelRoute::Unreachable));
    told.leads("10.1.0.1/32", Some(KernelRoute::Host));
    told.leads("2001:db8:1::1/128", Some(KernelRoute::Host));
    run("ip addr add 10.255.0.1/32 dev lo");
    told.leads("10.255.0.1/32", Some(KernelRoute::Host));
    run("ip addr del 10.255.0.1/32 dev lo");
    told.leads("10.255.0.1/32", None);
    run("ip route del 10.54.0.0/16");
    run("ip route del 10.55.0.0/16");
    told.leads("10.55.0.0/16", None);

    // A link that goes down takes its routes along, of which IPv4's nobody tells.
    run("ip link set tgra down");
    told.until("no routes", |told| !told.routes.contains_key(&prefix("10.51.0.0/16")));
    told.until("no routes", |told| !told.routes.contains_key(&prefix("2001:db8:1::/64")));
    run("ip link set tgra up");
    told.leads("10.1.0.0/24", on_link);
    // An interface that is made anew is the same port.
    run("ip link del tgra");
    told.until("no link", |told| !told.routes.contains_key(&prefix("10.1.0.0/24")));
    add_link("tgra");
    run("ip addr add 10.1.0.1/24 dev tgra");
    run("ip link set tgra up");
    told.leads("10.1.0.0/24", on_link);
}

#[test]
fn neighbours_come_move_and_go() {
    let links = Links::new("tgn");
    let (mirror, mut told) = Told::start(&links);
    let (host, host6) = (ip("10.2.0.9"), ip("2001:db8:2::9"));
    let (one, two) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    run("ip neigh add 10.2.0.9 lladdr 02:00:00:00:00:01 dev tgna nud permanent");
    run("ip neigh add 2001:db8:2::9 lladdr 02:00:00:00:00:01 dev tgna nud reachable");
    let key = (PortId(3), host);
    told.until("known", |told| told.neighbours.get(&key) == Some(&one));
    told.until("known", |told| told.neighbours.get(&(PortId(3), host6)) == Some(&one));
    run("ip neigh replace 10.2.0.9 lladdr 02:00:00:00:00:02 dev tgna nud stale");
    told.until("moved", |told| told.neighbours.get(&key) == Some(&two));
    run("ip neigh del 10.2.0.9 dev tgna");
    told.until("gone", |told| !told.neighbours.contains_key(&key));

    // The kernel is made to look for one; nobody answers, but it has begun.
    mirror.find(PortId(3), ip("10.2.0.77"));
    let started = Instant::now();
    let looked_for = || {
        let shown = Command::new("ip").args(["neigh", "show", "10.2.0.77"]).output();
        let shown = shown.expect("shown").stdout;
        String::from_utf8_lossy(&shown).contains("10.2.0.77")
    };
    while !looked_for() {
        assert!(started.elapsed() < PATIENCE, "the kernel looks for it");
    }
}

#[test]
fn a_flood_of_changes_comes_to_what_the_kernel_has() {
    let links = Links::new("tgf");
    let (_mirror, mut told) = Told::start(&links);
    let mut batch = String::new();
    for n in 0..20_000u32 {
        batch += &format!("route add 100.{}.{}.0/24 via 10.3.0.5\n", n / 256, n % 256);
    }
    for n in (0..20_000u32).step_by(2) {
        batch += &format!("route del 100.{}.{}.0/24\n", n / 256, n % 256);
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch).expect("written");
    run(&format!("ip -batch {}", file.path().display()));
    let is_ours = |prefix: &&IpPrefix| prefix.to_string().starts_with("100.");
    told.until("all", |told| {
        let odd = told.routes.keys().filter(is_ours);
        odd.clone().count() == 10_000 && told.routes.contains_key(&prefix("100.78.31.0/24"))
    });
    run("ip route flush root 100.0.0.0/8");
    told.until("none", |told| !told.routes.keys().any(|prefix| is_ours(&prefix)));
}

/// In force within 10 ms is what users are promised; the mirror's part of it is measured with a table of common size.
#[test]
fn a_change_is_told_within_milliseconds() {
    let links = Links::new("tgl");
    let mut batch = String::new();
    for n in 0..1000 {
        batch += &format!("route add 101.{}.{}.0/24 via 10.4.0.5\n", n / 256, n % 256);
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch).expect("written");
    run(&format!("ip -batch {}", file.path().display()));
    let (_mirror, mut told) = Told::start(&links);
    told.leads("101.0.0.0/24", via("10.4.0.5"));
    let mut took = Vec::new();
    for n in 0..31 {
        run(&format!("ip route add 102.0.{n}.0/24 via 10.4.0.5"));
        let started = Instant::now();
        told.leads(&format!("102.0.{n}.0/24"), via("10.4.0.5"));
        took.push(started.elapsed());
    }
    took.sort();
    eprintln!("told after {:?} in the median, {:?} at most", took[15], took[30]);
    assert!(took[15] < Duration::from_millis(10), "{took:?}");
}
