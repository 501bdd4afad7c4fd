//! One test per thing that can be wrong: the message says where, what and what to do.

use std::path::Path;

use tidegate_dataplane::{
    packet::tunnel::Encap,
    steering::{Quic, Tunnel},
};

use super::{carrier::FIRST_VLAN, *};

/// A file that is right; cases change one thing each.
const GOOD: &str = r#"[eal]
hugepages = false
memory_mib = 64
args = ["--log-level=4"]
[workers]
cpus = [0, 1]
idle = "poll"
sessions = 4096
sessions_ipv6 = 2048
[api]
listen = ["unix:/run/tidegated.sock", "127.0.0.1:7430"]
[timeouts]
linger = 2
udp = 30
[[port]]
name = "uplink"
device = "net_tap0,iface=tg-uplink"
addresses = ["10.9.0.1/24"]
role = "uplink"
[[port]]
name = "east"
device = "net_tap1,iface=tg-east"
mac = "02:00:00:00:00:fe"
addresses = ["10.8.0.1/24"]
role = "access"
[[port]]
name = "west"
device = "0000:03:00.0"
mac = "02:00:00:00:00:fe"
addresses = ["10.8.0.1/24"]
role = "access"
[[neighbour]]
address = "10.9.0.254"
mac = "02:00:00:00:09:fe"
port = "uplink"
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.254"
[[address]]
address = "10.8.0.100"
home = { name = "blue", port = "east", mac = "02:00:00:00:08:0b", rewrite = "l2" }
[[address]]
address = "10.8.0.101"
home = { name = "red", port = "west", mac = "02:00:00:00:08:0c", rewrite = "nat", locator = "10.8.0.12" }
"#;

fn parse_text(text: &str) -> Result<Config, ConfigError> {
    parse(Path::new("tidegated.toml"), text)
}

/// The message for [`GOOD`] with `from` replaced by `to`; it must place the error at `line`.
#[track_caller]
fn wrong(from: &str, to: &str, line: usize) -> String {
    assert!(GOOD.contains(from), "`{from}` is not in the file");
    let message = parse_text(&GOOD.replacen(from, to, 1)).expect_err("refused").to_string();
    let place = format!("tidegated.toml:{line}:");
    assert!(message.starts_with(&place), "expected {place} in: {message}");
    message
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for words in words {
        assert!(message.contains(words), "`{words}` in: {message}");
    }
}

#[test]
fn a_right_file_gives_valid_types() {
    let config = parse_text(GOOD).expect("valid");
    assert_eq!(
        config.eal,
        Eal {
            hugepages: false,
            memory_mib: 64,
            mbufs: None,
            max_ports: 7,
            args: vec!["--log-level=4".into()]
        }
    );
    assert_eq!(
        config.workers,
        Workers { cpus: vec![0, 1], idle: Idle::Poll, sessions: Capacity { v4: 4096, v6: 2048 } }
    );
    assert_eq!(config.listen.len(), 2);
    assert_eq!((config.timeouts.linger_ms, config.timeouts.udp_ms), (2_000, 30_000));
    assert_eq!(config.timeouts.echo_ms, Timeouts::default().echo_ms);
    assert_eq!((config.ports.len(), config.ports[2].mac), (3, Some(Mac([2, 0, 0, 0, 0, 0xfe]))));
    assert_eq!(config.ports[0].addresses[0].to_string(), "10.9.0.1/24");
    let hop = NextHop { port: PortId(0), via: Some([10, 9, 0, 254].into()) };
    assert_eq!(config.routes, [("0.0.0.0/0".parse().expect("prefix"), hop)]);
    assert_eq!(
        config.addresses[1].home.rewrite,
        tidegate_dataplane::steering::Rewrite::Nat([10, 8, 0, 12].into())
    );
}

/// [`GOOD`] with a VLAN on the uplink as its first port, whose lines are these.
fn with_vlan(lines: &str) -> String {
    let port = format!("[[port]]\nname = \"uplink.100\"\n{lines}\nrole = \"uplink\"\n[[port]]");
    GOOD.replacen("[[port]]", &port, 1)
}

