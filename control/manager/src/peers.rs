//! The switches and hosts a manager drives, and calls to them.

use std::time::Duration;

use tidegate_api::{
    Code, Response, Status,
    endpoint::{self, Endpoint},
    host::host_client::HostClient,
    switch::switch_client::SwitchClient,
};
use tonic::transport::Channel;

use crate::{
    error::{Error, PeerName},
    spec::{InvalidSpec, Names},
};

/// One switch or host.
#[derive(Clone, Debug)]
pub struct Peer {
    name: PeerName,
    endpoint: Endpoint,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Switch boxes.
    pub switches: Vec<Peer>,
    /// Hypervisor hosts.
    pub hosts: Vec<Peer>,
}

impl Peer {
    /// A peer of this `role` ("switch", "host").
    #[must_use]
    pub fn new(role: &'static str, name: &str, endpoint: Endpoint) -> Self {
        let name = PeerName { role, name: name.to_owned(), endpoint: endpoint.to_string() };
        Self { name, endpoint }
    }

    /// Its name in the inventory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// How messages name it.
    #[must_use]
    pub fn title(&self) -> &PeerName {
        &self.name
    }

    /// Connect to a switch.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn switch(&self) -> Result<SwitchClient<Channel>, Error> {
        Ok(SwitchClient::new(self.connect().await?))
    }

    /// Connect to a host.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn host(&self) -> Result<HostClient<Channel>, Error> {
        Ok(HostClient::new(self.connect().await?))
    }

    async fn connect(&self) -> Result<Channel, Error> {
        endpoint::connect(&self.endpoint).await.map_err(|error| {
            let reason = match error {
                endpoint::EndpointError::Connect { reason, .. } => reason,
                other => other.to_string(),
            };
            Error::Unreachable { peer: self.name.clone(), reason }
        })
    }

    /// Wait for the answer to `call`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Broken`], [`Error::TimedOut`].
    pub async fn answer<T>(
        &self,
        call: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refusal(call, &status)),
            Err(_) => Err(Error::TimedOut { peer: self.name.clone(), call, after: limit }),
        }
    }

    /// A peer's status as an error; one that the transport made up is a broken connection.
    #[must_use]
    pub fn refusal(&self, call: &'static str, status: &Status) -> Error {
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
        let peer = self.name.clone();
        if cause.is_none() && status.code() != Code::Unknown {
            let message = status.message().to_owned();
            return Error::Refused { peer, call, code: status.code(), message };
        }
        let mut reason = status.message().to_owned();
        while let Some(error) = cause {
            reason = error.to_string();
            cause = error.source();
        }
        Error::Broken { peer, call, reason }
    }
}

impl Inventory {
    /// The switch of this name.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`]: the configuration has changed since the migration was accepted.
    pub fn switch(&self, name: &str) -> Result<&Peer, Error> {
        find(&self.switches, "switch_name", name).map_err(Error::from)
    }

    /// The host of this name.
    ///
    /// # Errors
    /// [`InvalidSpec::Unknown`], as with a switch.
    pub fn host(&self, name: &str) -> Result<&Peer, Error> {
        find(&self.hosts, "host", name).map_err(Error::from)
    }
}

impl Inventory {
    /// Add a host that runs in this process, unless the configuration has one of its name.
    pub fn embed(&mut self, name: &str, endpoint: Endpoint) {
        if self.hosts.iter().all(|peer| peer.name() != name) {
            self.hosts.push(Peer::new("host", name, endpoint));
        }
    }
}

impl Names for Inventory {
    fn switch_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec> {
        resolve(&self.switches, field, name)
    }

    fn host_name(&self, field: &'static str, name: &str) -> Result<String, InvalidSpec> {
        resolve(&self.hosts, field, name)
    }
}

fn resolve(peers: &[Peer], field: &'static str, name: &str) -> Result<String, InvalidSpec> {
    match (name, peers) {
        ("", [only]) => Ok(only.name().to_owned()),
        ("", _) => Err(InvalidSpec::Ambiguous { field, known: known(peers) }),
        _ => find(peers, field, name).map(|peer| peer.name().to_owned()),
    }
}

fn find<'a>(peers: &'a [Peer], field: &'static str, name: &str) -> Result<&'a Peer, InvalidSpec> {
    peers.iter().find(|peer| peer.name() == name).ok_or_else(|| InvalidSpec::Unknown {
        field,
        name: name.to_owned(),
        known: known(peers),
    })
}

fn known(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "none".to_owned();
    }
    peers.iter().map(|peer| format!("`{}`", peer.name())).collect::<Vec<_>>().join(", ")
}
