//! Messages into valid types. Each refusal names its field.

use std::{net::IpAddr, time::Duration};

use tidegate_api::switch as proto;
use tidegate_dataplane::{
    packet::{MacError, protocol},
    pipeline::ImportedSession,
    session::{ImportedState, Tuple},
    steering::{ETHERNET_MTU, IpPrefix, PortId, PortRole, Quic, Rewrite, Unknown},
};

use super::encap::{self, InvalidEncap};
use crate::{
    config::{Carrier, InterfaceAddress, MTU, PortConfig},
    core::CutoverPolicy,
    steering::{
        self, BackendSpec, InvalidQuic, NAME_RULE, NO_MAC, Network, is_name, is_unicast,
        is_unicast_on_link,
    },
};

/// A request that says nothing this box could do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// A message is missing.
    #[error("{0}: missing; describe the backend with name, port, mac and rewrite")]
    MissingBackend(&'static str),
    /// Not an address.
    #[error(
        "{field}: `{text}` is not a unicast IP address; write it as in 10.0.0.1 or 2001:db8::1"
    )]
    Address { field: String, text: String },
    /// Not a name.
    #[error("{field}: `{text}` cannot be a name; {NAME_RULE}")]
    Name { field: String, text: String },
    /// Not a MAC.
    #[error("{field}: {reason}")]
    Mac { field: String, reason: MacError },
    /// No such port.
    #[error("{field}: there is no port `{name}`; ports here: {known}")]
    UnknownPort { field: String, name: String, known: String },
    /// Not a rewrite mode.
    #[error("{field}: {value} is not a rewrite mode; use REWRITE_NAT or REWRITE_L2")]
    Rewrite { field: String, value: i32 },
    /// NAT needs one.
    #[error("{field}: missing; REWRITE_NAT needs the guest's own address")]
    LocatorMissing { field: String },
    /// Rewriting stays within a family.
    #[error(
        "{field}: {locator} is of another IP family than {address}; give the guest's address of the same family"
    )]
    OtherFamily { field: String, locator: IpAddr, address: IpAddr },
    /// Not a tunnel.
    #[error("{field}.{reason}")]
    Encap { field: String, reason: InvalidEncap },
    /// There are no frames that could have one.
    #[error(
        "{field}: `{text}` does not go with an encap that carries no Ethernet frames; leave it empty"
    )]
    MacForbidden { field: String, text: String },
    /// L2 has none.
    #[error(
        "{field}: `{text}` does not go with REWRITE_L2, where the guest owns the managed address; leave it empty"
    )]
    LocatorForbidden { field: String, text: String },
    /// Not an address with the length of its prefix.
    #[error(
        "addresses[{at}]: `{text}` is not a unicast IP address with its prefix length; write it as in 10.0.0.1/24 or 2001:db8::1/64"
    )]
    InterfaceAddress { at: usize, text: String },
    /// Not what a device can carry.
    #[error("mtu: {mtu} is out of range; use {} to {}, or 0 for 1500", MTU.start(), MTU.end())]
    Mtu { mtu: u32 },
    /// Not a role.
    #[error("role: {0} is not a port's role; use PORT_ROLE_UPLINK or PORT_ROLE_ACCESS")]
    Role(i32),
    /// Not a policy.
    #[error(
        "{field}: {value} is not a policy; use UNKNOWN_SOURCE, UNKNOWN_DESTINATION or UNKNOWN_DROP"
    )]
    Unknown { field: &'static str, value: i32 },
    /// Not QUIC.
    #[error(transparent)]
    Quic(#[from] InvalidQuic),
    /// Too long.
    #[error("datagram_max_age_s: {0} is too long; use at most 604800, a week, or 0 for no limit")]
    DatagramMaxAge(u32),
    /// Too many.
    #[error("sessions: {0} are too many for one call; send at most {MOST_SESSIONS} at a time")]
    Sessions(usize),
    /// Not a protocol whose sessions sockets tell of.
    #[error("{field}: {value} cannot be imported; 6 (TCP) and 17 (UDP) can")]
    Protocol { field: String, value: u32 },
    /// Not a port.
    #[error("{field}: {value} is not a port; use 1 to 65535")]
    Port { field: String, value: u32 },
    /// A client has the family of the address it talks to.
    #[error("{field}: {client} is of another IP family than {address}")]
    ClientFamily { field: String, client: IpAddr, address: IpAddr },
    /// Not a state, or not one of the protocol.
    #[error(
        "{field}: {value} is not a state to import; use IMPORTED_STATE_ESTABLISHED, or with TCP one of its closed ones"
    )]
    ImportedState { field: String, value: i32 },
    /// Too long.
    #[error("interval_ms: {0} is too long; use at most 60000, or 0 for 200")]
    Interval(u32),
    /// Too long, or nothing.
    #[error("deadline_ms: {0} is not a time a port can be held for; use 1 to 60000")]
    Deadline(u32),
}