#[test]
fn vlans_share_a_device() {
    let text = with_vlan("on = \"uplink\"\nvlan = \"100.7\"\nmtu = 1400");
    let text = text.replace("on = \"uplink\"", "addresses = [\"10.6.0.1/24\"]\non = \"east\"");
    let config = parse_text(&text).expect("valid");
    let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["uplink", "east", "west", "uplink.100"], "devices come first");
    let port = &config.ports[3];
    let tags = "100.7".parse().expect("VLANs");
    let link = Link::Device { device: PortId(1), tags, mtu: 1400 };
    assert_eq!((port.link(), port.device()), (link, None));
    assert_eq!(port.id, PortId(FIRST_VLAN), "no device's number");
    assert_eq!(port.mac, config.ports[1].mac, "the device's");
    assert_eq!(config.ports[1].link(), Link::untagged(PortId(1)));
}

#[test]
fn vlans_that_cannot_be() {
    let wrong = |lines: &str, line: usize, words: &[&str]| {
        let error = parse_text(&with_vlan(lines)).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("tidegated.toml:{line}:")), "line {line} in: {error}");
        says(&error, words);
    };
    wrong("on = \"up\"\nvlan = \"100\"", 17, &["`up`", "`uplink`"]);
    wrong("on = \"uplink\"\nvlan = \"4095\"", 18, &["`4095`", "1 to 4094"]);
    wrong("on = \"uplink\"\nvlan = \"1.2.3\"", 18, &["`1.2.3`", "outer, inner"]);
    wrong("on = \"uplink\"", 17, &["needs the VLAN", "vlan = \"100\""]);
    wrong("vlan = \"100\"", 17, &["on = "]);
    wrong("", 16, &["`uplink.100`", "no device", "net_tap0"]);
    wrong("device = \"net_null9\"\non = \"uplink\"\nvlan = \"1\"", 17, &["remove device"]);
    wrong("on = \"uplink\"\nvlan = \"1\"\ntwin = \"t\"", 19, &["twin", "`uplink`"]);
    let long = with_vlan("on = \"east\"\nvlan = \"100.200\"");
    let east = "name = \"east\"\n";
    let long = long.replacen(east, &format!("{east}twin = \"tk-east\"\n"), 1);
    assert!(parse_text(&long).is_ok(), "15 bytes");
    let long = long.replacen("tk-east", "tk-east0", 1);
    let error = parse_text(&long).expect_err("refused").to_string();
    says(&error, &[":18:", "`tk-east0.100.200`", "longer than 15", "`east`"]);
    wrong("on = \"uplink\"\nvlan = \"1\"\nmtu = 1501", 19, &["1501", "1500", "`uplink`"]);
    wrong("on = \"uplink\"\nvlan = \"1\"\nmtu = 100", 19, &["mtu = 100", "576"]);
    let again =
        "on = \"uplink\"\nvlan = \"5\"\nrole = \"access\"\n[[port]]\nname = \"b\"\non = \"uplink\"";
    wrong(&format!("{again}\nvlan = \"5\""), 23, &["VLAN 5", "`uplink.100`"]);
    let nested =
        again.replacen("name = \"b\"\non = \"uplink\"", "name = \"b\"\non = \"uplink.100\"", 1);
    wrong(&format!("{nested}\nvlan = \"6\""), 22, &["`uplink.100`", "VLAN itself"]);
}

/// [`GOOD`] with the first address's home like this.
fn with_home(home: &str) -> String {
    let before = "home = { name = \"blue\", port = \"east\", mac = \"02:00:00:00:08:0b\", rewrite = \"l2\" }";
    assert!(GOOD.contains(before));
    GOOD.replacen(before, &format!("home = {{ name = \"blue\", rewrite = \"l2\", {home} }}"), 1)
}

