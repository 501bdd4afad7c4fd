//! Sockets as Linux lists them in `/proc/net/{tcp,tcp6,udp,udp6}`.
//!
//! A line has the words number, local end, remote end, state, five of no interest here, and the inode: 0 when no program
//! has the socket. An end is an address and a port in hexadecimal digits; an address is written in 32-bit words, each as
//! a little-endian machine reads it.
//!
//! Source: the kernel's Documentation/networking/proc_net_tcp.rst; numbers of states in include/net/tcp_states.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Protocol, Socket, SocketState};

/// A file that lists sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Where it is.
    pub(crate) path: &'static str,
    protocol: Protocol,
    /// A kernel may be without this family.
    pub(crate) optional: bool,
}

/// All of them. `self` and not the agent's process number: every process sees its own.
pub(crate) const TABLES: [Table; 4] = [
    Table { path: "/proc/net/tcp", protocol: Protocol::Tcp, optional: false },
    Table { path: "/proc/net/tcp6", protocol: Protocol::Tcp, optional: true },
    Table { path: "/proc/net/udp", protocol: Protocol::Udp, optional: false },
    Table { path: "/proc/net/udp6", protocol: Protocol::Udp, optional: true },
];

/// A table that does not look like one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTable {
    #[error("{path} has no heading")]
    Heading { path: &'static str },
    #[error("line {line} of {path}: {what} is not as the kernel writes it")]
    Line { path: &'static str, line: usize, what: &'static str },
    #[error("{path} ends in the middle of line {line}")]
    Cut { path: &'static str, line: usize },
}

impl Table {
    /// The sessions in it.
    pub(crate) fn parse(&self, contents: &[u8]) -> Result<Vec<Socket>, BadTable> {
        let path = self.path;
        let mut lines = contents.split_inclusive(|byte| *byte == b'\n').zip(1..);
        match lines.next() {
            Some((heading, _)) if heading.trim_ascii_start().starts_with(b"sl ") => {}
            _ => return Err(BadTable::Heading { path }),
        }
        let mut sockets = Vec::new();
        for (text, line) in lines {
            let text = text.strip_suffix(b"\n").ok_or(BadTable::Cut { path, line })?;
            let socket = self.line(text).map_err(|what| BadTable::Line { path, line, what })?;
            sockets.extend(socket);
        }
        Ok(sockets)
    }

    /// None for a socket without a session.
    fn line(&self, text: &[u8]) -> Result<Option<Socket>, &'static str> {
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next().filter(|word| word.ends_with(b":")).ok_or("the number")?;
        let local = words.next().and_then(end).ok_or("the local end")?;
        let remote = words.next().and_then(end).ok_or("the remote end")?;
        let state = words.next().filter(|word| word.len() == 2).and_then(hex).ok_or("the state")?;
        let inode = words.nth(5).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let inode: u64 = inode.ok_or("the inode")?;
        let state = match (self.protocol, state) {
            (Protocol::Tcp, 2 | 3 | 12) => SocketState::Opening,
            (_, 1) => SocketState::Established,
            // FIN_WAIT. Without a program that reads, the kernel gives it up in a minute.
            (Protocol::Tcp, 4 | 5) if inode == 0 => SocketState::Closing,
            (Protocol::Tcp, 4 | 5) => SocketState::ClosedLocally,
            (Protocol::Tcp, 8) => SocketState::ClosedRemotely,
            (Protocol::Tcp, 9 | 11) => SocketState::Closing,
            // TIME_WAIT, CLOSE, LISTEN; a UDP socket that is not connected.
            (_, 6 | 7 | 10) => return Ok(None),
            _ => return Err("the state"),
        };
        Ok(Some(Socket { protocol: self.protocol, local, remote, state }))
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let plain = digits.iter().all(u8::is_ascii_hexdigit) && digits.len() <= 8;
    let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    u32::from_str_radix(text, 16).ok()
}

fn end(word: &[u8]) -> Option<SocketAddr> {
    let colon = word.iter().position(|byte| *byte == b':')?;
    let (address, port) = (&word[..colon], &word[colon + 1..]);
    let port = hex(port).filter(|_| port.len() == 4)?;
    let octets = |digits: &[u8]| hex(digits).map(u32::to_le_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(octets(address)?)),
        32 => {
            let mut all = [0; 16];
            for (word, octets_of) in all.chunks_exact_mut(4).zip(address.chunks_exact(8)) {
                word.copy_from_slice(&octets(octets_of)?);
            }
            // A socket for both families has IPv4 addresses in IPv6's form.
            IpAddr::V6(Ipv6Addr::from(all)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::try_from(port).ok()?))
}

#[cfg(test)]
#[path = "procfs_tests.rs"]
mod tests;
