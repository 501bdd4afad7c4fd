//! One pass over the headers; what comes out needs no further checking.

use super::{ETHERNET_LEN, be16, be32, be64};

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;
/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

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

/// What session tracking needs of a TCP segment that begins or ends something; see [`Ipv4Packet::tcp_segment`].
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
    Tcp(TcpFlags),
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
    /// Source address in the upper half, destination address in the lower, host byte order.
    pub addresses: u64,
    /// Source port in the upper half, destination port in the lower; the identifier of an echo in both.
    pub ports: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// What else there is to know.
    pub headers: Headers,
}

/// What is needed of a packet's headers once its session is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the transport header in the frame, bytes.
    pub transport_offset: u16,
    /// Bytes of the packet, headers included: padding may follow it in the frame.
    pub total_len: u16,
    /// Time to live as it arrived.
    pub ttl: u8,
    /// What follows.
    pub transport: Transport,
}

impl Transport {
    /// Whether it can belong to a session.
    #[inline]
    #[must_use]
    pub fn has_sessions(self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp { .. } | Self::Echo { .. })
    }
}

impl Ipv4Packet {
    /// Source address, host byte order.
    #[inline]
    #[must_use]
    pub fn source(&self) -> u32 {
        (self.addresses >> 32) as u32
    }

    /// Destination address, host byte order.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> u32 {
        self.addresses as u32
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

    /// The TCP segment in `frame`, which these were parsed from. Few packets need it, so [`parse_ipv4`] does not read it.
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
            payload_len: (segment.len() - tcp_header_len(header).min(segment.len())) as u32,
        })
    }
}

/// Why a packet is not what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Version, header length or total length of IPv4 do not fit the frame.
    Ipv4,
    /// The transport header is cut short or contradicts itself.
    Transport,
}

/// Parse the IPv4 packet in a frame of that EtherType.
///
/// # Errors
/// [`Malformed`] says which header is broken.
#[inline]
pub fn parse_ipv4(frame: &[u8]) -> Result<Ipv4Packet, Malformed> {
    match parse_plain_tcp(frame) {
        Some(packet) => Ok(packet),
        None => parse_any(frame),
    }
}

/// Nearly every packet: a TCP segment whose IPv4 header has no options. With all offsets known it takes a third of the
/// instructions. `None` says nothing about the packet.
#[inline]
fn parse_plain_tcp(frame: &[u8]) -> Option<Ipv4Packet> {
    const START: usize = ETHERNET_LEN + IPV4_LEN;
    const WITHOUT_OPTIONS: u8 = 0x45;
    let headers = frame.first_chunk::<{ START + TCP_LEN }>()?;
    // Flags and fragment offset, time to live, protocol.
    let is_whole_tcp = be32(headers, 20) & 0x3fff_00ff == u32::from(protocol::TCP);
    let total_len = be16(headers, 16);
    let end = ETHERNET_LEN + usize::from(total_len);
    let data = START + usize::from(headers[START + 12] >> 4) * 4;
    let fits = end <= frame.len() && data >= headers.len() && data <= end;
    (headers[ETHERNET_LEN] == WITHOUT_OPTIONS && is_whole_tcp && fits).then(|| Ipv4Packet {
        addresses: be64(headers, 26),
        ports: be32(headers, START),
        protocol: protocol::TCP,
        headers: Headers {
            transport_offset: START as u16,
            total_len,
            ttl: headers[22],
            transport: Transport::Tcp(TcpFlags(headers[START + 13])),
        },
    })
}

#[inline]
fn parse_any(frame: &[u8]) -> Result<Ipv4Packet, Malformed> {
    let ip = frame.get(ETHERNET_LEN..).and_then(|ip| ip.first_chunk::<IPV4_LEN>());
    let ip = ip.filter(|ip| ip[0] >> 4 == 4).ok_or(Malformed::Ipv4)?;
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let total_len = be16(ip, 2);
    let transport_offset = ETHERNET_LEN + header_len;
    // Frames are padded to 60 bytes, so the packet may be shorter than the frame, never longer.
    let payload = frame.get(transport_offset..ETHERNET_LEN + usize::from(total_len));
    let payload = payload.filter(|_| header_len >= IPV4_LEN);
    let payload = payload.ok_or(Malformed::Ipv4)?;
    let mut packet = Ipv4Packet {
        addresses: be64(ip, 12),
        ports: 0,
        protocol: ip[9],
        headers: Headers {
            transport_offset: transport_offset as u16,
            total_len,
            ttl: ip[8],
            transport: Transport::Other,
        },
    };
    let more_fragments_or_offset = be16(ip, 6) & 0x3fff;
    if more_fragments_or_offset != 0 {
        packet.headers.transport = Transport::Fragment;
        return Ok(packet);
    }
    match packet.protocol {
        protocol::TCP => parse_tcp(&mut packet, payload)?,
        protocol::UDP => parse_udp(&mut packet, payload)?,
        protocol::ICMP => parse_icmp(&mut packet, payload)?,
        _ => {}
    }
    Ok(packet)
}

#[inline]
fn parse_tcp(packet: &mut Ipv4Packet, payload: &[u8]) -> Result<(), Malformed> {
    let header = payload.first_chunk::<TCP_LEN>().ok_or(Malformed::Transport)?;
    let header_len = tcp_header_len(header);
    if header_len < TCP_LEN || header_len > payload.len() {
        return Err(Malformed::Transport);
    }
    packet.headers.transport = Transport::Tcp(TcpFlags(header[13]));
    packet.ports = be32(header, 0);
    Ok(())
}

#[inline]
fn tcp_header_len(header: &[u8; TCP_LEN]) -> usize {
    usize::from(header[12] >> 4) * 4
}

#[inline]
fn parse_udp(packet: &mut Ipv4Packet, payload: &[u8]) -> Result<(), Malformed> {
    let header = payload.first_chunk::<8>().ok_or(Malformed::Transport)?;
    let length = usize::from(be16(header, 4));
    if length < header.len() || length > payload.len() {
        return Err(Malformed::Transport);
    }
    packet.headers.transport = Transport::Udp { checksummed: be16(header, 6) != 0 };
    packet.ports = be32(header, 0);
    Ok(())
}

#[inline]
fn parse_icmp(packet: &mut Ipv4Packet, payload: &[u8]) -> Result<(), Malformed> {
    let header = payload.first_chunk::<8>().ok_or(Malformed::Transport)?;
    let request = match header[0] {
        8 => true,
        0 => false,
        _ => {
            packet.headers.transport = Transport::IcmpOther;
            return Ok(());
        }
    };
    packet.headers.transport = Transport::Echo { request };
    let identifier = u32::from(be16(header, 4));
    packet.ports = identifier << 16 | identifier;
    Ok(())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