#[test]
fn homes_behind_another_switch() {
    let home = |text: &str| parse_text(&with_home(text)).expect("valid").addresses[0].home.clone();
    let ends = "remote = \"192.0.2.7\", local = \"10.9.0.1\"";
    let tunnel = |encap| {
        let (local, remote) = ([10, 9, 0, 1].into(), [192, 0, 2, 7].into());
        Some(Tunnel { encap, local, remote })
    };
    let blue = home(&format!(
        "mac = \"02:00:00:00:08:0b\", encap = {{ kind = \"vxlan\", {ends}, vni = 7 }}"
    ));
    assert_eq!(blue.tunnel, tunnel(Encap::Vxlan { port: 4789, vni: 7 }));
    assert_eq!(blue.port, PortId(0), "the one with the address");
    let blue =
        home(&format!("port = \"east\", encap = {{ kind = \"gue\", {ends}, udp_port = 6081 }}"));
    assert_eq!((blue.tunnel, blue.port), (tunnel(Encap::Gue { port: 6081 }), PortId(1)));
    let blue = home(&format!("encap = {{ kind = \"ipip\", {ends} }}"));
    assert_eq!((blue.tunnel, blue.mac), (tunnel(Encap::Ipip), crate::steering::NO_MAC));
}

#[test]
fn tunnels_that_cannot_be() {
    let wrong = |home: &str, words: &[&str]| {
        let error = parse_text(&with_home(home)).expect_err("refused").to_string();
        assert!(error.starts_with("tidegated.toml:41:"), "{error}");
        says(&error, words);
    };
    let encap =
        |text: &str| format!("encap = {{ remote = \"192.0.2.7\", local = \"10.9.0.1\", {text} }}");
    let mac = "mac = \"02:00:00:00:08:0b\"";
    wrong(mac, &["neither port nor encap"]);
    wrong("port = \"east\"", &["no mac"]);
    wrong(&encap("kind = \"gre\""), &["`gre`", "`ipip`", "`vxlan`"]);
    wrong(&encap("kind = \"gue\", vni = 3"), &["vni", "vxlan"]);
    wrong(&encap("kind = \"ipip\", udp_port = 3"), &["udp_port", "no UDP"]);
    wrong(&encap("kind = \"vxlan\", vni = 16777216"), &["vni = 16777216", "16777215"]);
    wrong(&encap("kind = \"vxlan\", udp_port = 0"), &["udp_port = 0"]);
    wrong(&encap("kind = \"vxlan\""), &["no mac"]);
    wrong(&format!("{mac}, {}", encap("kind = \"ipip\"")), &["mac", "no Ethernet frames"]);
    let ends = |remote, local| {
        format!("encap = {{ kind = \"ipip\", remote = \"{remote}\", local = \"{local}\" }}")
    };
    wrong(&ends("192.0.2.7", "10.9.0.7"), &["10.9.0.7", "no address of this box"]);
    wrong(&ends("10.8.0.1", "10.9.0.1"), &["10.8.0.1", "own", "`east`"]);
    wrong(&ends("2001:db8::1", "10.9.0.1"), &["2001:db8::1", "family"]);
    wrong(&ends("224.0.0.1", "10.9.0.1"), &["224.0.0.1", "unicast"]);
}

#[test]
fn where_an_address_speaks_quic() {
    let with_quic = |quic: &str| {
        let address = "address = \"10.8.0.100\"";
        assert!(GOOD.contains(address));
        GOOD.replacen(address, &format!("{address}\nquic = {{ {quic} }}"), 1)
    };
    let quic = |text: &str| parse_text(&with_quic(text)).expect("valid").addresses[0].quic;
    let expected = |ports| Some(Quic { ports, connection_id_len: 8 });
    assert_eq!(quic("connection_id_length = 8"), expected([443, 0, 0, 0]));
    assert_eq!(quic("connection_id_length = 8, ports = [1, 65535]"), expected([1, 65535, 0, 0]));
    assert_eq!(parse_text(GOOD).expect("valid").addresses[0].quic, None);
    let wrong = |text: &str, words: &[&str]| {
        let error = parse_text(&with_quic(text)).expect_err("refused").to_string();
        assert!(error.starts_with("tidegated.toml:41:"), "{error}");
        says(&error, words);
    };
    wrong("connection_id_length = 0", &["connection_id_length: 0", "1 to 20"]);
    wrong("connection_id_length = 8, ports = [70000]", &["70000", "1 to 65535"]);
    wrong("connection_id_length = 8, ports = [1, 2, 3, 4, 5]", &["5", "at most 4"]);
}

