//! Two interfaces that stand for ports, and what the mirror tells of them.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    process::{Command, Stdio},
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

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The first interface is this port.
pub(crate) const A: PortId = PortId(3);
/// The second one is this.
pub(crate) const B: PortId = PortId(5);

fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    command
}

pub(crate) fn run(line: &str) {
    let status = command(line).status().expect("started");
    assert!(status.success(), "{line}");
}

/// What a command prints.
pub(crate) fn shown(line: &str) -> String {
    let output = command(line).output().expect("started");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Have `ip` do all of this; what the kernel refuses is left out.
pub(crate) fn batch(lines: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), lines).expect("written");
    let line = format!("ip -force -batch {}", file.path().display());
    // With an exit code that says whether all went well, and complaints for what did not.
    command(&line).stderr(Stdio::null()).status().expect("started");
}

/// The other end of `tga`, in a namespace of its own, `other`.
pub(crate) struct Other;

impl Other {
    pub(crate) fn new() -> Self {
        run("ip netns add other");
        run("ip link set tgap netns other");
        run("ip netns exec other sysctl -qw net.ipv6.conf.tgap.disable_ipv6=0");
        run("ip -n other link set tgap up");
        Self
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        run("ip netns del other");
    }
}

/// An interface with a carrier: somebody is at its other end.
pub(crate) fn add_link(name: &str) {
    run(&format!("ip link add {name} type veth peer name {name}p"));
    run(&format!("ip link set {name}p up"));
}

/// One test at a time: they share the kernel's tables.
static KERNEL: Mutex<()> = Mutex::new(());

/// Two interfaces, `tga` with 10.1.0.1/24 and 2001:db8:1::1/64, and `tgb`. They end with it.
pub(crate) struct Links(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Links {
    pub(crate) fn new() -> Self {
        assert!(
            std::env::var_os("TIDEGATE_LAB").is_some(),
            "this test makes interfaces: run it in the lab, tests/lab/scripts/lab cargo test …"
        );
        let links = Self(KERNEL.lock().unwrap_or_else(PoisonError::into_inner));
        // Interfaces come as a host has them that is careful, and a router.
        for (setting, value) in [
            ("ipv4/conf/default/rp_filter", "1"),
            ("ipv4/conf/default/forwarding", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ] {
            fs::write(format!("/proc/sys/net/{setting}"), value).expect("set");
        }
        add_link("tga");
        add_link("tgb");
        let addresses = vec![(ip("10.1.0.1"), 24), (ip("2001:db8:1::1"), 64)];
        let twin =
            |name: &str, addresses| TwinInterface { name: name.to_owned(), addresses, vlan: None };
        set_up(&[twin("tga", addresses), twin("tgb", Vec::new())]).expect("set up");
        links
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for name in ["tga", "tgb"] {
            // A test may have taken it away itself.
            let _ = command(&format!("ip link del {name}")).status();
        }
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn prefix(text: &str) -> IpPrefix {
    text.parse().expect("a prefix")
}

/// Out by [`A`], to this router.
pub(crate) fn via(text: &str) -> Option<KernelRoute> {
    Some(KernelRoute::Next(NextHop { port: A, via: Some(ip(text)) }))
}

/// What the mirror has told, put together.
pub(crate) struct Told {
    changes: Receiver<Vec<Change>>,
    pub(crate) routes: BTreeMap<IpPrefix, KernelRoute>,
    pub(crate) neighbours: BTreeMap<(PortId, IpAddr), Mac>,
}

impl Told {
    pub(crate) fn start() -> (Mirror, Self) {
        Self::start_with(|| {})
    }

    /// With a mirror that is held up by this whenever it tells something.
    pub(crate) fn start_with(mut hold_up: impl FnMut() + Send + 'static) -> (Mirror, Self) {
        let (sender, changes) = mpsc::channel();
        let tell = move |batch| {
            hold_up();
            // Nobody listens any more at a test's end.
            drop(sender.send(batch));
        };
        let port = |(port, name): (PortId, &str)| MirroredPort { port, interface: name.to_owned() };
        let ports = [(A, "tga"), (B, "tgb")].map(port);
        let mirror = Mirror::start(&ports, tell).expect("the kernel is followed");
        (mirror, Self { changes, routes: BTreeMap::new(), neighbours: BTreeMap::new() })
    }

    pub(crate) fn take(&mut self, batch: Vec<Change>) {
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

    /// Listen until something is so; `false` when it does not come to that.
    pub(crate) fn comes_to(&mut self, mut is_so: impl FnMut(&Self) -> bool) -> bool {
        let started = Instant::now();
        while !is_so(self) {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let Ok(batch) = self.changes.recv_timeout(left) else { return false };
            self.take(batch);
        }
        true
    }

    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_so: impl FnMut(&Self) -> bool) {
        if !self.comes_to(is_so) {
            let (some, count) = (self.routes.iter().take(40), self.routes.len());
            let some: Vec<_> = some.collect();
            panic!("{what}: {count} routes {some:?}, neighbours {:?}", self.neighbours);
        }
    }

    #[track_caller]
    pub(crate) fn leads(&mut self, text: &str, route: Option<KernelRoute>) {
        let prefix = prefix(text);
        self.until(text, |told| told.routes.get(&prefix).copied() == route);
    }
}
