//! The source's sessions, as somebody lists them who was there when they began.

mod file;
mod listing;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use tidegate_api::switch as proto;

pub use file::ListError;
pub use listing::list;

/// Where the list comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionList {
    /// The guest agent, if it answers; without a list the migration goes on and says so.
    #[default]
    Auto,
    /// The guest agent in the source.
    Agent,
    /// What the kernel of the source's host tracks.
    Conntrack,
    /// A file on this machine, read anew each time.
    File(PathBuf),
    /// Nowhere: what the switch has seen by itself is all.
    None,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP: the handshake is not finished.
    Opening,
    /// In use.
    Established,
    /// TCP: the source sends no more, the client may.
    ClosedLocally,
    /// TCP: the client sends no more, the source may.
    ClosedRemotely,
    /// TCP: nobody sends any more, and not all is acknowledged.
    Closing,
}

/// A session of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its protocol.
    pub protocol: Protocol,
    /// The source's end: the managed address, or the source's own.
    pub local: SocketAddr,
    /// The other end.
    pub client: SocketAddr,
    /// Where it is in its life.
    pub state: State,
}

impl Session {
    /// Whether packets of it can pass the switch for one of these addresses.
    #[must_use]
    pub fn is_of(&self, addresses: &[IpAddr]) -> bool {
        let (local, client) = (self.local.ip(), self.client.ip());
        let outside = !(client.is_loopback() || client.is_unspecified() || client.is_multicast());
        let family = local.is_ipv4() == client.is_ipv4();
        addresses.contains(&local) && !addresses.contains(&client) && outside && family
    }

    /// The API's form of it. None while it is opening: what establishes it passes the switch, and what does not get
    /// that far is nothing to wait for.
    #[must_use]
    pub fn to_proto(&self) -> Option<proto::ImportedSession> {
        let protocol = match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let state = match self.state {
            State::Opening => return None,
            State::Established => proto::ImportedState::Established,
            State::ClosedLocally => proto::ImportedState::ClosedByBackend,
            State::ClosedRemotely => proto::ImportedState::ClosedByClient,
            State::Closing => proto::ImportedState::Closing,
        };
        Some(proto::ImportedSession {
            protocol,
            client: self.client.ip().to_string(),
            client_port: self.client.port().into(),
            address_port: self.local.port().into(),
            state: state.into(),
        })
    }
}

/// What became of a list at the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Its length.
    pub listed: u64,
    /// New to the switch.
    pub imported: u64,
    /// Known to it already.
    pub known: u64,
    /// Not taken, by reason.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Why there was no list.
    #[serde(default)]
    pub missing: Option<String>,
}

impl Import {
    /// Nothing, for this reason.
    #[must_use]
    pub fn missing(reason: String) -> Self {
        Self { missing: Some(reason), ..Self::default() }
    }

    /// Add the switch's answer for a part of the list.
    pub fn add(&mut self, answer: proto::ImportSessionsResponse) {
        self.imported += answer.imported;
        self.known += answer.known;
        for refused in answer.refused {
            *self.refused.entry(refused.reason).or_default() += refused.count;
        }
    }

    /// What is not counted; None when all is.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        if let Some(reason) = &self.missing {
            return Some(format!("no list of the source's sessions: {reason}"));
        }
        let refused =
            self.refused.iter().map(|(reason, count)| format!("{count} refused: {reason}"));
        let refused = refused.collect::<Vec<_>>().join(", ");
        (!refused.is_empty()).then_some(refused)
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing.is_none() {
            let Self { listed, imported, known, .. } = self;
            write!(f, "{listed} session(s) listed, {imported} imported, {known} known")?;
        }
        match self.shortfall() {
            Some(shortfall) if self.missing.is_none() => write!(f, ", {shortfall}"),
            Some(shortfall) => f.write_str(&shortfall),
            None => Ok(()),
        }
    }
}
