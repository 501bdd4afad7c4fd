//! Setting a twin's interface up.

use std::{fs, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol,
    },
};

use tidegate_dataplane::packet::Mac;

use super::{KernelError, netlink::Netlink};

/// A twin's interface, or one on it, and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinInterface {
    /// Its name.
    pub name: String,
    /// Its addresses with their prefix lengths: the port's own.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The VLAN it is; `None` for a twin, which is there already.
    pub vlan: Option<Vlan>,
}

/// What makes an interface a VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that carries it.
    pub on: String,
    /// Its number.
    pub id: u16,
    /// Whether its tag is the outer one of two (802.1ad).
    pub is_service: bool,
    /// The MAC it has; that of what carries it when `None`.
    pub mac: Option<Mac>,
    /// Bytes of the largest IP packet; as of what carries it when `None`.
    pub mtu: Option<u16>,
}

/// What a twin needs to be set to, each with the reason.
const SETTINGS: [(&str, &str); 10] = [
    // Packets and questions of guests come from addresses to which routes lead elsewhere: filtered, they are not answered.
    ("ipv4/conf/{}/rp_filter", "0"),
    // The same address may be on several twins, as guests' gateway, and others on one: each is answered for on its link only.
    ("ipv4/conf/{}/arp_ignore", "1"),
    // And nobody is asked with an address that is another link's.
    ("ipv4/conf/{}/arp_announce", "2"),
    // The workers forward; what they hand to the kernel is for the kernel.
    ("ipv4/conf/{}/forwarding", "0"),
    // Hosts may have it off for interfaces they do not know.
    ("ipv6/conf/{}/disable_ipv6", "0"),
    // The box is a router there, and has to say so in what it advertises, or hosts drop it as theirs (RFC 4861, section
    // 7.2.5). For one interface it means no more: the kernel forwards when it is set for all.
    ("ipv6/conf/{}/forwarding", "1"),
    // Routes are the operator's, not whoever's on the link says it is a router, or knows a better one.
    ("ipv6/conf/{}/accept_ra", "0"),
    ("ipv6/conf/{}/accept_redirects", "0"),
    // Addresses count at once: a box that starts again has had them all along, and no worker runs yet to ask others.
    ("ipv6/conf/{}/accept_dad", "0"),
    // An operator who sets the link down and up does not mean to take its addresses away.
    ("ipv6/conf/{}/keep_addr_on_down", "1"),
];
/// Strictest of this and an interface's own counts.
const RP_FILTER_OF_ALL: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";

/// Set interfaces up: settings, addresses, and then the link.
///
/// # Errors
/// [`KernelError`] with the first thing that did not work.
pub fn set_up(twins: &[TwinInterface]) -> Result<(), KernelError> {
    let mut netlink = Netlink::open(&[])?;
    let of_all = fs::read_to_string(RP_FILTER_OF_ALL).unwrap_or_default();
    if !twins.is_empty() && of_all.trim() != "0" {
        tracing::warn!(
            "net.ipv4.conf.all.rp_filter = {}: the kernel will not answer guests to which other routes lead; set it to 0",
            of_all.trim()
        );
    }
    for twin in twins {
        if let Some(vlan) = &twin.vlan {
            add_vlan(&mut netlink, &twin.name, vlan).map_err(|reason| KernelError::Vlan {
                name: twin.name.clone(),
                on: vlan.on.clone(),
                reason: Box::new(reason),
            })?;
        }
        for (setting, value) in SETTINGS {
            let path = format!("/proc/sys/net/{}", setting.replace("{}", &twin.name));
            // A kernel without IPv6 has no settings of it.
            if path.contains("/ipv6/") && !fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
                continue;
            }
            fs::write(&path, value).map_err(|reason| KernelError::Setting { path, reason })?;
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
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let found: Option<u32> = netlink.dump("looking for a twin", request, |found, message| {
        if let RouteNetlinkMessage::NewLink(link) = message
            && link.attributes.contains(&LinkAttribute::IfName(name.to_owned()))
        {
            *found = Some(link.header.index);
        }
    })?;
    found.ok_or_else(|| KernelError::NoInterface(name.to_owned()))
}

fn add_vlan(netlink: &mut Netlink, name: &str, vlan: &Vlan) -> Result<(), KernelError> {
    let request = RouteNetlinkMessage::NewLink(new_vlan(name, vlan, index_of(netlink, &vlan.on)?));
    netlink.order("new VLAN", request, NLM_F_CREATE | NLM_F_EXCL)
}

fn new_vlan(name: &str, vlan: &Vlan, on: u32) -> LinkMessage {
    let protocol = if vlan.is_service { VlanProtocol::Ieee8021Ad } else { VlanProtocol::Ieee8021Q };
    let data = InfoData::Vlan(vec![InfoVlan::Id(vlan.id), InfoVlan::Protocol(protocol)]);
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::Link(on),
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]),
    ];
    link.attributes.extend(vlan.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    link.attributes.extend(vlan.mtu.map(|mtu| LinkAttribute::Mtu(mtu.into())));
    link
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

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;

    /// What iproute2 sends for `ip link add link d0 name d0.s5 type vlan proto 802.1ad id 5`, less the order.
    #[test]
    fn a_vlan_is_asked_for_as_iproute2_does() {
        let vlan =
            Vlan { on: "d0".to_owned(), id: 5, is_service: true, mac: None, mtu: Some(1400) };
        let message = new_vlan("d0.s5", &vlan, 3);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let attributes: [&[u8]; 6] = [
            b"\x08\x00\x05\x00\x03\x00\x00\x00", // IFLA_LINK
            b"\x0a\x00\x03\x00d0.s5\x00",        // IFLA_IFNAME
            b"\x01\x00vlan",                     // IFLA_INFO_KIND
            b"\x06\x00\x05\x00\x88\xa8\x00\x00", // IFLA_VLAN_PROTOCOL, big-endian
            b"\x06\x00\x01\x00\x05\x00\x00\x00", // IFLA_VLAN_ID
            b"\x08\x00\x04\x00\x78\x05\x00\x00", // IFLA_MTU, of ours
        ];
        for attribute in attributes {
            let is_there = bytes.windows(attribute.len()).any(|part| part == attribute);
            assert!(is_there, "{attribute:x?} in {bytes:x?}");
        }
    }
}
