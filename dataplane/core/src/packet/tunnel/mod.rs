//! Tunnels: a packet inside another machine's packets.
//!
//! | [`Encap`] | protocol of the outer IP header | behind it | then |
//! |---|---|---|---|
//! | `Ipip` | 4 (IPv4 inside, RFC 2003) or 41 (IPv6 inside, RFC 4213, RFC 2473) | | the IP packet |
//! | `Gue` | 17 | UDP, 4 bytes of GUE | the IP packet |
//! | `Vxlan` | 17 | UDP, 8 bytes of VXLAN | the Ethernet frame |
//!
//! Outer headers are IPv4 or IPv6, whatever is inside. GUE is draft-ietf-intarea-gue, variant 0 (its section 3.2):
//!
//! | bits | field |
//! |---|---|
//! | 2 | variant, 0 |
//! | 1 | control message, 0 |
//! | 5 | length of what is behind these four bytes, in units of four, 0 |
//! | 8 | protocol of the packet inside: 4 or 41 |
//! | 16 | flags, 0 |
//!
//! VXLAN is RFC 7348, section 5:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | flags: 0x08, there is a VNI |
//! | 3 | reserved |
//! | 3 | VNI |
//! | 1 | reserved |

mod congestion;
mod inner;
mod outer;

pub use congestion::{Congested, carry_out};
pub use inner::{Channel, Inside, Unreadable};
pub use outer::{Carried, Outer};

/// The port GUE is registered for.
pub const GUE_PORT: u16 = 6080;
/// The port VXLAN is registered for.
pub const VXLAN_PORT: u16 = 4789;
/// The highest VNI.
pub const MAX_VNI: u32 = 0x00ff_ffff;

const UDP_LEN: usize = 8;
const GUE_LEN: usize = 4;
const VXLAN_LEN: usize = 8;
/// The flag that says there is a VNI.
const VXLAN_HAS_VNI: u8 = 0x08;

/// What packets are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encap {
    /// An IP header.
    Ipip,
    /// IP, UDP to this port, and GUE.
    Gue {
        /// UDP port of both ends.
        port: u16,
    },
    /// IP, UDP to this port, and VXLAN.
    Vxlan {
        /// UDP port of both ends.
        port: u16,
        /// VXLAN network identifier, at most [`MAX_VNI`].
        vni: u32,
    },
}

impl Encap {
    /// Whether whole Ethernet frames are inside, and not only IP packets.
    #[must_use]
    pub fn carries_frames(self) -> bool {
        matches!(self, Self::Vxlan { .. })
    }

    /// Bytes between the outer IP header and what is inside.
    fn header_len(self) -> usize {
        match self {
            Self::Ipip => 0,
            Self::Gue { .. } => UDP_LEN + GUE_LEN,
            Self::Vxlan { .. } => UDP_LEN + VXLAN_LEN,
        }
    }
}
