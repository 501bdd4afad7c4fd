//! The line protocol.

use std::{fmt, str::FromStr};

use crate::SESSIONS;

/// Longest line, end included.
pub const MAX_LINE_BYTES: usize = 128;

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `HELLO <session>`: first, once; not answered.
    Hello {
        /// Number of the session.
        session: u32,
    },
    /// `REQ <session> <sequence>`.
    Request {
        /// Number of the session.
        session: u32,
        /// Number of the request.
        sequence: u64,
    },
    /// `LINGER <ms>`: when the client has closed its side, keep the connection open for so long; not answered.
    Linger {
        /// Milliseconds.
        ms: u16,
    },
}

/// `<identity> <session> <sequence>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The guest that answered.
    pub identity: String,
    /// Number of the session.
    pub session: u32,
    /// Number of the request.
    pub sequence: u64,
}

/// A line that is not in the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not in the protocol: `HELLO <session>`, `REQ <session> <sequence>`, `LINGER <ms>`, sessions below \
     {SESSIONS}"
)]
pub struct BadLine(String);

impl FromStr for Line {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Self, BadLine> {
        let bad = || BadLine(text.to_owned());
        let words: Vec<&str> = text.split(' ').collect();
        let session = |word: &str| word.parse().ok().filter(|n| *n < SESSIONS).ok_or_else(bad);
        match words[..] {
            ["HELLO", number] => Ok(Self::Hello { session: session(number)? }),
            ["REQ", number, sequence] => Ok(Self::Request {
                session: session(number)?,
                sequence: sequence.parse().map_err(|_| bad())?,
            }),
            ["LINGER", ms] => Ok(Self::Linger { ms: ms.parse().map_err(|_| bad())? }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { session } => write!(f, "HELLO {session}"),
            Self::Request { session, sequence } => write!(f, "REQ {session} {sequence}"),
            Self::Linger { ms } => write!(f, "LINGER {ms}"),
        }
    }
}

impl FromStr for Answer {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Self, BadLine> {
        let bad = || BadLine(text.to_owned());
        let words: Vec<&str> = text.split(' ').collect();
        let [identity, session, sequence] = words[..] else {
            return Err(bad());
        };
        Ok(Self {
            identity: identity.to_owned(),
            session: session.parse().map_err(|_| bad())?,
            sequence: sequence.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.identity, self.session, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_they_say() {
        let request = Line::Request { session: 0, sequence: 7 };
        for line in [Line::Hello { session: 8191 }, request, Line::Linger { ms: 65535 }] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        let answer = Answer { identity: "vm-a".into(), session: 3, sequence: 9 };
        assert_eq!(answer.to_string(), "vm-a 3 9");
        assert_eq!("vm-a 3 9".parse(), Ok(answer));
    }

    #[test]
    fn other_lines_are_refused() {
        for bad in ["", "HELLO", "HELLO 8192", "HELLO -1", "REQ 1", "REQ 1 x", "REQ 1 2 3", "BYE"] {
            assert_eq!(bad.parse::<Line>(), Err(BadLine(bad.to_owned())));
        }
        assert_eq!("LINGER 65536".parse::<Line>(), Err(BadLine("LINGER 65536".to_owned())));
        assert!("vm-a 1".parse::<Answer>().is_err());
    }
}
