use proptest::prelude::*;

use super::*;

const PRINTED: &str = "\
Netid State      Recv-Q Send-Q              Local Address:Port     Peer Address:Port  Process
tcp   LISTEN     0      128                       0.0.0.0:443           0.0.0.0:*
tcp   ESTAB      0      36                       10.0.0.1:443         192.0.2.7:51022 users:((\"sshd\",pid=7,fd=4))

# what follows is from another guest
udp   ESTAB      0      0                 10.0.0.1%eth0:5353          192.0.2.7:53
tcp   FIN-WAIT-2 0      0      [::ffff:10.0.0.1]:443  [::ffff:192.0.2.8]:1
tcp   TIME-WAIT  0      0                        10.0.0.1:443         192.0.2.9:2
tcp   SYN-RECV   0      0            [2001:db8::1]:443    [2001:db8::7]%eth0:3
udp   UNCONN     0      0                               *:53                  *:*
";

fn shown(sessions: &[Session]) -> Vec<String> {
    let show =
        |it: &Session| format!("{:?} {} {} {:?}", it.protocol, it.local, it.client, it.state);
    sessions.iter().map(show).collect()
}

#[test]
fn what_ss_prints_is_understood() {
    assert_eq!(
        shown(&parse(PRINTED).expect("good")),
        [
            "Tcp 10.0.0.1:443 192.0.2.7:51022 Established",
            "Udp 10.0.0.1:5353 192.0.2.7:53 Established",
            "Tcp 10.0.0.1:443 192.0.2.8:1 ClosedLocally",
            "Tcp [2001:db8::1]:443 [2001:db8::7]:3 Opening",
        ]
    );
    let without =
        parse("State Recv-Q Send-Q\nESTAB 0 0 10.0.0.1:443 192.0.2.7:51022\n").expect("good");
    assert_eq!(shown(&without), ["Tcp 10.0.0.1:443 192.0.2.7:51022 Established"]);
    assert_eq!(parse(""), Ok(Vec::new()));
}

#[test]
fn the_line_that_is_wrong_is_named() {
    let wrong = |line: &str| parse(&format!("\n{line}\n")).expect_err("refused");
    let good = "tcp ESTAB 0 0 10.0.0.1:443 192.0.2.7:51022";
    assert_eq!(wrong("10.0.0.1 10.0.0.2").0, 2);
    assert!(wrong("u_str ESTAB 0 0 * 1 * 2").1.contains("`tcp` or `udp`"));
    assert!(wrong(&good.replace("ESTAB", "DREAM")).1.contains("nor with a state"));
    assert!(wrong(&good.replace("0 0", "0")).1.contains("two numbers"));
    assert!(wrong(&good.replace("443", "https")).1.contains("the local end"));
    assert!(wrong(&good.replace("192.0.2.7", "client")).1.contains("the remote end"));
    assert!(wrong("tcp ESTAB 0 0 10.0.0.1:443").1.contains("the remote end"));
    assert!(wrong("tcp ESTAB 0 0 2001:db8::1:443 [2001:db8::2]:1").1.contains("the local end"));
}

#[test]
fn only_an_ordinary_file_is_read() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("list");
    let error = load(&path).expect_err("missing").to_string();
    assert!(
        error.starts_with(&format!("cannot read the session list {}: ", path.display())),
        "{error}"
    );
    let error = load(dir.path()).expect_err("a directory").to_string();
    assert!(error.ends_with("it is not an ordinary file"), "{error}");
    std::fs::write(&path, format!("{PRINTED}oops\n")).expect("written");
    let error = load(&path).expect_err("line 11").to_string();
    assert!(
        error.starts_with(&format!("line 11 of the session list {}: it begins", path.display())),
        "{error}"
    );
    std::fs::write(&path, PRINTED).expect("written");
    assert_eq!(load(&path).expect("good").len(), 4);
}

fn any_end() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::new(IpAddr::V4(ip.into()), port)),
        any::<(u128, u16)>()
            .prop_map(|(ip, port)| SocketAddr::new(IpAddr::V6((ip | 1 << 127).into()), port)),
    ]
}

proptest! {
    #[test]
    fn every_end_is_read_back(local in any_end(), client in any_end(), queued: (u64, u64)) {
        let line = format!("ESTAB {} {} {local} {client} ino:7", queued.0, queued.1);
        let sessions = parse(&line).expect("good");
        prop_assert_eq!((sessions[0].local, sessions[0].client), (local, client));
    }

    #[test]
    fn no_file_is_too_strange(text: String, cut in 0..PRINTED.len(), words in "[a-zA-Z0-9 :.%*\\[\\]\n-]{0,200}") {
        let _ = parse(&text);
        let _ = parse(&words);
        let _ = parse(&format!("tcp ESTAB 0 0 {words}"));
        let _ = parse(PRINTED.get(..cut).unwrap_or_default());
    }
}
