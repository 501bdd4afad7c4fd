//! Which data paths a sender proposes, in which order, and why.

use std::{fmt, net::IpAddr, str::FromStr};

use tidegate_fabric::{Lockable, Provider, lockable};

use super::name_of;
use crate::{MemoryError, transport::tcp};

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The best there is: RDMA hardware, else TCP. `shm` is only taken when it is named: a process that is
    /// killed at the wrong moment can leave the other one waiting for ever.
    #[default]
    Auto,
    /// TCP streams.
    Tcp,
    /// libfabric over this provider.
    Fabric(Provider),
}

/// Whether guest memory is to be encrypted on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// The hosts have no certificates: nothing is.
    #[default]
    None,
    /// The hosts speak TLS: it is not given up, unless a path without is asked for by its name.
    Preferred,
    /// It must be: nothing that does not encrypt may carry it.
    Required,
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// This host's address towards the other.
    pub local: IpAddr,
    /// Policy.
    pub encryption: Encryption,
    /// Bytes of memory this end would register.
    pub memory_bytes: u64,
}

/// What to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// The best first; [`Wanted::Tcp`] and [`Wanted::Fabric`] only.
    pub paths: Vec<Wanted>,
    /// What an operator wants to know of how it came to this, one sentence each.
    pub reasons: Vec<String>,
}

