//! Setting a twin's interface up.

use std::{fs, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
};

use super::{KernelError, netlink::Netlink};

/// A twin's interface and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinInterface {
    /// Its name.
    pub name: String,
    /// Its addresses with their prefix lengths: the port's own.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// What a twin needs to be set to, each with the reason.
const SETTINGS: [(&str, &str); 6] = [
    // Packets of guests come from addresses to which routes lead elsewhere.
    ("ipv4/conf/{}/rp_filter", "0"),
    // The workers forward; what they hand to the kernel is for the kernel.
    ("ipv4/conf/{}/forwarding", "0"),
    ("ipv6/conf/{}/forwarding", "0"),
    // Routes are the operator's, not whoever's on the link says it is a router.
    ("ipv6/conf/{}/accept_ra", "0"),
    // The same address may be on several twins, as guests' gateway.
    ("ipv6/conf/{}/accept_dad", "0"),
    // Routes of a link that is set down and up again stay the kernel's affair, its addresses stay.
    ("ipv6/conf/{}/keep_addr_on_down", "1"),
];

/// Set interfaces up: settings, addresses, and then the link.
///
/// # Errors
/// [`KernelError`] with the first thing that did not work.
pub fn set_up(twins: &[TwinInterface]) -> Result<(), KernelError> {
    let mut netlink = Netlink::open(&[])?;
    for twin in twins {
        for (setting, value) in SETTINGS {
            let path = format!("/proc/sys/net/{}", setting.replace("{}", &twin.name));
            // A kernel without IPv6 has no settings of it.
            if path.contains("/ipv6/") && !fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
                continue;
            }
            fs::write(&path, value).map_err(|source| KernelError::Setting { path, source })?;
        }
        let index = index_of(&mut netlink, &twin.name)?;
        for (address, prefix_len) in &twin.addresses {
            add_address(&mut netlink, index, *address, *prefix_len)?;
        }
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        netlink.order("setting a twin up", RouteNetlinkMessage::SetLink(link), 0)?;
    }
    Ok(())
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, KernelError> {
    let mut found = None;
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink.dump("looking for a twin", request, |message| {
        if let RouteNetlinkMessage::NewLink(link) = message
            && link.attributes.contains(&LinkAttribute::IfName(name.to_owned()))
        {
            found = Some(link.header.index);
        }
    })?;
    found.ok_or_else(|| KernelError::NoInterface(name.to_owned()))
}

fn add_address(
    netlink: &mut Netlink,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
) -> Result<(), KernelError> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    let request = RouteNetlinkMessage::NewAddress(message);
    netlink.order("giving a twin its address", request, NLM_F_CREATE | NLM_F_REPLACE)
}
