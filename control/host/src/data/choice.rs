//! Which transport carries a copy, and why.

use std::{
    fmt,
    net::{IpAddr, ToSocketAddrs as _},
    str::FromStr,
    sync::Arc,
};

use serde::Deserialize;
use tidegate_memory::{
    copy::Controls,
    transport::{
        Dial, TcpSender, Transport,
        fabric::{Candidates, Encryption, FabricSender, Situation, Wanted, candidates},
    },
};

use crate::{HostError, data::Data};

/// What was asked for: `auto`, `tcp` or `fabric:PROVIDER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Choice(Wanted);

impl Choice {
    pub(crate) const TCP: Self = Self(Wanted::Tcp);

    /// Whether TCP may be taken.
    pub(crate) fn allows_tcp(self) -> bool {
        matches!(self.0, Wanted::Auto | Wanted::Tcp)
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Choice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Transports to propose to the receiver, the best first.
pub(crate) struct Chosen {
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) reason: String,
}

impl Data {
    /// The transports a choice allows for so many bytes of memory to a host.
    pub(crate) fn choose(
        &self,
        choice: Choice,
        address: &str,
        memory_bytes: u64,
        dial: &Arc<dyn Dial>,
        controls: &Arc<Controls>,
    ) -> Result<Chosen, HostError> {
        let (peer, proposed) = self.propose(choice, address, memory_bytes, &**dial)?;
        let Candidates { paths, reasons } = proposed;
        let transport = |path| -> Arc<dyn Transport> {
            match path {
                Wanted::Fabric(provider) => Arc::new(FabricSender { provider, peer }),
                Wanted::Tcp | Wanted::Auto => Arc::new(TcpSender {
                    dial: dial.clone(),
                    streams: self.streams,
                    compression: self.compression,
                    controls: controls.clone(),
                }),
            }
        };
        let transports = paths.into_iter().map(transport).collect();
        Ok(Chosen { transports, reason: reasons.join("; ") })
    }

    /// What a choice comes to for so many bytes of memory to a host, and its address. Nobody is called.
    pub(crate) fn propose(
        &self,
        choice: Choice,
        address: &str,
        memory_bytes: u64,
        dial: &dyn Dial,
    ) -> Result<(IpAddr, Candidates), HostError> {
        let peer = ip_of(address)?;
        let encryption = match dial.is_encrypted() {
            _ if self.require_encryption => Encryption::Required,
            true => Encryption::Preferred,
            false => Encryption::None,
        };
        let situation = Situation::towards(peer, encryption, memory_bytes)?;
        Ok((peer, candidates(choice.0, &situation)?))
    }
}

/// The first address of `host:port`.
pub(super) fn ip_of(address: &str) -> Result<IpAddr, HostError> {
    let unreachable = |source| HostError::Unreachable { address: address.to_owned(), source };
    let none = || std::io::Error::other("the name has no address");
    let found = address.to_socket_addrs().map_err(unreachable)?.next();
    Ok(found.ok_or_else(none).map_err(unreachable)?.ip())
}
