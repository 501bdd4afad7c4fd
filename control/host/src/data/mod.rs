//! How this host's data connections are secured, which way a copy's bytes take, and what rules them.
//!
//! With `[data.tls]`, hosts speak TLS to each other and nothing else. Without it they speak in the clear: over the loopback
//! interface, and to other machines only where `plain = true` says that their network is trusted.

mod choice;
mod copies;

use std::{
    io,
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
};

use tidegate_memory::{
    copy::Receiver,
    transport::{
        Compression, Dial, DialPlain, DialTls, Plain, Stream, TlsIdentity, fabric, tls::TlsFiles,
    },
};

pub use choice::Choice;
pub(crate) use choice::Chosen;
pub(crate) use copies::{Copies, Running, cap_of};

use crate::{
    HostError,
    config::{Compressing, DataConfig},
};

/// Most streams of a copy.
const MAX_STREAMS: u8 = 64;

/// This host's end of data connections.
pub(crate) struct Data {
    security: Security,
    pub(crate) receiver: Receiver,
    pub(crate) streams: usize,
    pub(crate) compression: Compression,
    pub(crate) require_encryption: bool,
}

enum Security {
    Tls(Box<TlsIdentity>),
    /// `anywhere`: to other machines, too.
    Plain {
        anywhere: bool,
    },
}

impl Data {
    /// `endpoint`: where other hosts reach this one.
    pub(crate) fn load(config: &DataConfig, endpoint: &str) -> Result<Self, HostError> {
        if !(1..=MAX_STREAMS).contains(&config.streams) {
            let reason = format!("{} is not 1 to {MAX_STREAMS}", config.streams);
            return Err(HostError::Invalid { field: "[data] streams", reason });
        }
        let security = security(config)?;
        let encrypted = matches!(security, Security::Tls(_));
        // What does not encrypt is not even offered where the policy forbids it. A name that is not known yet has none.
        let local = choice::ip_of(endpoint).ok().filter(|_| !config.require_encryption);
        let others = local.map_or_else(Vec::new, fabric::receivers);
        Ok(Self {
            security,
            receiver: Receiver::new(encrypted, others),
            streams: config.streams.into(),
            compression: match config.compression {
                Compressing::Off => Compression::Off,
                Compressing::Auto => Compression::Auto,
                Compressing::On => Compression::On,
            },
            require_encryption: config.require_encryption,
        })
    }

    /// In words.
    pub(crate) fn security(&self) -> &'static str {
        match self.security {
            Security::Tls(_) => "TLS",
            Security::Plain { anywhere: true } => "in the clear, as configured",
            Security::Plain { anywhere: false } => "in the clear, on this machine only",
        }
    }

    /// Take a connection from another host.
    pub(crate) fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Stream>> {
        match &self.security {
            Security::Tls(identity) => {
                socket.set_nonblocking(false)?;
                identity.accept(socket)
            }
            Security::Plain { .. } => Ok(Box::new(Plain::new(socket)?)),
        }
    }

    /// What makes connections to another host.
    pub(crate) fn dial(&self, address: &str) -> Result<Arc<dyn Dial>, HostError> {
        match &self.security {
            Security::Tls(identity) => {
                let identity = (**identity).clone();
                Ok(Arc::new(DialTls { address: address.to_owned(), identity }))
            }
            Security::Plain { anywhere: false } if !is_loopback(address) => {
                Err(HostError::Precondition(format!(
                    "guest memory is not sent to {address} in the clear; configure [data.tls] on both hosts, \
                     or set `[data] plain = true` if the network between them is trusted"
                )))
            }
            Security::Plain { .. } => Ok(Arc::new(DialPlain(address.to_owned()))),
        }
    }
}

fn security(config: &DataConfig) -> Result<Security, HostError> {
    let invalid = |field, reason: String| Err(HostError::Invalid { field, reason });
    match &config.tls {
        Some(_) if config.plain => {
            invalid("[data] plain", "contradicts [data.tls]; leave one of them out".to_owned())
        }
        Some(files) => {
            let files = TlsFiles {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                ca: files.ca.clone(),
            };
            Ok(Security::Tls(Box::new(TlsIdentity::load(&files)?)))
        }
        None if config.require_encryption => {
            invalid("[data] require_encryption", "needs [data.tls], which is missing".to_owned())
        }
        None if !config.plain && !is_loopback(&config.listen) => invalid(
            "[data.tls]",
            format!(
                "is missing, and `listen` is {}, which other machines may reach; configure it, or set \
                 `[data] plain = true` if the network is trusted",
                config.listen
            ),
        ),
        None => Ok(Security::Plain { anywhere: config.plain }),
    }
}

/// Whether an address can only be this machine's. A name that is not known is not.
fn is_loopback(address: &str) -> bool {
    let found = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    !found.is_empty() && found.iter().all(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(listen: &str, change: impl FnOnce(&mut DataConfig)) -> Result<Data, String> {
        let mut config = DataConfig { listen: listen.to_owned(), ..DataConfig::default() };
        change(&mut config);
        Data::load(&config, listen).map_err(|error| error.to_string())
    }

    #[test]
    fn memory_leaves_this_machine_in_the_clear_only_when_asked_to() {
        let here = load("127.0.0.1:0", |_| {}).expect("loopback");
        assert_eq!(here.security(), "in the clear, on this machine only");
        assert!(here.dial("127.0.0.1:7").is_ok() && here.dial("[::1]:7").is_ok());
        let refused = here.dial("192.0.2.1:7").err().expect("refused").to_string();
        assert!(refused.contains("configure [data.tls]"), "{refused}");
        let error = load("0.0.0.0:0", |_| {}).err().expect("refused");
        assert!(error.contains("`[data] plain = true`"), "{error}");
        let plain = load("0.0.0.0:0", |config| config.plain = true).expect("asked for");
        assert!(plain.dial("192.0.2.1:7").is_ok());
        let error = load("127.0.0.1:0", |config| config.require_encryption = true);
        assert!(error.err().expect("refused").contains("needs [data.tls]"));
        let error = load("127.0.0.1:0", |config| config.streams = 65);
        assert!(error.err().expect("refused").contains("65 is not 1 to 64"));
    }
}
