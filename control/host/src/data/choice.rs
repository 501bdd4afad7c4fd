//! Which transport carries a copy, and why.

use std::{fmt, str::FromStr, sync::Arc};

use serde::Deserialize;
use tidegate_memory::{
    copy::Controls,
    transport::{Dial, TcpSender, Transport},
};

use crate::{HostError, data::Data};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Choice {
    /// The best that both hosts have.
    #[default]
    Auto,
    /// TCP.
    Tcp,
    /// libfabric with this provider.
    Fabric(String),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "tcp" => Ok(Self::Tcp),
            Some(("fabric", provider)) if !provider.is_empty() => {
                Ok(Self::Fabric(provider.to_owned()))
            }
            _ => Err(format!("`{text}` is no transport; use auto, tcp or fabric:PROVIDER")),
        }
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
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Tcp => f.write_str("tcp"),
            Self::Fabric(provider) => write!(f, "fabric:{provider}"),
        }
    }
}

/// Transports to propose to the receiver, the best first.
pub(crate) struct Chosen {
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) reason: &'static str,
}

impl Data {
    /// The transports a choice allows.
    pub(crate) fn choose(
        &self,
        choice: &Choice,
        dial: &Arc<dyn Dial>,
        controls: &Arc<Controls>,
    ) -> Result<Chosen, HostError> {
        let tcp = || -> Arc<dyn Transport> {
            Arc::new(TcpSender {
                dial: dial.clone(),
                streams: self.streams,
                compression: self.compression,
                controls: controls.clone(),
            })
        };
        match choice {
            Choice::Auto => {
                let reason = "the only one this host has";
                Ok(Chosen { transports: vec![tcp()], reason })
            }
            Choice::Tcp => Ok(Chosen { transports: vec![tcp()], reason: "asked for" }),
            // RDMA carries no TLS.
            Choice::Fabric(_) if self.require_encryption => Err(HostError::Precondition(format!(
                "transport {choice} sends guest memory in the clear, and `[data] require_encryption` is set; \
                 use tcp"
            ))),
            Choice::Fabric(_) => Err(HostError::Precondition(format!(
                "transport {choice} is not available on this host; use auto or tcp"
            ))),
        }
    }
}
