//! One pass over the headers; what comes out needs no further checking.

use super::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, be16, be32};

/// IANA protocol numbers the box knows by name.
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
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

/// What session tracking needs of a TCP segment.
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

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A whole TCP header.
    Tcp(TcpSegment),
    /// UDP; `checksummed` is false when the sender sent no checksum (zero).
    Udp {
        /// Whether the checksum field is in use.
        checksummed: bool,
    },
    /// ICMP echo; both ports hold the identifier.
    Echo {
        /// Request (type 8) or reply (type 0).
        request: bool,
    },
    /// Any other ICMP message.
    IcmpOther,
    /// A fragment, first or later.
    Fragment,
    /// A protocol without ports.
    Other,
}

/// An IPv4 packet whose headers lie whole inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Packet {
    /// Source address, host byte order.
    pub source: u32,
    /// Destination address, host byte order.
    pub destination: u32,
    /// Source port, or the echo identifier.
    pub source_port: u16,
    /// Destination port, or the echo identifier.
    pub destination_port: u16,
    /// Offset of the transport header in the frame, bytes.
    pub transport_offset: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Time to live as it arrived.
    pub ttl: u8,
    /// What follows.
    pub transport: Transport,
}

/// A frame the box understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// ARP: [`super::arp`] reads on.
    Arp,
    /// IPv4.
    Ipv4(Ipv4Packet),
    /// Another EtherType.
    OtherEthertype,
}

/// Why a frame is not what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than an Ethernet header.
    Ethernet,
    /// Version, header length or total length of IPv4 do not fit the frame.
    Ipv4,
    /// The transport header is cut short or contradicts itself.
    Transport,
}

/// Parse a frame.
///
/// # Errors
/// [`Malformed`] says which header is broken.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed, Malformed> {
    if frame.len() < ETHERNET_LEN {
        return Err(Malformed::Ethernet);
    }
    match be16(frame, 12) {
        ETHERTYPE_IPV4 => parse_ipv4(frame).map(Parsed::Ipv4),
        ETHERTYPE_ARP => Ok(Parsed::Arp),
        _ => Ok(Parsed::OtherEthertype),
    }
}

#[inline]
fn parse_ipv4(frame: &[u8]) -> Result<Ipv4Packet, Malformed> {
    let ip = &frame[ETHERNET_LEN..];
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return Err(Malformed::Ipv4);
    }
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let total_len = usize::from(be16(ip, 2));
    // Frames are padded to 60 bytes, so the packet may be shorter than the frame, never longer.
    if header_len < 20 || total_len < header_len || total_len > ip.len() {
        return Err(Malformed::Ipv4);
    }
    let mut packet = Ipv4Packet {
        source: be32(ip, 12),
        destination: be32(ip, 16),
        source_port: 0,
        destination_port: 0,
        transport_offset: (ETHERNET_LEN + header_len) as u16,
        protocol: ip[9],
        ttl: ip[8],
        transport: Transport::Other,
    };
    let more_fragments_or_offset = be16(ip, 6) & 0x3fff;
    if more_fragments_or_offset != 0 {
        packet.transport = Transport::Fragment;
        return Ok(packet);
    }
    let payload = &ip[header_len..total_len];
    packet.transport = match packet.protocol {
        protocol::TCP => parse_tcp(payload)?,
        protocol::UDP => parse_udp(payload)?,
        protocol::ICMP => parse_icmp(payload)?,
        _ => return Ok(packet),
    };
    match packet.transport {
        Transport::Tcp(_) | Transport::Udp { .. } => {
            packet.source_port = be16(payload, 0);
            packet.destination_port = be16(payload, 2);
        }
        Transport::Echo { .. } => {
            packet.source_port = be16(payload, 4);
            packet.destination_port = packet.source_port;
        }
        _ => {}
    }
    Ok(packet)
}

#[inline]
fn parse_tcp(payload: &[u8]) -> Result<Transport, Malformed> {
    if payload.len() < 20 {
        return Err(Malformed::Transport);
    }
    let header_len = usize::from(payload[12] >> 4) * 4;
    if header_len < 20 || header_len > payload.len() {
        return Err(Malformed::Transport);
    }
    Ok(Transport::Tcp(TcpSegment {
        flags: TcpFlags(payload[13]),
        sequence: be32(payload, 4),
        acknowledgement: be32(payload, 8),
        payload_len: (payload.len() - header_len) as u32,
    }))
}

#[inline]
fn parse_udp(payload: &[u8]) -> Result<Transport, Malformed> {
    if payload.len() < 8
        || usize::from(be16(payload, 4)) < 8
        || usize::from(be16(payload, 4)) > payload.len()
    {
        return Err(Malformed::Transport);
    }
    Ok(Transport::Udp { checksummed: be16(payload, 6) != 0 })
}

#[inline]
fn parse_icmp(payload: &[u8]) -> Result<Transport, Malformed> {
    if payload.len() < 8 {
        return Err(Malformed::Transport);
    }
    Ok(match payload[0] {
        8 => Transport::Echo { request: true },
        0 => Transport::Echo { request: false },
        _ => Transport::IcmpOther,
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
