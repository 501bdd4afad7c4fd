use proptest::prelude::*;

use super::*;

const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

fn table(index: usize, lines: &str) -> Result<Vec<Socket>, BadTable> {
    TABLES[index].parse(format!("{HEADING}{lines}").as_bytes())
}

fn line(local: &str, remote: &str, state: &str) -> String {
    format!(
        "   7: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 31 1\n"
    )
}

#[test]
fn sessions_are_found_and_others_left_out() {
    let lines = [
        line("00000000:1B58", "00000000:0000", "0A"),
        line("6400090A:1B58", "0200090A:9C40", "01"),
        line("6400090A:1B58", "0200090A:9C41", "03"),
        line("6400090A:1B58", "0200090A:9C42", "05"),
        line("6400090A:1B58", "0200090A:9C43", "06"),
    ];
    let found = table(0, &lines.concat()).expect("understood");
    let shown: Vec<_> =
        found.iter().map(|it| format!("{} {} {:?}", it.local, it.remote, it.state)).collect();
    assert_eq!(
        shown,
        [
            "10.9.0.100:7000 10.9.0.2:40000 Established",
            "10.9.0.100:7000 10.9.0.2:40001 Opening",
            "10.9.0.100:7000 10.9.0.2:40002 ClosedLocally",
        ]
    );
    assert!(found.iter().all(|socket| socket.protocol == Protocol::Tcp));
}

#[test]
fn who_has_closed_is_told_and_what_nobody_reads_any_more_is_over_soon() {
    let state = |code: &str, inode: &str| {
        let text = line("6400090A:1B58", "0200090A:9C40", code)
            .replace(" 31 1\n", &format!(" {inode} 1\n"));
        table(0, &text).expect("understood")[0].state
    };
    assert_eq!(
        (state("04", "9"), state("05", "9")),
        (SocketState::ClosedLocally, SocketState::ClosedLocally)
    );
    assert_eq!((state("04", "0"), state("05", "0")), (SocketState::Closing, SocketState::Closing));
    assert_eq!(
        (state("08", "9"), state("08", "0")),
        (SocketState::ClosedRemotely, SocketState::ClosedRemotely)
    );
    assert_eq!((state("09", "0"), state("0B", "0")), (SocketState::Closing, SocketState::Closing));
    // Nobody has accepted it yet.
    assert_eq!(state("01", "0"), SocketState::Established);
}

#[test]
fn ipv6_and_ipv4_in_its_form() {
    let v6 = line(
        "B80D0120000000000000000001000000:0050",
        "B80D0120000000000000000002000000:1F90",
        "01",
    );
    let mapped = line(
        "0000000000000000FFFF00006400090A:0050",
        "0000000000000000FFFF00000200090A:1F90",
        "08",
    );
    let found = table(1, &(v6 + &mapped)).expect("understood");
    assert_eq!(found[0].local, "[2001:db8::1]:80".parse().expect("end"));
    assert_eq!(found[0].remote, "[2001:db8::2]:8080".parse().expect("end"));
    assert_eq!(found[1].local, "10.9.0.100:80".parse().expect("end"));
    assert_eq!((found[1].remote.port(), found[1].state), (8080, SocketState::ClosedRemotely));
}

#[test]
fn only_connected_udp_is_a_session() {
    let lines = line("00000000:0035", "00000000:0000", "07")
        + &line("6400090A:0035", "0200090A:9C40", "01");
    let found = table(2, &lines).expect("understood");
    assert_eq!((found.len(), found[0].protocol), (1, Protocol::Udp));
}

#[test]
fn what_no_kernel_writes_is_named_with_its_line() {
    let good = line("6400090A:1B58", "0200090A:9C40", "01");
    let wrong = |lines: String| table(0, &lines).expect_err("refused").to_string();
    let says = wrong(good.clone() + &line("6400090A:1B58", "0200090:9C40", "01"));
    assert_eq!(says, "line 3 of /proc/net/tcp: the remote end is not as the kernel writes it");
    assert!(wrong(line("6400090A1B58", "0200090A:9C40", "01")).contains("the local end"));
    assert!(wrong(line("6400090A:1B58", "0200090A:9C40", "7F")).contains("line 2"));
    assert!(wrong(line("+400090A:1B58", "0200090A:9C40", "01")).contains("the local end"));
    assert!(wrong("nonsense\n".to_owned()).contains("the number"));
    assert!(wrong(good.replace(" 31 1", " x")).contains("the inode"));
    assert!(wrong(good.replace(" 31 1", "")).contains("the inode"));
    assert_eq!(wrong(good.trim_end().to_owned()), "/proc/net/tcp ends in the middle of line 2");
    let says = TABLES[0].parse(good.as_bytes()).expect_err("refused").to_string();
    assert_eq!(says, "/proc/net/tcp has no heading");
    assert_eq!(TABLES[0].parse(b"").expect_err("refused").to_string(), says);
}

/// As the kernel writes it.
fn written(address: SocketAddr) -> String {
    let words: Vec<u8> = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word =
        |four: &[u8]| format!("{:08X}", u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    format!("{}:{:04X}", words.chunks(4).map(word).collect::<String>(), address.port())
}

proptest! {
    #[test]
    fn whatever_the_kernel_writes_is_read_back(local: u32, remote: u32, high: u64, low: u64, ports: (u16, u16)) {
        let v4 = |bits, port| SocketAddr::new(Ipv4Addr::from_bits(bits).into(), port);
        let found = table(0, &line(&written(v4(local, ports.0)), &written(v4(remote, ports.1)), "01"));
        let found = found.expect("understood");
        prop_assert_eq!((found[0].local, found[0].remote), (v4(local, ports.0), v4(remote, ports.1)));
        // Not all zero at the front: that could be IPv4 in IPv6's form.
        let v6 = Ipv6Addr::from_bits(u128::from(high | 1) << 64 | u128::from(low));
        let end = SocketAddr::new(v6.into(), ports.0);
        let found = table(1, &line(&written(end), &written(end), "01")).expect("understood");
        prop_assert_eq!((found[0].local, found[0].remote), (end, end));
    }

    #[test]
    fn no_table_is_too_strange(bytes: Vec<u8>, words in "[ 0-9A-F:]{0,200}", at in 0_usize..60, byte: u8) {
        for table in TABLES {
            let _ = table.parse(&bytes);
            let _ = table.parse(&[HEADING.as_bytes(), &bytes].concat());
            let _ = table.parse(format!("{HEADING} 1: {words}\n").as_bytes());
            let mut spoilt = line("6400090A:1B58", "0200090A:9C40", "01").into_bytes();
            spoilt[at] = byte;
            let _ = table.parse(&[HEADING.as_bytes(), &spoilt].concat());
        }
    }
}
