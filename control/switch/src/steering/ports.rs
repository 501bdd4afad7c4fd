//! What ports can be beside each other. The configuration file and requests follow the same rules.

use tidegate_dataplane::steering::PortRole;

use super::neighbours::is_link_local;
use crate::config::{InterfaceAddress, PortConfig};

/// A port that cannot be beside those there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages show")]
pub enum PortClash {
    /// The name is taken.
    #[error("two ports are named `{0}`; give each its own name")]
    Name(String),
    /// DPDK could not make anything of it.
    #[error(
        "`{0}` is not a DPDK device; write a virtual device as in net_tap0,iface=tg0 or a PCI address"
    )]
    NoDevice(String),
    /// Another port has the device.
    #[error("device `{device}` is already port `{port}`; give each port its own device")]
    Device { device: String, port: String },
    /// Another port has the address.
    #[error(
        "{address} is already an address of port `{port}`; choose another, or make both ports role = \"access\" with the same mac"
    )]
    Address { address: InterfaceAddress, port: String },
    /// Another port is on the link.
    #[error(
        "the prefix of {address} is already on port `{port}`; a prefix can be on one link only"
    )]
    Prefix { address: InterfaceAddress, port: String },
}

/// The name is free.
pub(crate) fn check_name<'a>(
    name: &str,
    mut others: impl Iterator<Item = &'a PortConfig>,
) -> Result<(), PortClash> {
    if others.any(|port| port.name == name) {
        return Err(PortClash::Name(name.to_owned()));
    }
    Ok(())
}

/// The device can be one, and is free.
pub(crate) fn check_device<'a>(
    device: &str,
    mut others: impl Iterator<Item = &'a PortConfig>,
) -> Result<(), PortClash> {
    if device.is_empty() || device.chars().any(char::is_whitespace) {
        return Err(PortClash::NoDevice(device.to_owned()));
    }
    // EAL knows a virtual device by what stands before its arguments.
    let id = |device: &str| device.split(',').next().map(str::to_owned);
    match others.find(|port| port.device().and_then(id) == id(device)) {
        None => Ok(()),
        Some(other) => {
            Err(PortClash::Device { device: device.to_owned(), port: other.name.clone() })
        }
    }
}

/// An address of `port`, one of the box itself. Access ports may share one when they share its prefix and a MAC (anycast
/// gateway), and each link has link-local ones of its own. Gives whether it may be another port's too.
pub(crate) fn check_address<'a>(
    here: InterfaceAddress,
    port: &PortConfig,
    others: impl Iterator<Item = &'a PortConfig> + Clone,
) -> Result<bool, PortClash> {
    if is_link_local(here.address) {
        return Ok(true);
    }
    if let Some(other) = others.clone().find(|other| other.addresses.contains(&here)) {
        let anycast = port.role == PortRole::Access && other.role == PortRole::Access;
        if anycast && port.mac.is_some() && port.mac == other.mac {
            return Ok(true);
        }
        return Err(PortClash::Address { address: here, port: other.name.clone() });
    }
    let on_prefix =
        |other: &&PortConfig| other.addresses.iter().any(|a| a.prefix() == here.prefix());
    if let Some(other) = others.clone().find(on_prefix) {
        return Err(PortClash::Prefix { address: here, port: other.name.clone() });
    }
    Ok(false)
}
