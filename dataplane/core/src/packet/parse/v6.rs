//! IPv6 and its extension headers (RFC 8200).

use super::{
    super::{Address, ETHERNET_LEN, be16},
    Headers, Malformed, Packet, Transport, protocol, transport,
};

/// Bytes of an IPv6 header without extensions.
const IPV6_LEN: usize = 40;
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
    walk(&mut packet, packet_bytes)?;
    Ok(packet)
}

fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    )
}

/// Walk the extension headers to what they lead to.
#[cold]
fn walk(packet: &mut Packet<u128>, bytes: &[u8]) -> Result<(), Malformed> {
    let mut at = IPV6_LEN;
    for _ in 0..MOST_EXTENSIONS {
        let header = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let header = header.ok_or(Malformed::Ip)?;
        let length = match packet.protocol {
            // Section 4.5: eight bytes. A whole packet in one fragment (RFC 6946) is a packet.
            protocol::FRAGMENT => {
                if be16(header, 2) & 0xfff9 != 0 {
                    packet.protocol = header[0];
                    packet.headers.transport = Transport::Fragment;
                    packet.headers.transport_offset = (ETHERNET_LEN + at + 8) as u16;
                    return Ok(());
                }
                8
            }
            // RFC 4302, section 2.2: in units of four bytes, less two.
            protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if packet.protocol == protocol::ROUTING && header[3] != 0 {
            packet.headers.transport = Transport::SourceRouted;
            return Ok(());
        }
        at += length;
        packet.protocol = header[0];
        packet.headers.transport_offset = (ETHERNET_LEN + at) as u16;
        if !is_extension(packet.protocol) {
            return transport::parse(packet, bytes.get(at..).ok_or(Malformed::Ip)?);
        }
    }
    Err(Malformed::Ip)
}