impl Wanted {
    /// The name of the path.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Tcp => tcp::NAME.to_owned(),
            Self::Fabric(provider) => name_of(provider),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Wanted {
    type Err = String;

    /// `auto`, `tcp`, or a provider, with or without what stands around its name: `verbs`, `fabric:verbs;ofi_rxm`.
    fn from_str(text: &str) -> Result<Self, String> {
        let fabric = Provider::ALL.into_iter().find(|provider| {
            let short = provider.name().trim_end_matches(";ofi_rxm");
            text == format!("fabric:{short}") || text == name_of(*provider)
        });
        match (text, fabric) {
            (_, Some(provider)) => Ok(Self::Fabric(provider)),
            ("auto", _) => Ok(Self::Auto),
            ("tcp", _) => Ok(Self::Tcp),
            _ => Err(format!(
                "`{text}` is no data path; there are auto, tcp, fabric:verbs, fabric:tcp and fabric:shm"
            )),
        }
    }
}

/// What to propose. The reasons are for the log.
///
/// # Errors
/// [`MemoryError::DataPath`] when a path is asked for by name that cannot be taken here.
pub fn candidates(wanted: Wanted, situation: &Situation) -> Result<Candidates, MemoryError> {
    match wanted {
        Wanted::Tcp => {
            Ok(Candidates { paths: vec![wanted], reasons: vec!["tcp was asked for".to_owned()] })
        }
        Wanted::Fabric(provider) => match obstacle(provider, situation) {
            Some(reason) => Err(MemoryError::DataPath { path: wanted.name(), reason }),
            None => {
                let said = format!("{wanted} was asked for; it does not encrypt guest memory");
                Ok(Candidates { paths: vec![wanted], reasons: vec![said] })
            }
        },
        Wanted::Auto => {
            let mut paths = Vec::new();
            let verbs = Wanted::Fabric(Provider::Verbs);
            let tls = situation.encryption == Encryption::Preferred;
            let tls =
                tls.then(|| "it does not encrypt; ask for it by its name to do without".into());
            let said = match obstacle(Provider::Verbs, situation).or(tls) {
                Some(reason) => format!("{verbs} is not proposed: {reason}"),
                None => {
                    paths.push(verbs);
                    format!("{verbs} is proposed first; it does not encrypt guest memory")
                }
            };
            paths.push(Wanted::Tcp);
            Ok(Candidates { paths, reasons: vec![said] })
        }
    }
}

/// Why a provider cannot be taken.
fn obstacle(provider: Provider, situation: &Situation) -> Option<String> {
    let Situation { local, encryption, memory_bytes } = *situation;
    if encryption == Encryption::Required {
        return Some("it does not encrypt, and the policy requires that; take tcp with TLS".into());
    }
    if let Err(missing) = provider.probe(Some(local)) {
        return Some(missing.to_string());
    }
    let locks_bytes = provider.locks(memory_bytes);
    match lockable() {
        Ok(lockable) => too_little(lockable, locks_bytes),
        Err(error) => Some(format!("how much memory may be locked is not known: {error}")),
    }
}

fn too_little(lockable: Lockable, locks_bytes: u64) -> Option<String> {
    match lockable {
        Lockable::Bytes(may) if !lockable.allows(locks_bytes) => Some(format!(
            "it would lock {locks_bytes} bytes of memory, and {may} more may be locked; \
             raise LimitMEMLOCK= of the unit"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: Situation = Situation {
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        encryption: Encryption::None,
        memory_bytes: 1 << 30,
    };

    #[test]
    fn names_are_read() {
        for wanted in
            [Wanted::Auto, Wanted::Tcp].into_iter().chain(Provider::ALL.map(Wanted::Fabric))
        {
            assert_eq!(wanted.name().parse(), Ok(wanted));
        }
        assert_eq!("fabric:verbs".parse(), Ok(Wanted::Fabric(Provider::Verbs)));
        for bad in ["", "rdma", "verbs", "fabric:", "fabric:udp", "TCP"] {
            bad.parse::<Wanted>().expect_err("not a path");
        }
    }

    #[test]
    fn automatic_is_verbs_then_tcp_and_says_why() {
        let Candidates { paths, reasons } = candidates(Wanted::Auto, &HERE).expect("choice");
        let verbs = Provider::Verbs.probe(Some(HERE.local)).is_ok();
        assert_eq!(paths.contains(&Wanted::Fabric(Provider::Verbs)), verbs);
        assert_eq!(paths.last(), Some(&Wanted::Tcp));
        assert!(!paths.contains(&Wanted::Fabric(Provider::Shm)));
        assert!(reasons[0].contains("verbs"), "{reasons:?}");
        if !verbs {
            assert!(reasons[0].contains("no RDMA device"), "{reasons:?}");
        }
    }

    #[test]
    fn a_named_path_is_the_only_one_and_says_that_it_does_not_encrypt() {
        for provider in [Provider::Tcp, Provider::Shm].map(Wanted::Fabric) {
            let Candidates { paths, reasons } = candidates(provider, &HERE).expect("choice");
            assert_eq!(paths, [provider]);
            assert!(reasons[0].contains("does not encrypt"), "{reasons:?}");
        }
        assert_eq!(candidates(Wanted::Tcp, &HERE).expect("choice").paths, [Wanted::Tcp]);
    }

    #[test]
    fn policy_refuses_what_does_not_encrypt() {
        let strict = Situation { encryption: Encryption::Required, ..HERE };
        for provider in Provider::ALL {
            let error = candidates(Wanted::Fabric(provider), &strict).expect_err("refused");
            assert!(error.to_string().contains("take tcp with TLS"), "{error}");
        }
        assert_eq!(candidates(Wanted::Auto, &strict).expect("choice").paths, [Wanted::Tcp]);
        candidates(Wanted::Tcp, &strict).expect("TLS is the dial's matter");
    }

    #[test]
    fn tls_is_not_given_up_unless_somebody_says_so() {
        let tls = Situation { encryption: Encryption::Preferred, ..HERE };
        assert_eq!(candidates(Wanted::Auto, &tls).expect("choice").paths, [Wanted::Tcp]);
        let named = Wanted::Fabric(Provider::Tcp);
        assert_eq!(candidates(named, &tls).expect("choice").paths, [named]);
    }

    #[test]
    fn too_little_lockable_memory_is_said_with_both_numbers() {
        let said = too_little(Lockable::Bytes(8 << 20), 1 << 30).expect("too little");
        assert!(said.contains("1073741824") && said.contains("8388608"), "{said}");
        assert_eq!(too_little(Lockable::Bytes(8 << 20), 0), None);
        assert_eq!(too_little(Lockable::Unlimited, u64::MAX), None);
    }
}