#[test]
fn most_of_it_can_be_left_out() {
    let config = parse_text(
        "[api]\nlisten = [\"unix:/a\"]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\nrole = \"uplink\"\n",
    );
    let config = config.expect("valid");
    assert_eq!(
        config.eal,
        Eal { hugepages: true, memory_mib: 512, mbufs: None, max_ports: 5, args: vec![] }
    );
    assert_eq!(
        config.workers,
        Workers { cpus: vec![0], idle: Idle::Sleep, sessions: Capacity { v4: 65_536, v6: 16_384 } }
    );
    assert_eq!(config.timeouts, Timeouts::default());
}

#[test]
fn keys_that_do_not_exist() {
    says(
        &wrong("memory_mib", "memory", 3),
        &["`memory`", "allowed here: `hugepages`, `memory_mib`, `mbufs`, `max_ports`, `args`"],
    );
    says(&wrong("idle", "ilde", 7), &["`ilde`", "`idle`"]);
    says(&wrong("[[neighbour]]", "[[neighbor]]", 32), &["`neighbor`", "`neighbour`"]);
    says(&wrong("locator =", "locater =", 44), &["`locater`", "`locator`"]);
}

#[test]
fn values_out_of_range() {
    says(&wrong("cpus = [0, 1]", "cpus = []", 6), &["cpus is empty", "cpus = [0]"]);
    says(&wrong("cpus = [0, 1]", "cpus = [0, 0]", 6), &["CPU 0", "twice"]);
    says(&wrong("cpus = [0, 1]", "cpus = [0, 4096]", 6), &["4096", "0 to 1023"]);
    says(&wrong("sessions = 4096", "sessions = 1", 8), &["sessions = 1", "1024 to 16777216"]);
    says(&wrong("sessions = 4096", "sessions = 99999999", 8), &["sessions = 99999999"]);
    says(&wrong("memory_mib = 64", "memory_mib = 1", 3), &["memory_mib = 1", "16 to"]);
    says(&wrong("memory_mib = 64", "mbufs = 1", 3), &["mbufs = 1", "2048 to"]);
    says(&wrong("memory_mib = 64", "max_ports = 2", 3), &["max_ports = 2", "3 to 256"]);
    says(&wrong("linger = 2", "linger = 0", 13), &["linger = 0", "1 to 604800"]);
    says(&wrong("\"poll\"", "\"nap\"", 7), &["`nap`", "`sleep`", "`poll`"]);
}

#[test]
fn endpoints() {
    says(
        &wrong("unix:/run/tidegated.sock", "tidegated.sock", 11),
        &["`tidegated.sock`", "unix:/absolute/path"],
    );
    says(&wrong("127.0.0.1:7430", "unix:/run/tidegated.sock", 11), &["listed twice"]);
    let none =
        GOOD.replace("listen = [\"unix:/run/tidegated.sock\", \"127.0.0.1:7430\"]", "listen = []");
    says(
        &parse_text(&none).expect_err("none").to_string(),
        &["tidegated.toml:11:", "listen is empty"],
    );
}

