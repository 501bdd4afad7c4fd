//! The tunnel a backend is behind, in messages.

use std::net::IpAddr;

use tidegate_api::switch as proto;
use tidegate_dataplane::{
    packet::tunnel::{Encap, GUE_PORT, MAX_VNI, VXLAN_PORT},
    steering::Tunnel,
};

use super::request::{Invalid, ip};
use crate::steering::Network;

/// Why a message does not describe a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidEncap {
    /// Not a kind.
    #[error("kind: {0} is not a kind; use ENCAP_KIND_IPIP, ENCAP_KIND_GUE or ENCAP_KIND_VXLAN")]
    Kind(i32),
    /// The box does not have it.
    #[error("local: {local} is no address of this box; its addresses: {known}")]
    Local { local: IpAddr, known: String },
    /// The box cannot be at both ends.
    #[error("remote: {0} is the box's own; name the machine at the other end")]
    Remote(IpAddr),
    /// One header has addresses of one family.
    #[error("remote: {remote} is of another IP family than {local}; use two of one family")]
    Families { local: IpAddr, remote: IpAddr },
    /// Only VXLAN has one.
    #[error("vni: {0} goes with ENCAP_KIND_VXLAN only; leave it out")]
    VniForbidden(u32),
    /// Too large.
    #[error("vni: {0} is too large; use at most {MAX_VNI}")]
    Vni(u32),
    /// Nothing is sent over UDP.
    #[error("udp_port: {0} does not go with ENCAP_KIND_IPIP, which has no UDP; leave it out")]
    UdpPortForbidden(u32),
    /// Not a port.
    #[error("udp_port: {0} is not a port; use 1 to 65535, or 0 for the usual one")]
    UdpPort(u32),
}

/// The tunnel in the message field `field`.
pub(super) fn tunnel(
    field: &str,
    message: &proto::Encap,
    network: &Network,
) -> Result<Tunnel, Invalid> {
    let invalid = |reason| Invalid::Encap { field: field.to_owned(), reason };
    let kind = encap(message).map_err(invalid)?;
    let local = ip(format!("{field}.local"), &message.local)?;
    let remote = ip(format!("{field}.remote"), &message.remote)?;
    if network.owner_of(local).is_none() {
        let all = network.ports().iter().flat_map(|port| &port.config.addresses);
        let known: Vec<_> = all.map(|own| own.address.to_string()).collect();
        return Err(invalid(InvalidEncap::Local { local, known: known.join(", ") }));
    }
    if network.owner_of(remote).is_some() {
        return Err(invalid(InvalidEncap::Remote(remote)));
    }
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(invalid(InvalidEncap::Families { local, remote }));
    }
    Ok(Tunnel { encap: kind, local, remote })
}

fn encap(message: &proto::Encap) -> Result<Encap, InvalidEncap> {
    let kind = proto::EncapKind::try_from(message.kind);
    let &proto::Encap { vni, udp_port, .. } = message;
    if vni != 0 && kind != Ok(proto::EncapKind::Vxlan) {
        return Err(InvalidEncap::VniForbidden(vni));
    }
    let port = |usual| match u16::try_from(udp_port) {
        Ok(0) => Ok(usual),
        Ok(port) => Ok(port),
        Err(_) => Err(InvalidEncap::UdpPort(udp_port)),
    };
    match kind {
        Ok(proto::EncapKind::Ipip) if udp_port != 0 => {
            Err(InvalidEncap::UdpPortForbidden(udp_port))
        }
        Ok(proto::EncapKind::Ipip) => Ok(Encap::Ipip),
        Ok(proto::EncapKind::Gue) => Ok(Encap::Gue { port: port(GUE_PORT)? }),
        Ok(proto::EncapKind::Vxlan) if vni > MAX_VNI => Err(InvalidEncap::Vni(vni)),
        Ok(proto::EncapKind::Vxlan) => Ok(Encap::Vxlan { port: port(VXLAN_PORT)?, vni }),
        Ok(proto::EncapKind::Unspecified) | Err(_) => Err(InvalidEncap::Kind(message.kind)),
    }
}

/// The message of `tunnel`.
pub(super) fn message(tunnel: &Tunnel) -> proto::Encap {
    let (kind, vni, udp_port) = match tunnel.encap {
        Encap::Ipip => (proto::EncapKind::Ipip, 0, 0),
        Encap::Gue { port } => (proto::EncapKind::Gue, 0, port),
        Encap::Vxlan { port, vni } => (proto::EncapKind::Vxlan, vni, port),
    };
    proto::Encap {
        kind: kind.into(),
        remote: tunnel.remote.to_string(),
        local: tunnel.local.to_string(),
        vni,
        udp_port: udp_port.into(),
    }
}
