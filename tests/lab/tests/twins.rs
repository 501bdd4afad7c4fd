//! A box whose ports have twins: the kernel answers for the box, finds its neighbours, and its routes are the box's.
//!
//! Two hosts, `west` and `east`, each in a namespace with one port of the box.

use std::{
    fs::{self, File},
    net::UdpSocket,
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tidegate_lab::{
    Lab,
    api::Api,
    process::{Process, built, output, run, wait_until},
    pulse::Pulse,
};

const LIMIT: Duration = Duration::from_secs(20);
/// What users are promised.
const IN_FORCE: Duration = Duration::from_millis(10);

/// A box between two hosts.
struct Network {
    switch_box: Process,
    api: Api,
    lab: Lab,
    socket: String,
}

fn connect(socket: &str) -> Api {
    Api::new(socket, "unix:/none", "unix:/none").expect("endpoints")
}

fn ip(words: &str) {
    run(Command::new("ip").args(words.split_whitespace())).expect("done");
}

impl Network {
    fn start() -> Self {
        let lab = Lab::new().expect("a lab");
        let socket = format!("unix:{}", lab.dir().join("tidegated.sock").display());
        let mut text = format!(
            r#"[eal]
memory_mib = 256
args = ["--file-prefix=tidegate-lab"]
[workers]
cpus = [0, 1]
sessions = 65536
[api]
listen = ["{socket}"]
"#
        );
        for (number, side) in ["west", "east"].iter().enumerate() {
            text += &format!(
                r#"
[[port]]
name = "{side}"
device = "net_tap{number},iface=tg-{side}"
mac = "02:00:00:00:0{number}:01"
addresses = ["10.{number}.0.1/24", "2001:db8:{number}::1/64"]
role = "uplink"
twin = "tk-{side}"
"#
            );
        }
        let config = lab.dir().join("tidegated.toml");
        fs::write(&config, text).expect("written");
        let mut command = Command::new(built("tidegated").expect("built"));
        command.arg("--config").arg(config);
        let mut switch_box = Process::start("tidegated", &mut command, lab.dir()).expect("started");
        switch_box.wait_for("ready", LIMIT).expect("ready");
        for (number, side) in ["west", "east"].iter().enumerate() {
            // One that a panic left behind.
            let _ = output(Command::new("ip").args(["netns", "delete", side]));
            ip(&format!("netns add {side}"));
            ip(&format!("link set tg-{side} netns {side}"));
            ip(&format!("-n {side} link set lo up"));
            ip(&format!("-n {side} link set tg-{side} address 02:00:00:00:0{number}:09"));
            ip(&format!("-n {side} link set tg-{side} up"));
            ip(&format!("-n {side} addr add 10.{number}.0.9/24 dev tg-{side}"));
            ip(&format!("-n {side} addr add 2001:db8:{number}::9/64 dev tg-{side} nodad"));
            ip(&format!("-n {side} route add default via 10.{number}.0.1"));
            ip(&format!("-n {side} route add default via 2001:db8:{number}::1"));
        }
        let api = connect(&socket);
        Self { switch_box, api, lab, socket }
    }

    /// Every packet has come to an end, and the box to its own.
    fn stop(mut self) {
        wait_until("each packet has one outcome", LIMIT, || {
            let counters = self.api.counters()?;
            let outcomes: u64 = counters.outcomes.iter().map(|outcome| outcome.packets).sum();
            Ok((outcomes == counters.received).then_some(()))
        })
        .expect("the sum of outcomes is what was received");
        let status = self.switch_box.terminate(LIMIT).expect("ends");
        assert!(status.success(), "{}", self.switch_box.printed());
        for side in ["west", "east"] {
            ip(&format!("netns delete {side}"));
        }
    }
}

/// Whether `target` answers somebody in `side`, within a second.
fn answers(side: &str, target: &str) -> anyhow::Result<Option<()>> {
    let mut ping = Command::new("ip");
    ping.args(["netns", "exec", side, "busybox", "ping", "-c", "1", "-W", "1", target]);
    Ok(output(&mut ping)?.status.success().then_some(()))
}

fn expect_answer(side: &str, target: &str) {
    wait_until(&format!("{target} answers {side}"), LIMIT, || answers(side, target)).expect("so");
}

#[test]
fn the_kernel_speaks_for_the_box_and_workers_forward_by_what_it_knows() {
    let network = Network::start();
    for (side, own, other) in [("west", 0, 1), ("east", 1, 0)] {
        expect_answer(side, &format!("10.{own}.0.1"));
        expect_answer(side, &format!("2001:db8:{own}::1"));
        // The box's other address is its own, too.
        expect_answer(side, &format!("10.{other}.0.1"));
        expect_answer(side, &format!("2001:db8:{other}::1"));
    }
    // Nobody has told the box where they are: the kernel asks.
    ip("neigh flush all");
    ip("-6 neigh flush all");
    expect_answer("west", "10.1.0.9");
    expect_answer("west", "2001:db8:1::9");

    // Routes, and who is behind them.
    ip("-n east addr add 10.70.0.9/32 dev lo");
    ip("-n east addr add 2001:db8:70::9/128 dev lo");
    assert!(answers("west", "10.70.0.9").expect("asked").is_none());
    ip("route add 10.70.0.0/16 via 10.1.0.9");
    ip("-6 route add 2001:db8:70::/48 via 2001:db8:1::9");
    expect_answer("west", "10.70.0.9");
    expect_answer("west", "2001:db8:70::9");
    ip("-n east addr add 10.71.0.9/32 dev lo");
    ip("route add 10.71.0.9/32 dev tk-east");
    expect_answer("west", "10.71.0.9");
    // By the link-local address of a router.
    let found = run(Command::new("ip").args(["-n", "east", "addr", "show", "dev", "tg-east"]));
    let found = found.expect("shown");
    let mut words = found.split_whitespace();
    let router = words.find(|word| word.starts_with("fe80:")).expect("a link-local address");
    let router = router.trim_end_matches("/64");
    ip(&format!("-6 route replace 2001:db8:70::/48 via {router} dev tk-east"));
    expect_answer("west", "2001:db8:70::9");
    ip("route replace unreachable 10.70.0.0/16");
    assert!(answers("west", "10.70.0.9").expect("asked").is_none());

    // A neighbour that is said to be elsewhere is looked for there.
    ip("neigh replace 10.1.0.9 lladdr 02:00:00:00:01:66 dev tk-east nud permanent");
    assert!(answers("west", "10.1.0.9").expect("asked").is_none());
    ip("neigh replace 10.1.0.9 lladdr 02:00:00:00:01:09 dev tk-east nud permanent");
    expect_answer("west", "10.1.0.9");
    // So is one who answers no more.
    ip("-n east link set tg-east address 02:00:00:00:01:0a");
    ip("neigh del 10.1.0.9 dev tk-east");
    expect_answer("west", "10.1.0.9");
    network.stop();
}

/// `bird` in `command`'s network with this configuration.
fn bird(lab: &Lab, name: &str, mut command: Command, config: &str) -> Process {
    let file = |ending: &str| lab.dir().join(format!("{name}.{ending}"));
    fs::write(file("conf"), config).expect("written");
    command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl"));
    Process::start(name, &mut command, lab.dir()).expect("started")
}

/// One side of a session over each family with `east`.
fn bgp(local: u32, remote: u32, channel: &str) -> String {
    let (local_as, remote_as) = (65_000 + local, 65_000 + remote);
    let session = |family, prefix: &str| {
        format!(
            "protocol bgp {{ local {prefix}{local} as {local_as}; neighbor {prefix}{remote} as {remote_as};
               connect delay time 1; error wait time 1, 1; {family} {{ {channel} }}; }}\n"
        )
    };
    let sessions = session("ipv4", "10.1.0.") + &session("ipv6", "2001:db8:1::");
    format!("router id 10.1.0.{local};\nprotocol device {{}}\n{sessions}")
}

