//! One pass over the headers; what comes out needs no further checking.

mod fragment;
mod transport;
pub(super) mod v4;
pub(super) mod v6;

use super::{Address, ETHERNET_LEN, be32};

pub use fragment::Fragment;
pub(super) use transport::{SUMMED_AT, is_echo};
pub use v4::parse_ipv4;
pub use v6::parse_ipv6;

/// Bytes of a TCP header without options.
pub(crate) const TCP_LEN: usize = 20;

/// Bytes of a UDP header.
const UDP_LEN: usize = 8;

/// IANA protocol numbers the box knows by name.
pub mod protocol {
    /// IPv6 hop-by-hop options, RFC 8200.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP, RFC 2003.
    pub const IPIP: u8 = 4;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP, RFC 4213.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header, RFC 8200.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header, RFC 8200.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header, RFC 4302.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options, RFC 8200.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;
}

/// TCP control bits (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// FIN or RST: something ends.
    #[inline]
    #[must_use]
    pub fn ends(self) -> bool {
        self.0 & (Self::FIN.0 | Self::RST.0) != 0
    }

    /// SYN without ACK: a conversation begins.
    #[inline]
    #[must_use]
    pub fn opens(self) -> bool {
        self.has(Self::SYN) && !self.has(Self::ACK) && !self.has(Self::RST)
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What session tracking needs of a TCP segment that begins or ends something; see [`Headers::tcp_segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// Control bits.
    pub flags: TcpFlags,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Acknowledgement number; meaningful with ACK.
    pub acknowledgement: u32,
    /// Payload length in bytes.
    pub payload_len: u32,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A whole TCP header.
    Tcp(TcpFlags),
    /// UDP; `checksummed` is false when the sender sent no checksum (zero).
    Udp {
        /// Whether the checksum field is in use.
        checksummed: bool,
    },
    /// ICMP or ICMPv6 echo; both ports hold the identifier.
    Echo {
        /// Request or reply.
        request: bool,
    },
    /// A protocol whose ports the box does not know: a conversation is all of it between two addresses.
    Other,
    /// One of those, and its checksum covers the addresses: UDP-Lite.
    UdpLite,
    /// The same: DCCP.
    Dccp,
    /// An ICMP or ICMPv6 error, which quotes the packet it is about.
    IcmpError,
    /// Any other ICMP or ICMPv6 message.
    IcmpOther,
    /// A fragment, first or later.
    Fragment,
    /// IPv6 with a routing header that leads elsewhere first (RFC 8200, section 4.4).
    SourceRouted,
}

/// An IP packet whose headers lie whole inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A: Address> {
    /// Source and destination.
    pub addresses: A::Pair,
    /// Source port in the upper half, destination port in the lower; the identifier of an echo in both.
    pub ports: u32,
    /// IANA protocol number of what follows the IP header and its extensions.
    pub protocol: u8,
    /// What else there is to know.
    pub headers: Headers,
}

/// What is needed of a packet's headers once its session is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the transport header in the frame, bytes; of a fragment, what follows its headers.
    pub transport_offset: u16,
    /// Bytes of the packet, headers included: padding may follow it in the frame.
    pub total_len: u16,
    /// Time to live or hop limit as it arrived.
    pub ttl: u8,
    /// What follows.
    pub transport: Transport,
}

impl Transport {
    /// Whether it can belong to a session by itself.
    #[inline]
    #[must_use]
    pub fn has_sessions(self) -> bool {
        match self {
            Self::Tcp(_) | Self::Udp { .. } | Self::Echo { .. } => true,
            Self::Other | Self::UdpLite | Self::Dccp => true,
            Self::IcmpError | Self::IcmpOther | Self::Fragment | Self::SourceRouted => false,
        }
    }
}

impl<A: Address> Packet<A> {
    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> A {
        A::first(self.addresses)
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> A {
        A::second(self.addresses)
    }
}

impl Headers {
    /// The TCP control bits, of a TCP segment.
    #[inline]
    #[must_use]
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        match self.transport {
            Transport::Tcp(flags) => Some(flags),
            _ => None,
        }
    }

    /// Whether it is the first segment of a TCP connection.
    #[inline]
    #[must_use]
    pub fn opens(&self) -> bool {
        self.tcp_flags().is_some_and(TcpFlags::opens)
    }

    /// Up to where a TCP segment in `frame`, which these were parsed from, acknowledges, if it does.
    #[inline]
    #[must_use]
    pub fn tcp_acknowledgement(&self, frame: &[u8]) -> Option<u32> {
        self.tcp_flags().filter(|flags| flags.has(TcpFlags::ACK))?;
        let at = usize::from(self.transport_offset) + 8;
        frame.get(at..at + 4).map(|bytes| be32(bytes, 0))
    }

    /// The TCP segment in `frame`, which these were parsed from. Few packets need it, so parsing does not read it.
    #[must_use]
    pub fn tcp_segment(&self, frame: &[u8]) -> Option<TcpSegment> {
        let flags = self.tcp_flags()?;
        let packet = frame.get(ETHERNET_LEN..ETHERNET_LEN + usize::from(self.total_len))?;
        let segment = packet.get(usize::from(self.transport_offset) - ETHERNET_LEN..)?;
        let header = segment.first_chunk::<TCP_LEN>()?;
        Some(TcpSegment {
            flags,
            sequence: be32(header, 4),
            acknowledgement: be32(header, 8),
            payload_len: (segment.len() - transport::tcp_header_len(header).min(segment.len()))
                as u32,
        })
    }

    /// What a UDP datagram in `frame`, which these were parsed from, carries.
    #[must_use]
    pub fn udp_payload<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let Transport::Udp { .. } = self.transport else { return None };
        let begins = usize::from(self.transport_offset) + UDP_LEN;
        frame.get(begins..ETHERNET_LEN + usize::from(self.total_len))
    }
}

/// The protocol and the length of the headers of a quoted packet, which begins `quote` and may be cut short. `None` when
/// they are not whole, of the other family, or of a fragment that does not begin with the transport header.
pub(super) fn quoted_header<A: Address>(quote: &[u8]) -> Option<(u8, usize)> {
    if A::BITS == u32::BITS as u8 { v4::quoted_header(quote) } else { v6::quoted_header(quote) }
}

/// Why a packet is not what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Version or lengths of the IP header, or an extension header, do not fit the frame.
    Ip,
    /// The transport header is cut short or contradicts itself.
    Transport,
}

#[cfg(test)]
mod tests;
