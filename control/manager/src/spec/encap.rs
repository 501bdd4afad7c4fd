//! The tunnel a destination is behind.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use tidegate_api::switch::{self as proto, EncapKind as Wire};

use super::{InvalidSpec, message::ip};

/// IANA's port of Generic UDP Encapsulation.
const GUE_PORT: u16 = 6080;
/// IANA's port of VXLAN.
const VXLAN_PORT: u16 = 4789;
/// RFC 7348, section 5: 24 bits.
const MAX_VNI: u32 = (1 << 24) - 1;

/// What packets to the destination are wrapped in, and between which machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encap {
    /// In what.
    pub kind: EncapKind,
    /// The machine at the other end.
    pub remote: IpAddr,
    /// The switch box's end, of the same family.
    pub local: IpAddr,
}

/// What is around packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncapKind {
    /// An IP header.
    Ipip,
    /// Generic UDP Encapsulation.
    Gue {
        /// UDP port.
        port: u16,
    },
    /// VXLAN, which carries whole frames.
    Vxlan {
        /// UDP port.
        port: u16,
        /// Network identifier.
        vni: u32,
    },
}

impl EncapKind {
    /// Whether guests behind it are known by their MAC.
    #[must_use]
    pub fn carries_frames(self) -> bool {
        matches!(self, Self::Vxlan { .. })
    }
}

impl Encap {
    /// Check the API's form of it.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(message: &proto::Encap) -> Result<Self, InvalidSpec> {
        let kind = kind(message)?;
        let remote_field = "destination_encap.remote";
        let remote = ip(remote_field, &message.remote)?;
        let local = ip("destination_encap.local", &message.local)?;
        if remote.is_ipv4() != local.is_ipv4() {
            let reason =
                format!("{remote} is of another IP family than {local}; use two of one family");
            return Err(InvalidSpec::Value { field: remote_field, reason });
        }
        if remote == local {
            let reason = format!("{remote} is the box's own; name the machine at the other end");
            return Err(InvalidSpec::Value { field: remote_field, reason });
        }
        Ok(Self { kind, remote, local })
    }

    /// The API's form of it, as the switch has it.
    #[must_use]
    pub fn to_proto(&self) -> proto::Encap {
        let (kind, vni, udp_port) = match self.kind {
            EncapKind::Ipip => (Wire::Ipip, 0, 0),
            EncapKind::Gue { port } => (Wire::Gue, 0, port),
            EncapKind::Vxlan { port, vni } => (Wire::Vxlan, vni, port),
        };
        proto::Encap {
            kind: kind.into(),
            remote: self.remote.to_string(),
            local: self.local.to_string(),
            vni,
            udp_port: udp_port.into(),
        }
    }
}

fn kind(message: &proto::Encap) -> Result<EncapKind, InvalidSpec> {
    let invalid = |field, reason: String| Err(InvalidSpec::Value { field, reason });
    let &proto::Encap { vni, udp_port, .. } = message;
    let (vni_field, port_field) = ("destination_encap.vni", "destination_encap.udp_port");
    let Ok(port) = u16::try_from(udp_port) else {
        return invalid(port_field, format!("{udp_port} is not a port; use 1 to 65535"));
    };
    let or = |usual| if port == 0 { usual } else { port };
    match (message.kind(), vni, port) {
        (Wire::Unspecified, ..) => invalid(
            "destination_encap.kind",
            format!("{} is not a kind; say IPIP, GUE or VXLAN", message.kind),
        ),
        (Wire::Vxlan, ..=MAX_VNI, _) => Ok(EncapKind::Vxlan { port: or(VXLAN_PORT), vni }),
        (Wire::Vxlan, ..) => {
            invalid(vni_field, format!("{vni} is too large; use at most {MAX_VNI}"))
        }
        (_, 1.., _) => invalid(vni_field, format!("{vni} goes with VXLAN only; leave it out")),
        (Wire::Gue, ..) => Ok(EncapKind::Gue { port: or(GUE_PORT) }),
        (Wire::Ipip, _, 0) => Ok(EncapKind::Ipip),
        (Wire::Ipip, ..) => invalid(
            port_field,
            format!("{port} does not go with IPIP, which has no UDP; leave it out"),
        ),
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EncapKind::Ipip => f.write_str("IPIP")?,
            EncapKind::Gue { .. } => f.write_str("GUE")?,
            EncapKind::Vxlan { vni, .. } => write!(f, "VXLAN {vni}")?,
        }
        write!(f, " from {} to {}", self.local, self.remote)
    }
}

#[cfg(test)]
#[path = "encap_tests.rs"]
mod tests;
