//! The frames of the benches: what clients of the managed address send, and what it answers.

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
}

impl Kind {
    /// A segment in the middle of a session.
    pub const ACK: Self = Self::Tcp(TcpFlags::ACK);
    /// The first segment of a session.
    pub const SYN: Self = Self::Tcp(TcpFlags::SYN);
    /// The last segment of a session in one direction.
    pub const FIN: Self = Self::Tcp(TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0));

    fn protocol(self) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    fn header(self) -> usize {
        match self {
            Self::Tcp(_) => TCP_HEADER,
            Self::Udp => UDP_HEADER,
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
        let header = match self {
            Self::V4 => v4::HEADER,
            Self::V6 => v6::HEADER,
        };
        SMALLEST.max(ETHERNET_LEN + header + kind.header())
    }
}

/// Address and port of one end.
type End<A> = (A, u16);

/// Write the transport header at the start of `segment`, whose IP header has these addresses.
fn write_transport(segment: &mut [u8], from_port: u16, to_port: u16, kind: Kind, addresses: &[u8]) {
    segment[0..2].copy_from_slice(&from_port.to_be_bytes());
    segment[2..4].copy_from_slice(&to_port.to_be_bytes());
    let length = (segment.len() as u16).to_be_bytes();
    let checksum_at = match kind {
        Kind::Udp => {
            segment[4..6].copy_from_slice(&length);
            6
        }
        Kind::Tcp(flags) => {
            segment[4..8].copy_from_slice(&1000u32.to_be_bytes());
            segment[8..12].copy_from_slice(&2000u32.to_be_bytes());
            segment[12..16].copy_from_slice(&[0x50, flags.0, 0xff, 0xff]);
            16
        }
    };
    // RFC 9293, 3.1, RFC 768 and RFC 8200, 8.1: the pseudo-header is both addresses, the protocol and the length;
    // IPv6 has wider fields, of which the upper halves are zero.
    let mut summed = addresses.to_vec();
    summed.extend([0, kind.protocol()]);
    summed.extend(length);
    summed.extend_from_slice(segment);
    let checksum = match (kind, !checksum::sum(&summed)) {
        // RFC 768: zero would mean that there is none.
        (Kind::Udp, 0) => u16::MAX,
        (_, checksum) => checksum,
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
}
