//! A list in a file, as `ss -tun` prints it (`ss -tn`, too), with or without headings.
//!
//! A line has the words protocol (`tcp`, `udp`; without it: TCP), state, two numbers of waiting bytes, local end,
//! remote end, and more that is of no interest. Empty lines and lines that begin with `#` are passed over, and so
//! is what is not a session: listening, unconnected, or over.
//!
//! ```text
//! tcp ESTAB 0 0 10.0.0.1:443 192.0.2.7:51022
//! ```

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{Protocol, Session, State};

/// Longest file: room for a million sessions.
const MAX_BYTES: u64 = 128 << 20;

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file cannot be read.
    #[error("cannot read the session list {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too long.
    #[error("the session list {} has more than {MAX_BYTES} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// A line is no session.
    #[error(
        "line {line} of the session list {}: {what}; write what `ss -tun` prints in the source",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The sessions in the file at `path`.
pub(super) fn load(path: &Path) -> Result<Vec<Session>, ListError> {
    let read = || {
        let file = File::open(path)?;
        // Anything else could keep us waiting, or have no end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not an ordinary file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| ListError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ListError::Long { path: path.to_owned() });
    }
    let wrong =
        |(line, what): (usize, &'static str)| ListError::Line { path: path.to_owned(), line, what };
    parse(&String::from_utf8_lossy(&bytes)).map_err(wrong)
}

/// The sessions, or the first line that is wrong and why.
fn parse(text: &str) -> Result<Vec<Session>, (usize, &'static str)> {
    let mut sessions = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        sessions.extend(session(line).map_err(|what| (number, what))?);
    }
    Ok(sessions)
}

fn session(line: &str) -> Result<Option<Session>, &'static str> {
    let mut words = line.split_ascii_whitespace().peekable();
    let protocol = match words.peek() {
        None | Some(&("Netid" | "State")) => return Ok(None),
        Some(word) if word.starts_with('#') => return Ok(None),
        Some(&"udp") => Protocol::Udp,
        Some(_) => Protocol::Tcp,
    };
    words.next_if(|word| matches!(*word, "tcp" | "udp"));
    let state = match words.next() {
        Some("SYN-SENT" | "SYN-RECV") => Some(State::Opening),
        Some("ESTAB") => Some(State::Established),
        Some("FIN-WAIT-1" | "FIN-WAIT-2") => Some(State::ClosedLocally),
        Some("CLOSE-WAIT") => Some(State::ClosedRemotely),
        Some("LAST-ACK" | "CLOSING") => Some(State::Closing),
        Some("LISTEN" | "UNCONN" | "TIME-WAIT") => None,
        _ => return Err("it begins neither with `tcp` or `udp` nor with a state"),
    };
    let Some(state) = state else { return Ok(None) };
    for _ in 0..2 {
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        number.ok_or("two numbers of waiting bytes must follow the state")?;
    }
    let local = words.next().and_then(end).ok_or("the local end is not address:port in numbers")?;
    let client =
        words.next().and_then(end).ok_or("the remote end is not address:port in numbers")?;
    Ok(Some(Session { protocol, local, client, state }))
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`, and with the link's name as in `[fe80::1]%eth0:80`.
fn end(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.rsplit_once(':')?;
    let address = address.split_once('%').map_or(address, |(address, _)| address);
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').unwrap_or(rest).parse::<IpAddr>().ok()?,
        None => address.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4)?,
    };
    // A socket for both families has IPv4 addresses in IPv6's form.
    Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
