//! The sessions a guest takes part in, asked of its agent or of the host's kernel.

mod conntrack;
mod procfs;

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use tidegate_api::host as api;
use tokio::time::timeout;

pub(crate) use procfs::BadTable;

use crate::{
    HostError,
    agent::{Agent, AgentError},
    guest::{Guest, State},
    inner::blocking,
};
use procfs::TABLES;

/// Longest file of sockets that is taken from a guest: room for 200,000 of them.
const MAX_TABLE_BYTES: usize = 32 << 20;
/// Longest wait for one answer of an agent.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for all of a guest's files.
const PATIENCE: Duration = Duration::from_secs(25);

/// A transport protocol with sessions that sockets tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// IANA's number.
    fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Where a session is in its life, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketState {
    Opening,
    Established,
    ClosedLocally,
    ClosedRemotely,
    Closing,
}

/// A guest's end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: SocketState,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Agent,
    Conntrack,
}

/// Why a guest's sockets are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListingError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("it gave a list that makes no sense: {0}")]
    Table(#[from] BadTable),
    #[error("its list was not complete within {} s", PATIENCE.as_secs())]
    Slow,
}

impl Guest {
    /// Its sockets with one of `addresses`, or all when there are none.
    pub(crate) async fn sockets(
        &self,
        source: Source,
        addresses: Vec<IpAddr>,
    ) -> Result<Vec<Socket>, HostError> {
        match source {
            Source::Agent => self.agent_sockets(addresses).await,
            Source::Conntrack if addresses.is_empty() => Err(HostError::Invalid {
                field: "addresses",
                reason: "missing; the host's kernel knows no guests, only addresses".to_owned(),
            }),
            Source::Conntrack => blocking(move || conntrack::sockets(&addresses)).await,
        }
    }

    async fn agent_sockets(&self, addresses: Vec<IpAddr>) -> Result<Vec<Socket>, HostError> {
        let name = self.name();
        if !self.record.spec.guest_agent {
            return Err(HostError::Precondition(format!(
                "guest `{name}` has no channel for a guest agent; start it with guest_agent = true, or take the list \
                 of its sessions from elsewhere"
            )));
        }
        if self.state().await? != State::Running {
            return Err(HostError::Precondition(format!(
                "guest `{name}` does not run; only a running guest's agent can answer"
            )));
        }
        let of_agent = |reason: ListingError| HostError::Agent {
            guest: name.to_owned(),
            reason: reason.to_string(),
        };
        let asked = async {
            // One at a time: QEMU lets others wait, and they would take the agent for silent.
            let _turn = self.agent.lock().await;
            read_tables(&mut Agent::connect(&self.places.agent(), ANSWER_PATIENCE).await?).await
        };
        let tables = timeout(PATIENCE, asked).await.unwrap_or(Err(ListingError::Slow));
        let tables = tables.map_err(of_agent)?;
        let parsed = blocking(move || Ok(parse(&tables, &addresses))).await?;
        parsed.map_err(|error| of_agent(error.into()))
    }
}

/// What the guest says is in each of [`TABLES`].
type Tables = [Option<Vec<u8>>; TABLES.len()];

async fn read_tables(agent: &mut Agent) -> Result<Tables, ListingError> {
    let mut tables = Tables::default();
    for (table, contents) in TABLES.iter().zip(&mut tables) {
        *contents = match agent.read_file(table.path, MAX_TABLE_BYTES).await {
            Err(AgentError::Refused { command: "guest-file-open", .. }) if table.optional => None,
            read => Some(read?),
        };
    }
    Ok(tables)
}

fn parse(tables: &Tables, addresses: &[IpAddr]) -> Result<Vec<Socket>, BadTable> {
    let mut sockets = Vec::new();
    for (table, contents) in TABLES.iter().zip(tables) {
        if let Some(contents) = contents {
            sockets.extend(table.parse(contents)?);
        }
    }
    sockets.retain(|socket| addresses.is_empty() || addresses.contains(&socket.local.ip()));
    Ok(sockets)
}

impl From<Socket> for api::Socket {
    fn from(socket: Socket) -> Self {
        let state = match socket.state {
            SocketState::Opening => api::SocketState::Opening,
            SocketState::Established => api::SocketState::Established,
            SocketState::ClosedLocally => api::SocketState::ClosedLocally,
            SocketState::ClosedRemotely => api::SocketState::ClosedRemotely,
            SocketState::Closing => api::SocketState::Closing,
        };
        Self {
            protocol: socket.protocol.number(),
            local_address: socket.local.ip().to_string(),
            local_port: socket.local.port().into(),
            remote_address: socket.remote.ip().to_string(),
            remote_port: socket.remote.port().into(),
            state: state.into(),
        }
    }
}
