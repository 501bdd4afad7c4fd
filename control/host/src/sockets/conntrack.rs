//! Sessions as the host's kernel tracks them, in `/proc/net/nf_conntrack`.
//!
//! A line has the words `ipv4 2 tcp 6`, seconds left, for TCP a state, then `src= dst= sport= dport=` of the
//! direction the session began in, then the same of the answers, with marks in brackets and more between them:
//!
//! ```text
//! ipv4 2 tcp 6 431999 ESTABLISHED src=10.0.0.9 dst=10.0.0.1 sport=4000 dport=80 src=10.0.0.1 dst=10.0.0.9 sport=80 dport=4000 [ASSURED] mark=0 use=1
//! ```
//!
//! Whichever direction goes to the guest's address has its client for a source, however the kernel rewrites addresses.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{Protocol, Socket, SocketState};
use crate::HostError;

const TABLE: &str = "/proc/net/nf_conntrack";

/// Sessions of `addresses` in the kernel's table.
pub(super) fn sockets(addresses: &[IpAddr]) -> Result<Vec<Socket>, HostError> {
    let table = match File::open(TABLE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(HostError::Precondition(format!(
                "{TABLE} is not there: this host's kernel tracks no connections, or is built without \
                 CONFIG_NF_CONNTRACK_PROCFS; use the guest agent, or give the list as a file"
            )));
        }
        opened => opened.map_err(HostError::file("open", TABLE))?,
    };
    let mut sockets = Vec::new();
    for (line, number) in BufReader::new(table).split(b'\n').zip(1..) {
        let line = line.map_err(HostError::file("read", TABLE))?;
        let found = parse(&line, addresses).map_err(|what| HostError::File {
            what: "understand",
            path: Path::new(TABLE).to_owned(),
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {number}: {what} is not as the kernel writes it"),
            ),
        })?;
        sockets.extend(found);
    }
    Ok(sockets)
}

/// None for another protocol, another address, and a session that is over.
fn parse(line: &[u8], addresses: &[IpAddr]) -> Result<Option<Socket>, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "the text")?;
    let mut words = text.split_ascii_whitespace();
    let protocol = match words.nth(2).ok_or("the protocol")? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Ok(None),
    };
    // Its number and the seconds left.
    let state = words.nth(2).ok_or("the state")?;
    let state = match (protocol, state) {
        (Protocol::Udp, _) => SocketState::Established,
        (Protocol::Tcp, "SYN_SENT" | "SYN_RECV" | "SYN_SENT2") => SocketState::Opening,
        (Protocol::Tcp, "ESTABLISHED") => SocketState::Established,
        // It does not say who closed, and gives it up itself in a minute or two.
        (Protocol::Tcp, "FIN_WAIT" | "CLOSE_WAIT" | "LAST_ACK") => SocketState::Closing,
        (Protocol::Tcp, "TIME_WAIT" | "CLOSE" | "NONE") => return Ok(None),
        _ => return Err("the state"),
    };
    let mut values = Values(text);
    let directions = [values.direction()?, values.direction()?];
    let ours = directions.iter().find(|direction| addresses.contains(&direction.to.ip()));
    Ok(ours.map(|ours| Socket { protocol, local: ours.to, remote: ours.from, state }))
}

struct Direction {
    from: SocketAddr,
    to: SocketAddr,
}

/// The rest of a line, in which values have names.
struct Values<'a>(&'a str);

impl<'a> Values<'a> {
    fn direction(&mut self) -> Result<Direction, &'static str> {
        let source = address(self.take("src=")?).ok_or("src")?;
        let destination = address(self.take("dst=")?).ok_or("dst")?;
        let source_port = self.take("sport=")?.parse().map_err(|_| "sport")?;
        let destination_port = self.take("dport=")?.parse().map_err(|_| "dport")?;
        Ok(Direction {
            from: SocketAddr::new(source, source_port),
            to: SocketAddr::new(destination, destination_port),
        })
    }

    /// The next value of this name.
    fn take(&mut self, name: &'static str) -> Result<&'a str, &'static str> {
        loop {
            let rest = self.0.trim_ascii_start();
            let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
            let (word, rest) = rest.split_at(end);
            if word.is_empty() {
                return Err(name);
            }
            self.0 = rest;
            if let Some(value) = word.strip_prefix(name) {
                return Ok(value);
            }
        }
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: &str = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.9 dst=10.0.0.1 sport=4000 dport=80 \
                       src=10.1.0.5 dst=10.0.0.9 sport=8080 dport=4000 [ASSURED] mark=0 zone=0 use=2";

    fn found(line: &str, address: &str) -> Option<String> {
        let addresses = [address.parse().expect("address")];
        let socket = parse(line.as_bytes(), &addresses).expect("understood")?;
        Some(format!("{:?} {} {} {:?}", socket.protocol, socket.local, socket.remote, socket.state))
    }

    #[test]
    fn a_session_is_found_by_the_address_its_client_knows() {
        let there = Some("Tcp 10.0.0.1:80 10.0.0.9:4000 Established".to_owned());
        assert_eq!(found(TCP, "10.0.0.1"), there);
        assert_eq!(found(TCP, "10.1.0.5"), None, "what answers is another one");
        // One that the guest began, and that goes out under another address.
        let began = "ipv4 2 udp 17 28 src=10.1.0.5 dst=9.9.9.9 sport=5353 dport=53 [UNREPLIED] src=9.9.9.9 \
                     dst=10.0.0.1 sport=53 dport=40000 mark=0 use=1";
        let there = Some("Udp 10.0.0.1:40000 9.9.9.9:53 Established".to_owned());
        assert_eq!(found(began, "10.0.0.1"), there);
        let v6 = "ipv6 10 tcp 6 60 SYN_RECV src=2001:db8:0:0:0:0:0:9 dst=2001:db8::1 sport=1 dport=2 src=2001:db8::1 \
                  dst=2001:db8::9 sport=2 dport=1 mark=0 use=1";
        let there = Some("Tcp [2001:db8::1]:2 [2001:db8::9]:1 Opening".to_owned());
        assert_eq!(found(v6, "2001:db8::1"), there);
    }

    #[test]
    fn what_is_over_or_has_no_ports_is_passed_over() {
        assert_eq!(found(&TCP.replace("ESTABLISHED", "TIME_WAIT"), "10.0.0.1"), None);
        let icmp = "ipv4 2 icmp 1 29 src=10.0.0.9 dst=10.0.0.1 type=8 code=0 id=7 src=10.0.0.1 dst=10.0.0.9 type=0";
        assert_eq!(found(icmp, "10.0.0.1"), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let addresses = ["10.0.0.1".parse().expect("address")];
        let wrong = |line: &str| parse(line.as_bytes(), &addresses).expect_err("refused");
        assert_eq!(wrong(&TCP.replace("ESTABLISHED", "DREAMING")), "the state");
        assert_eq!(wrong(&TCP.replace("dport=80 ", "")), "src=");
        assert_eq!(wrong(&TCP.replace("dst=10.0.0.1", "dst=ten")), "dst");
        assert_eq!(wrong("ipv4 2"), "the protocol");
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line: Vec<u8>, cut in 0..TCP.len(), at in 0..TCP.len(), byte: u8) {
            let addresses = ["10.0.0.1".parse().expect("address")];
            let _ = parse(&line, &addresses);
            let _ = parse(&TCP.as_bytes()[..cut], &addresses);
            let mut spoilt = TCP.as_bytes().to_vec();
            spoilt[at] = byte;
            let _ = parse(&spoilt, &addresses);
        }
    }
}