#[test]
fn ports() {
    says(&wrong("name = \"west\"", "name = \"east\"", 27), &["two ports are named `east`"]);
    says(&wrong("name = \"west\"", "name = \"w st\"", 27), &["`w st`", "letters"]);
    says(&wrong("0000:03:00.0", "net_tap1,iface=other", 28), &["`east`", "its own device"]);
    says(&wrong("0000:03:00.0", "", 28), &["DPDK device", "net_tap0"]);
    says(&wrong("10.9.0.1/24", "10.9.0.1", 18), &["`10.9.0.1`", "10.0.0.0/24"]);
    says(&wrong("10.9.0.1/24", "10.9.0.1/33", 18), &["at most 32"]);
    says(&wrong("10.9.0.1/24", "127.0.0.1/8", 18), &["127.0.0.1", "unicast"]);
    says(
        &wrong("role = \"access\"\n[[port]]", "role = \"inside\"\n[[port]]", 25),
        &["`inside`", "`uplink`"],
    );
    let message =
        wrong("mac = \"02:00:00:00:00:fe\"\naddresses", "mac = \"02:00:00:00:00\"\naddresses", 23);
    says(&message, &["`02:00:00:00:00`", "six hexadecimal bytes"]);
    says(&wrong("02:00:00:00:00:fe", "ff:ff:ff:ff:ff:ff", 23), &["group address"]);
    let none = "[api]\nlisten = [\"unix:/a\"]\n";
    let none = parse_text(none).expect("ports may be added later");
    assert_eq!((none.ports.len(), none.eal.max_ports), (0, 4));
}

#[test]
fn addresses_that_are_taken() {
    // An anycast gateway needs one MAC.
    says(
        &wrong("02:00:00:00:00:fe", "02:00:00:00:00:fd", 30),
        &["10.8.0.1/24", "`east`", "same mac"],
    );
    let twice = wrong("[\"10.9.0.1/24\"]", "[\"10.9.0.1/24\", \"10.9.0.1/24\"]", 18);
    says(&twice, &["10.9.0.1", "already an address of port `uplink`"]);
    let uplink = wrong("\"10.8.0.1/24\"]", "\"10.9.0.1/24\"]", 24);
    says(&uplink, &["10.9.0.1/24", "port `uplink`", "role = \"access\""]);
    let prefix = wrong("\"10.8.0.1/24\"]", "\"10.9.0.9/24\"]", 24);
    says(&prefix, &["10.9.0.9/24", "`uplink`", "one link only"]);
}

#[test]
fn managed_addresses() {
    says(&wrong("10.8.0.101", "10.8.0.100", 43), &["10.8.0.100", "already a managed address"]);
    says(
        &wrong("address = \"10.8.0.100\"", "address = \"10.9.0.1\"", 40),
        &["address of port `uplink`"],
    );
    says(&wrong("10.8.0.12", "10.8.0.100", 44), &["10.8.0.100", "managed address"]);
    says(&wrong("10.8.0.12", "10.8.0.1", 44), &["10.8.0.1", "address of port `east`"]);
    says(&wrong("10.8.0.101", "10.8.0.256", 43), &["`10.8.0.256`", "IP address"]);
    says(
        &wrong("port = \"east\", mac", "port = \"north\", mac", 41),
        &["`north`", "`uplink`, `east`, `west`"],
    );
    says(&wrong(", locator = \"10.8.0.12\"", "", 44), &["needs a locator"]);
    says(
        &wrong("rewrite = \"l2\"", "rewrite = \"l2\", locator = \"10.8.0.9\"", 41),
        &["remove it"],
    );
    says(&wrong("rewrite = \"l2\"", "rewrite = \"l3\"", 41), &["`l3`", "`nat`"]);
    says(&wrong("02:00:00:00:08:0b", "02:00:00:00:08", 41), &["MAC"]);
    says(&wrong("name = \"blue\"", "name = \"\"", 41), &["backend", "letters"]);
}