const DEFAULT_INTERVAL_MS: u32 = 200;
const MAX_INTERVAL_MS: u32 = 60_000;
const MAX_HOLD_MS: u32 = 60_000;
const MAX_AGE_S: u32 = 604_800;
/// The most sessions of one import, so that no request keeps the workers from their packets for long.
const MOST_SESSIONS: usize = 10_000;

/// A managed address.
pub(super) fn address(text: &str) -> Result<IpAddr, Invalid> {
    ip("address".to_owned(), text)
}

/// A managed address, or none for all.
pub(super) fn optional_address(text: &str) -> Result<Option<IpAddr>, Invalid> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

/// Zero means all.
pub(super) fn limit(limit: u32) -> usize {
    if limit == 0 { usize::MAX } else { limit as usize }
}

pub(super) fn interval(interval_ms: u32) -> Result<Duration, Invalid> {
    match interval_ms {
        0 => Ok(Duration::from_millis(DEFAULT_INTERVAL_MS.into())),
        1..=MAX_INTERVAL_MS => Ok(Duration::from_millis(interval_ms.into())),
        _ => Err(Invalid::Interval(interval_ms)),
    }
}

/// How long a port is held at most.
pub(super) fn deadline(deadline_ms: u32) -> Result<Duration, Invalid> {
    match deadline_ms {
        1..=MAX_HOLD_MS => Ok(Duration::from_millis(deadline_ms.into())),
        _ => Err(Invalid::Deadline(deadline_ms)),
    }
}

/// Where an address speaks QUIC.
pub(super) fn quic(message: Option<&proto::Quic>) -> Result<Option<Quic>, Invalid> {
    let read = |it: &proto::Quic| steering::quic(it.connection_id_length, &it.ports);
    Ok(message.map(read).transpose()?)
}

/// How to cut over.
pub(super) fn cutover(request: &proto::CutoverRequest) -> Result<CutoverPolicy, Invalid> {
    let max_age_s = request.datagram_max_age_s;
    if max_age_s > MAX_AGE_S {
        return Err(Invalid::DatagramMaxAge(max_age_s));
    }
    Ok(CutoverPolicy {
        unknown_tcp: unknown("unknown_tcp", request.unknown_tcp)?,
        unknown_quic: unknown("unknown_quic", request.unknown_quic)?,
        datagram_max_age: (max_age_s > 0).then(|| Duration::from_secs(max_age_s.into())),
        ignores_begun_by_source: request.ignore_begun_by_source,
    })
}

fn unknown(field: &'static str, value: i32) -> Result<Unknown, Invalid> {
    match proto::Unknown::try_from(value) {
        Ok(proto::Unknown::Unspecified | proto::Unknown::Source) => Ok(Unknown::Source),
        Ok(proto::Unknown::Destination) => Ok(Unknown::Destination),
        Ok(proto::Unknown::Drop) => Ok(Unknown::Drop),
        Err(_) => Err(Invalid::Unknown { field, value }),
    }
}

/// A list of sessions of `address`.
pub(super) fn sessions(
    address: IpAddr,
    messages: Vec<proto::ImportedSession>,
) -> Result<Vec<ImportedSession>, Invalid> {
    if messages.len() > MOST_SESSIONS {
        return Err(Invalid::Sessions(messages.len()));
    }
    let numbered = messages.into_iter().enumerate();
    numbered.map(|(number, message)| session(address, number, &message)).collect()
}

fn session(
    address: IpAddr,
    number: usize,
    message: &proto::ImportedSession,
) -> Result<ImportedSession, Invalid> {
    let within = |part: &str| format!("sessions[{number}].{part}");
    let port = |part: &str, value: u32| {
        let port = u16::try_from(value).ok().filter(|port| *port != 0);
        port.ok_or_else(|| Invalid::Port { field: within(part), value })
    };
    let client = ip(within("client"), &message.client)?;
    if client.is_ipv4() != address.is_ipv4() {
        return Err(Invalid::ClientFamily { field: within("client"), client, address });
    }
    let protocol = match message.protocol {
        6 => protocol::TCP,
        17 => protocol::UDP,
        value => return Err(Invalid::Protocol { field: within("protocol"), value }),
    };
    let state = match (proto::ImportedState::try_from(message.state), protocol) {
        (Ok(proto::ImportedState::Unspecified | proto::ImportedState::Established), _) => {
            ImportedState::Established
        }
        (Ok(proto::ImportedState::ClosedByClient), protocol::TCP) => ImportedState::ClosedByClient,
        (Ok(proto::ImportedState::ClosedByBackend), protocol::TCP) => {
            ImportedState::ClosedByBackend
        }
        (Ok(proto::ImportedState::Closing), protocol::TCP) => ImportedState::Closing,
        _ => return Err(Invalid::ImportedState { field: within("state"), value: message.state }),
    };
    let client_port = port("client_port", message.client_port)?;
    let address_port = port("address_port", message.address_port)?;
    let tuple = Tuple { client, client_port, address, address_port, protocol };
    Ok(ImportedSession { tuple, state })
}