#[test]
fn a_routing_daemon_on_the_twins_says_what_is_behind_whom() {
    let network = Network::start();
    let in_east = |program: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "east", program]);
        command
    };
    ip("-n east addr add 10.73.0.9/32 dev lo");
    ip("-n east addr add 2001:db8:73::9/128 dev lo");
    let east = bgp(9, 1, "import none; export all; next hop self;")
        + "protocol static { ipv4; route 10.73.0.0/16 blackhole; }\n"
        + "protocol static { ipv6; route 2001:db8:73::/48 blackhole; }\n";
    let own = bgp(1, 9, "import all; export none;")
        + "protocol kernel { ipv4 { import none; export all; }; }\n"
        + "protocol kernel { ipv6 { import none; export all; }; }\n";
    let mut daemon = bird(&network.lab, "bird-own", Command::new("bird"), &own);
    let mut peer = bird(&network.lab, "bird-east", in_east("bird"), &east);
    for target in ["10.73.0.9", "2001:db8:73::9"] {
        expect_answer("west", target);
    }
    peer.kill().expect("killed");
    for target in ["10.73.0.9", "2001:db8:73::9"] {
        let gone = || Ok(answers("west", target)?.is_none().then_some(()));
        wait_until(&format!("{target} is withdrawn"), LIMIT, gone).expect("so");
    }
    daemon.terminate(LIMIT).expect("ends");
    network.stop();
}