#[test]
fn neighbours_and_routes() {
    says(&wrong("port = \"uplink\"", "port = \"up\"", 35), &["`up`", "`uplink`"]);
    says(
        &wrong("address = \"10.9.0.254\"", "address = \"10.8.0.100\"", 33),
        &["managed address", "remove"],
    );
    let twice = "[[neighbour]]\naddress = \"10.9.0.254\"\nmac = \"02:00:00:00:09:01\"\nport = \"uplink\"\n[[route]]";
    says(&wrong("[[route]]", twice, 37), &["10.9.0.254", "twice"]);
    says(&wrong("0.0.0.0/0", "10.9.0.0/24", 37), &["already a route to 10.9.0.0/24"]);
    says(&wrong("0.0.0.0/0", "default", 37), &["`default`"]);
    says(
        &wrong("via = \"10.9.0.254\"", "via = \"10.7.0.1\"", 38),
        &["10.7.0.1", "no link of any port"],
    );
    says(
        &wrong("via = \"10.9.0.254\"", "via = \"10.9.0.254\"\nport = \"east\"", 38),
        &["port `east`"],
    );
}

#[test]
fn link_local_addresses_are_each_link_s_own() {
    let text = GOOD
        .replace("\"10.9.0.1/24\"", "\"10.9.0.1/24\", \"2001:db8:9::1/64\", \"fe80::1/64\"")
        .replace("\"10.8.0.1/24\"", "\"10.8.0.1/24\", \"fe80::1/64\"")
        .replace("[[address]]\naddress = \"10.8.0.100\"", "[[route]]\nto = \"::/0\"\nvia = \"fe80::1\"\nport = \"west\"\n[[address]]\naddress = \"10.8.0.100\"");
    let config = parse_text(&text).expect("valid");
    let gateway: IpAddr = "fe80::1".parse().expect("an address");
    let has = |port: &PortConfig| port.addresses.iter().any(|own| own.address == gateway);
    assert!(config.ports.iter().all(has));
    let (_, hop) = config.routes[1];
    assert_eq!(hop, NextHop { port: config.ports[2].id, via: Some(gateway) });

    let refused = |from: &str, to: &str, words: &[&str]| {
        assert!(text.contains(from));
        says(&parse_text(&text.replacen(from, to, 1)).expect_err("wrong").to_string(), words);
    };
    refused("\nport = \"west\"\n[[address]]", "\n[[address]]", &["fe80::1", "by which port"]);
    let twice = "\"fe80::1/64\", \"fe80::1/64\"";
    refused("\"fe80::1/64\"", twice, &["fe80::1", "already an address of port `uplink`"]);
    refused("address = \"10.8.0.100\"", "address = \"fe80::9\"", &["fe80::9", "its own link only"]);
    refused("\"2001:db8:9::1/64\"", "\"ff02::1/64\"", &["ff02::1", "unicast"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nonexistent/tidegated.toml")).expect_err("missing");
    says(&error.to_string(), &["/nonexistent/tidegated.toml"]);
}

/// The example explains every key there is: what an unknown key is told of is in it.
#[test]
fn the_example_has_every_key() {
    let example = include_str!("../../../../deploy/examples/tidegated.toml");
    let port = "[[port]]\nname = \"p\"\nrole = \"access\"\n";
    let address = "[[address]]\naddress = \"10.0.0.1\"\n";
    let sections = [
        "",
        "[eal]\n",
        "[routes]\n",
        "[workers]\n",
        "[timeouts]\n",
        "[api]\nlisten = []\n",
        port,
        "[[neighbour]]\n",
        "[[route]]\n",
        address,
        &format!("{address}quic = {{ connection_id_length = 8, nothing = 1 }}\n"),
        &format!("{address}home = {{ name = \"a\", nothing = 1 }}\n"),
        &format!("{address}home = {{ encap = {{ kind = \"ipip\", nothing = 1 }} }}\n"),
    ];
    for section in sections {
        let error = parse_text(&format!("{section}nothing = 1\n")).expect_err("refused");
        let error = error.to_string();
        let (_, allowed) = error.split_once("allowed here: ").unwrap_or_else(|| panic!("{error}"));
        for key in allowed.split(", ").map(|key| key.trim().trim_matches('`')) {
            let is_there = example.lines().any(|line| {
                let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                words.into_iter().any(|word| word == key)
            });
            assert!(is_there, "`{key}` is in no line of the example");
        }
    }
}
