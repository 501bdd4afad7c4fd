//! The frames of the benches: what clients of the managed address send, and what it answers.

mod icmp;
pub mod v4;
pub mod v6;

#[cfg(test)]
mod tests;

use tidegate_dataplane::packet::{ETHERNET_LEN, Mac, TcpFlags, checksum, protocol};

pub use v4::{LOCATOR, MANAGED, build, client};

/// MAC of the box's uplink.
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// MAC of the box's access port.
pub const ACCESS_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
/// MAC frames come from.
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 9, 2]);
/// MAC of the managed address's home.
pub const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 0x0a, 1]);
/// The service's port.
pub const SERVICE_PORT: u16 = 80;
/// The smallest Ethernet frame, without its check sequence.
pub const SMALLEST: usize = 60;

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// What the frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request, its identifier the client's port.
    Echo,
    /// An ICMP error: the client says that its port, to which the managed address is to have sent a segment, is closed.
    Unreachable,
}

impl Kind {
    /// A segment in the middle of a session.
    pub const ACK: Self = Self::Tcp(TcpFlags::ACK);
    /// The first segment of a session.
    pub const SYN: Self = Self::Tcp(TcpFlags::SYN);
    /// The last segment of a session in one direction.
    pub const FIN: Self = Self::Tcp(TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0));

    fn protocol(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp(_), _) => protocol::TCP,
            (Self::Udp, _) => protocol::UDP,
            (Self::Echo | Self::Unreachable, Family::V4) => protocol::ICMP,
            (Self::Echo | Self::Unreachable, Family::V6) => protocol::ICMPV6,
        }
    }

    fn header(self, family: Family) -> usize {
        match self {
            Self::Tcp(_) => TCP_HEADER,
            Self::Udp => UDP_HEADER,
            Self::Echo => icmp::HEADER,
            Self::Unreachable => icmp::HEADER + family.header() + icmp::QUOTED,
        }
    }
}

/// Version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// A frame of `bytes` bytes from client `number` to the managed address, all checksums correct.
    ///
    /// # Panics
    /// When `bytes` is less than [`Self::smallest`].
    #[must_use]
    pub fn build(self, number: u32, kind: Kind, bytes: usize) -> Vec<u8> {
        match self {
            Self::V4 => build(number, kind, bytes),
            Self::V6 => v6::build(number, kind, bytes),
        }
    }

    /// Bytes of the smallest frame of this kind, without check sequence.
    #[must_use]
    pub fn smallest(self, kind: Kind) -> usize {
        SMALLEST.max(ETHERNET_LEN + self.header() + kind.header(self))
    }

    fn header(self) -> usize {
        match self {
            Self::V4 => v4::HEADER,
            Self::V6 => v6::HEADER,
        }
    }
}

/// Address and port of one end.
type End<A> = (A, u16);

/// Write the transport header, and what an ICMP error quotes, into `segment`, whose IP header has these addresses.
fn write_transport(
    segment: &mut [u8],
    (from, to): (u16, u16),
    kind: Kind,
    family: Family,
    addresses: &[u8],
) {
    let length = (segment.len() as u16).to_be_bytes();
    let checksum_at = match kind {
        Kind::Udp => {
            write_ports(segment, from, to);
            segment[4..6].copy_from_slice(&length);
            6
        }
        Kind::Tcp(flags) => {
            write_ports(segment, from, to);
            segment[4..8].copy_from_slice(&1000u32.to_be_bytes());
            segment[8..12].copy_from_slice(&2000u32.to_be_bytes());
            segment[12..16].copy_from_slice(&[0x50, flags.0, 0xff, 0xff]);
            16
        }
        Kind::Echo => {
            icmp::write_echo(segment, family, from);
            icmp::CHECKSUM
        }
        Kind::Unreachable => {
            icmp::write_unreachable(segment, family, addresses, (to, from));
            icmp::CHECKSUM
        }
    };
    // RFC 9293, 3.1, RFC 768 and RFC 8200, 8.1: the pseudo-header is both addresses, the protocol and the length;
    // IPv6 has wider fields, of which the upper halves are zero.
    let mut summed = Vec::with_capacity(addresses.len() + 4 + segment.len());
    let protocol = kind.protocol(family);
    // RFC 792: ICMP over IPv4 has none.
    if protocol != protocol::ICMP {
        summed.extend_from_slice(addresses);
        summed.extend([0, protocol]);
        summed.extend(length);
    }
    summed.extend_from_slice(segment);
    let checksum = match (kind, !checksum::sum(&summed)) {
        // RFC 768: zero would mean that there is none.
        (Kind::Udp, 0) => u16::MAX,
        (_, checksum) => checksum,
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn write_ports(segment: &mut [u8], from: u16, to: u16) {
    segment[0..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
}