/// The backend of `address` in the message field `field`.
pub(super) fn backend(
    address: IpAddr,
    field: &'static str,
    message: Option<proto::Backend>,
    network: &Network,
) -> Result<BackendSpec, Invalid> {
    let message = message.ok_or(Invalid::MissingBackend(field))?;
    let within = |part: &str| format!("{field}.{part}");
    if !is_name(&message.name) {
        return Err(Invalid::Name { field: within("name"), text: message.name });
    }
    let tunnel = message.encap.as_ref();
    let tunnel = tunnel.map(|encap| encap::tunnel(&within("encap"), encap, network)).transpose()?;
    let port = match tunnel.filter(|_| message.port.is_empty()) {
        Some(tunnel) => network.owner_of(tunnel.local).map(|port| port.config.id),
        None => network.port_named(&message.port),
    };
    let Some(port) = port else {
        let known: Vec<_> =
            network.ports().iter().map(|port| format!("`{}`", port.config.name)).collect();
        let known = known.join(", ");
        return Err(Invalid::UnknownPort { field: within("port"), name: message.port, known });
    };
    let mac = match tunnel.filter(|tunnel| !tunnel.encap.carries_frames()) {
        Some(_) if message.mac.is_empty() => NO_MAC,
        Some(_) => {
            return Err(Invalid::MacForbidden { field: within("mac"), text: message.mac });
        }
        None => {
            let parsed = message.mac.parse();
            parsed.map_err(|reason| Invalid::Mac { field: within("mac"), reason })?
        }
    };
    let rewrite = match proto::Rewrite::try_from(message.rewrite) {
        Ok(proto::Rewrite::Nat) if message.locator.is_empty() => {
            return Err(Invalid::LocatorMissing { field: within("locator") });
        }
        Ok(proto::Rewrite::Nat) => {
            let locator = ip(within("locator"), &message.locator)?;
            if locator.is_ipv4() != address.is_ipv4() {
                let field = within("locator");
                return Err(Invalid::OtherFamily { field, locator, address });
            }
            Rewrite::Nat(locator)
        }
        Ok(proto::Rewrite::L2) if message.locator.is_empty() => Rewrite::L2,
        Ok(proto::Rewrite::L2) => {
            return Err(Invalid::LocatorForbidden {
                field: within("locator"),
                text: message.locator,
            });
        }
        Ok(proto::Rewrite::Unspecified) | Err(_) => {
            return Err(Invalid::Rewrite { field: within("rewrite"), value: message.rewrite });
        }
    };
    Ok(BackendSpec { name: message.name, port, mac, rewrite, tunnel })
}

/// A port to open; its number is not known yet.
pub(super) fn port(message: proto::AddPortRequest) -> Result<PortConfig, Invalid> {
    if !is_name(&message.name) {
        return Err(Invalid::Name { field: "name".to_owned(), text: message.name });
    }
    let role = match message.role() {
        proto::PortRole::Uplink => PortRole::Uplink,
        proto::PortRole::Access => PortRole::Access,
        proto::PortRole::Unspecified => return Err(Invalid::Role(message.role)),
    };
    let mac = match message.mac.as_str() {
        "" => None,
        text => {
            let field = "mac".to_owned();
            Some(text.parse().map_err(|reason| Invalid::Mac { field, reason })?)
        }
    };
    let addresses = message.addresses.iter().enumerate();
    let addresses =
        addresses.map(|(at, text)| interface_address(at, text)).collect::<Result<_, _>>()?;
    let mtu = match message.mtu {
        0 => ETHERNET_MTU,
        mtu => {
            u16::try_from(mtu).ok().filter(|mtu| MTU.contains(mtu)).ok_or(Invalid::Mtu { mtu })?
        }
    };
    let (name, carrier) = (message.name, Carrier::Device(message.device));
    Ok(PortConfig { id: PortId(0), name, carrier, mac, mtu, addresses, role, twin: None })
}

fn interface_address(at: usize, text: &str) -> Result<InterfaceAddress, Invalid> {
    let read = || {
        let _: IpPrefix = text.parse().ok()?;
        let (address, prefix_len) = text.split_once('/')?;
        let address = address.parse().ok().filter(|address| is_unicast_on_link(*address))?;
        Some(InterfaceAddress { address, prefix_len: prefix_len.parse().ok()? })
    };
    read().ok_or_else(|| Invalid::InterfaceAddress { at, text: text.to_owned() })
}

pub(super) fn ip(field: String, text: &str) -> Result<IpAddr, Invalid> {
    match text.parse().ok().filter(|address| is_unicast(*address)) {
        Some(address) => Ok(address),
        None => Err(Invalid::Address { field, text: text.to_owned() }),
    }
}