/// Let the calling thread be in `side`'s network from now on.
fn move_to(side: &str) {
    let namespace = File::open(format!("/run/netns/{side}")).expect("a namespace");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
}

#[test]
fn a_route_is_in_force_within_milliseconds() {
    const TIMES: usize = 41;
    const MOST: usize = TIMES * 95 / 100;
    let network = Network::start();
    expect_answer("west", "10.1.0.9");
    // Others are there already.
    let mut lines = String::new();
    for n in 0..50_000 {
        lines += &format!("route add 100.{}.{}.0/24 via 10.1.0.9\n", n / 256, n % 256);
    }
    let batch = network.lab.dir().join("routes");
    fs::write(&batch, lines).expect("written");
    ip(&format!("-batch {}", batch.display()));
    ip("-n east route add local 10.72.0.0/16 dev lo");
    ip("-n east addr add 100.195.79.9/32 dev lo");
    // The last of them: all are in force.
    expect_answer("west", "100.195.79.9");

    let pulse = Pulse::watch(connect(&network.socket));
    let target = |n: usize| format!("10.72.{n}.9:7000");
    let stop = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        let received = scope.spawn(|| {
            move_to("east");
            let socket = UdpSocket::bind("0.0.0.0:7000").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            let mut first: [Option<Instant>; TIMES] = [None; TIMES];
            while !stop.load(Relaxed) {
                let mut number = [0];
                if socket.recv(&mut number).is_ok() {
                    first[usize::from(number[0])].get_or_insert_with(Instant::now);
                }
            }
            first
        });
        let sent = scope.spawn(|| {
            move_to("west");
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            while !stop.load(Relaxed) {
                for n in 0..TIMES {
                    // Refused while there is no route: the box says so.
                    let _ = socket.send_to(&[n as u8], target(n));
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        let mut done = Vec::new();
        for n in 0..TIMES {
            ip(&format!("route add 10.72.{n}.0/24 via 10.1.0.9"));
            done.push(Instant::now());
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(Duration::from_millis(200));
        stop.store(true, Relaxed);
        sent.join().expect("sent");
        let first = received.join().expect("received");
        let took = first.iter().zip(&done).map(|(first, done)| {
            first.expect("every route came into force").saturating_duration_since(*done)
        });
        let mut took: Vec<_> = took.collect();
        took.sort();
        took
    });
    pulse.end().expect("no route stalls a worker");
    let [half, most, all] = [TIMES / 2, MOST, TIMES - 1].map(|at| took[at]);
    eprintln!("in force after {half:?} in the median, {most:?} in 95 %, {all:?} at most");
    assert!(most < IN_FORCE, "{took:?}");
    network.stop();
}
