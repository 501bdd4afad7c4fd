//! IPv6 and its extension headers (RFC 8200).

use super::{
    super::{Address, ETHERNET_LEN, be16, be32},
    Fragment, Headers, Malformed, Packet, Transport, protocol, transport,
};

/// Bytes of an IPv6 header without extensions.
const IPV6_LEN: usize = 40;
/// Bytes of a fragment header (section 4.5).
const FRAGMENT_LEN: usize = 8;
/// Where a fragment header has the fragment's offset, which is in bytes with these bits.
const OFFSET: u16 = 0xfff8;
/// Set beside it when others follow in the datagram.
const MORE: u16 = 1;
/// Extension headers that are walked; more are nobody's honest packet.
const MOST_EXTENSIONS: usize = 8;

/// Parse the IPv6 packet in a frame of that EtherType.
///
/// # Errors
/// [`Malformed`] says which header is broken.
#[inline]
pub fn parse_ipv6(frame: &[u8]) -> Result<Packet<u128>, Malformed> {
    let ip = frame.get(ETHERNET_LEN..).and_then(|ip| ip.first_chunk::<IPV6_LEN>());
    let ip = ip.filter(|ip| ip[0] >> 4 == 6).ok_or(Malformed::Ip)?;
    let total_len = IPV6_LEN + usize::from(be16(ip, 4));
    // A jumbogram's length is zero (RFC 2675): with a payload of none it is a packet without a transport header.
    let packet_bytes = frame.get(ETHERNET_LEN..ETHERNET_LEN + total_len).ok_or(Malformed::Ip)?;
    let mut packet = Packet {
        addresses: <u128 as Address>::pair(
            <u128 as Address>::read(&ip[8..24]),
            <u128 as Address>::read(&ip[24..40]),
        ),
        ports: 0,
        protocol: ip[6],
        headers: Headers {
            transport_offset: (ETHERNET_LEN + IPV6_LEN) as u16,
            // It lies inside the frame, and no frame is longer than 65,535 bytes.
            total_len: u16::try_from(total_len).map_err(|_| Malformed::Ip)?,
            ttl: ip[7],
            transport: Transport::Other,
        },
    };
    if !is_extension(packet.protocol) {
        transport::parse(&mut packet, &packet_bytes[IPV6_LEN..])?;
        return Ok(packet);
    }
    let walked = walk(packet.protocol, IPV6_LEN, packet_bytes).ok_or(Malformed::Ip)?;
    packet.protocol = walked.protocol;
    packet.headers.transport_offset = (ETHERNET_LEN + walked.at) as u16;
    if walked.source_routed {
        packet.headers.transport = Transport::SourceRouted;
    } else if walked.fragment.is_some() {
        packet.headers.transport = Transport::Fragment;
    } else {
        transport::parse(&mut packet, &packet_bytes[walked.at..])?;
    }
    Ok(packet)
}

pub(in crate::packet) fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    )
}

/// What the extension headers lead to.
struct Walked {
    protocol: u8,
    /// Bytes of the headers.
    at: usize,
    /// Offset of a fragment in its datagram, bytes, and whether more follow.
    fragment: Option<(u16, bool)>,
    source_routed: bool,
}

/// Walk the extension headers of the packet that begins `bytes` from `at`, where a header of kind `first` is, to the
/// transport header, a fragment, or a routing header that leads elsewhere first. `None` when they are cut short or too many.
#[cold]
fn walk(first: u8, at: usize, bytes: &[u8]) -> Option<Walked> {
    let mut walked = Walked { protocol: first, at, fragment: None, source_routed: false };
    for _ in 0..MOST_EXTENSIONS {
        let header = bytes.get(walked.at..)?.first_chunk::<8>()?;
        let length = match walked.protocol {
            // A whole packet in one fragment (RFC 6946) is a packet.
            protocol::FRAGMENT => {
                let field = be16(header, 2);
                if field & (OFFSET | MORE) != 0 {
                    walked.fragment = Some((field & OFFSET, field & MORE != 0));
                }
                FRAGMENT_LEN
            }
            // RFC 4302, section 2.2: in units of four bytes, less two.
            protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        walked.source_routed = walked.protocol == protocol::ROUTING && header[3] != 0;
        if walked.source_routed {
            return Some(walked);
        }
        walked.at += length;
        walked.protocol = header[0];
        if walked.fragment.is_some() || !is_extension(walked.protocol) {
            return (walked.at <= bytes.len()).then_some(walked);
        }
    }
    None
}

/// Whether the packet in `ip` is a fragment, whatever headers are before the one that says so.
pub(in crate::packet) fn is_fragment(ip: &[u8]) -> bool {
    let next = ip[6];
    is_extension(next) && walk(next, IPV6_LEN, ip).is_some_and(|walked| walked.fragment.is_some())
}

/// See [`super::quoted_header`].
pub(super) fn quoted_header(quote: &[u8]) -> Option<(u8, usize)> {
    let ip = quote.first_chunk::<IPV6_LEN>().filter(|ip| ip[0] >> 4 == 6)?;
    if !is_extension(ip[6]) {
        return Some((ip[6], IPV6_LEN));
    }
    let walked = walk(ip[6], IPV6_LEN, quote)?;
    let is_first = walked.fragment.is_none_or(|(offset, _)| offset == 0);
    (is_first && !walked.source_routed && !is_extension(walked.protocol))
        .then_some((walked.protocol, walked.at))
}

/// What the fragment in `frame`, which `headers` were parsed from, says of its datagram.
pub(in crate::packet) fn fragment(frame: &[u8], headers: &Headers) -> Fragment {
    // Next header, a reserved byte, offset and flags, identification: right before what was cut up.
    let header = &frame[usize::from(headers.transport_offset) - FRAGMENT_LEN..];
    let (field, identification) = (be16(header, 2), be32(header, 4));
    Fragment::new(identification, field & OFFSET, field & MORE != 0, headers)
}

/// Read what follows the fragment header of the first fragment in `bytes`, which `packet` was parsed from.
pub(in crate::packet) fn first_fragment(
    packet: &mut Packet<u128>,
    bytes: &[u8],
) -> Result<(), Malformed> {
    let mut at = usize::from(packet.headers.transport_offset) - ETHERNET_LEN;
    packet.headers.transport = Transport::Other;
    if is_extension(packet.protocol) {
        // A fragment of a fragment is nobody's honest packet.
        let walked = walk(packet.protocol, at, bytes).filter(|walked| walked.fragment.is_none());
        let walked = walked.ok_or(Malformed::Ip)?;
        at = walked.at;
        packet.protocol = walked.protocol;
        packet.headers.transport_offset = (ETHERNET_LEN + at) as u16;
        if walked.source_routed {
            packet.headers.transport = Transport::SourceRouted;
            return Ok(());
        }
    }
    transport::parse_first_fragment(packet, bytes.get(at..).ok_or(Malformed::Ip)?)
}
