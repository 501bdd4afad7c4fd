//! Random commands to the kernel: whoever followed them all knows the same as who looks at the end.

use std::fmt::Write as _;

use tidegate_dataplane::steering::IpPrefix;
use tidegate_switch::kernel::KernelRoute;

use crate::rig::{Links, Told, batch, run, shown};

/// A generator of its own, so that a seed is enough to see a failure again (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// One command, which the kernel may refuse.
fn command(random: &mut Random) -> String {
    let verbs = ["add", "append", "prepend", "replace", "change", "del", "del"];
    let (verb, n) = (random.of(&verbs), random.below(4));
    let metric = random.of(&["", "", " metric 5", " metric 9", " tos 8"]);
    if random.below(2) == 0 {
        let hop = |random: &mut Random| match random.below(5) {
            0 => "via 10.2.0.5".to_owned(),
            n => format!("via 10.1.0.{n}"),
        };
        let target = match random.below(8) {
            0 => format!("nexthop {} nexthop {}", hop(random), hop(random)),
            1 => "dev tgb".to_owned(),
            2 => "dev lo".to_owned(),
            3 if verb == "del" => String::new(),
            _ => hop(random),
        };
        let kind = if random.below(12) == 0 { "blackhole " } else { "" };
        let target = if kind.is_empty() { &target } else { "" };
        return format!("route {verb} {kind}10.6{n}.0.0/16{metric} {target}");
    }
    let hop = |random: &mut Random| match random.below(5) {
        0 => "via 2001:db8:2::5".to_owned(),
        n => format!("via 2001:db8:1::{n}"),
    };
    let target = match random.below(8) {
        0 => format!("nexthop {} nexthop {}", hop(random), hop(random)),
        1 => "dev tgb".to_owned(),
        2 => "dev tga".to_owned(),
        3 if verb == "del" => String::new(),
        _ => hop(random),
    };
    // Behind routers of one metric the kernel does not list links of the same: nobody can look what it has.
    let metric = if target.starts_with("dev") { " metric 7" } else { metric };
    let metric = metric.trim_end_matches(" tos 8");
    format!("route {verb} 2001:db8:6{n}::/48{metric} {target}")
}

#[test]
fn following_comes_to_the_same_as_looking() {
    let _links = Links::new();
    run("ip addr add 10.2.0.1/24 dev tgb");
    run("ip addr add 2001:db8:2::1/64 dev tgb nodad");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    eprintln!("SEED={seed}");
    let mut random = Random(seed);
    let (_mirror, mut told) = Told::start();
    let mut done = String::new();
    for round in 0..60 {
        let mut lines = String::new();
        for _ in 0..1 + random.below(30) {
            writeln!(lines, "{}", command(&mut random)).expect("written");
        }
        batch(&lines);
        done += &lines;
        let (_looking, mut fresh) = Told::start();
        fresh.leads("10.1.0.1/32", Some(KernelRoute::Host));
        if !told.comes_to(|told| told.routes == fresh.routes) {
            let differs = |prefix: &&IpPrefix| told.routes.get(prefix) != fresh.routes.get(prefix);
            let all = told.routes.keys().chain(fresh.routes.keys());
            let prefix = *all.clone().find(differs).expect("they differ");
            let (told, is) = (told.routes.get(&prefix), fresh.routes.get(&prefix));
            let (text, mut of_it) = (prefix.to_string(), String::new());
            for line in done.lines().filter(|line| line.contains(&text)) {
                writeln!(of_it, "{line}").expect("written");
            }
            let shown = shown(&format!(
                "ip -d {} route show {text}",
                if prefix.address().is_ipv6() { "-6" } else { "-4" }
            ));
            panic!("SEED={seed}, round {round}: told {told:?}, is {is:?}\n{of_it}\n{shown}");
        }
    }
}
