//! IPv4 (RFC 791).

use super::{
    super::{ETHERNET_LEN, be16, be32, be64},
    Fragment, Headers, Malformed, Packet, TCP_LEN, TcpFlags, Transport, protocol, transport,
};

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;

/// Parse the IPv4 packet in a frame of that EtherType.
///
/// # Errors
/// [`Malformed`] says which header is broken.
#[inline]
pub fn parse_ipv4(frame: &[u8]) -> Result<Packet<u32>, Malformed> {
    match parse_plain_tcp(frame) {
        Some(packet) => Ok(packet),
        None => parse_any(frame),
    }
}

/// Nearly every packet: a TCP segment whose IPv4 header has no options. With all offsets known it takes a third of the
/// instructions. `None` says nothing about the packet.
#[inline]
pub(super) fn parse_plain_tcp(frame: &[u8]) -> Option<Packet<u32>> {
    const START: usize = ETHERNET_LEN + IPV4_LEN;
    const WITHOUT_OPTIONS: u8 = 0x45;
    let headers = frame.first_chunk::<{ START + TCP_LEN }>()?;
    // Flags and fragment offset, time to live, protocol.
    let is_whole_tcp = be32(headers, 20) & 0x3fff_00ff == u32::from(protocol::TCP);
    let total_len = be16(headers, 16);
    let end = ETHERNET_LEN + usize::from(total_len);
    let data = START + usize::from(headers[START + 12] >> 4) * 4;
    let fits = end <= frame.len() && data >= headers.len() && data <= end;
    (headers[ETHERNET_LEN] == WITHOUT_OPTIONS && is_whole_tcp && fits).then(|| Packet {
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
pub(super) fn parse_any(frame: &[u8]) -> Result<Packet<u32>, Malformed> {
    let ip = frame.get(ETHERNET_LEN..).and_then(|ip| ip.first_chunk::<IPV4_LEN>());
    let ip = ip.filter(|ip| ip[0] >> 4 == 4).ok_or(Malformed::Ip)?;
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let total_len = be16(ip, 2);
    let transport_offset = ETHERNET_LEN + header_len;
    // Frames are padded to 60 bytes, so the packet may be shorter than the frame, never longer.
    let payload = frame.get(transport_offset..ETHERNET_LEN + usize::from(total_len));
    let payload = payload.filter(|_| header_len >= IPV4_LEN);
    let payload = payload.ok_or(Malformed::Ip)?;
    let mut packet = Packet {
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
    transport::parse(&mut packet, payload)?;
    Ok(packet)
}

/// See [`super::quoted_header`].
pub(super) fn quoted_header(quote: &[u8]) -> Option<(u8, usize)> {
    const OFFSET: u16 = 0x1fff;
    let ip = quote.first_chunk::<IPV4_LEN>()?;
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let is_whole = ip[0] >> 4 == 4 && header_len >= IPV4_LEN && quote.len() >= header_len;
    (is_whole && be16(ip, 6) & OFFSET == 0).then_some((ip[9], header_len))
}

/// What the fragment in `frame`, which `headers` were parsed from, says of its datagram.
pub(in crate::packet) fn fragment(frame: &[u8], headers: &Headers) -> Fragment {
    const MORE: u16 = 0x2000;
    let ip = &frame[ETHERNET_LEN..];
    let (identification, flags) = (u32::from(be16(ip, 4)), be16(ip, 6));
    // The lower 13 bits count units of eight bytes.
    Fragment::new(identification, flags << 3, flags & MORE != 0, headers)
}

/// Read the transport header of the first fragment in `bytes`, which `packet` was parsed from.
pub(in crate::packet) fn first_fragment(
    packet: &mut Packet<u32>,
    bytes: &[u8],
) -> Result<(), Malformed> {
    let at = usize::from(packet.headers.transport_offset) - ETHERNET_LEN;
    packet.headers.transport = Transport::Other;
    transport::parse_first_fragment(packet, bytes.get(at..).ok_or(Malformed::Ip)?)
}
