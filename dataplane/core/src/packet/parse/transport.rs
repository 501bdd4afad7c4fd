//! What follows the IP header: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443); and of UDP-Lite (RFC 3828)
//! and DCCP (RFC 4340) where the checksum is.

use super::{
    super::{Address, be16, be32},
    Malformed, Packet, TCP_LEN, TcpFlags, Transport, protocol,
};

/// Read the transport header that begins `payload`, which ends with the packet.
#[inline]
pub(crate) fn parse<A: Address>(packet: &mut Packet<A>, payload: &[u8]) -> Result<(), Malformed> {
    match packet.protocol {
        protocol::TCP => tcp(packet, payload),
        protocol::UDP => udp(packet, payload),
        icmp if icmp == A::ICMP => self::icmp(packet, payload),
        _ => other(packet, payload),
    }
}

/// Where the checksum is in the headers of UDP-Lite and DCCP, two bytes: behind the ports and what it covers. It covers a
/// pseudo header whatever else it leaves out.
pub(in crate::packet) const SUMMED_AT: usize = 6;

#[cold]
fn other<A: Address>(packet: &mut Packet<A>, payload: &[u8]) -> Result<(), Malformed> {
    packet.headers.transport = match packet.protocol {
        protocol::UDP_LITE => Transport::UdpLite,
        protocol::DCCP => Transport::Dccp,
        _ => return Ok(()),
    };
    payload.first_chunk::<8>().map(|_| ()).ok_or(Malformed::Transport)
}

#[inline]
fn tcp<A: Address>(packet: &mut Packet<A>, payload: &[u8]) -> Result<(), Malformed> {
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
pub(super) fn tcp_header_len(header: &[u8; TCP_LEN]) -> usize {
    usize::from(header[12] >> 4) * 4
}

/// As [`parse`], of a first fragment: the length in a UDP header is that of the whole datagram.
pub(super) fn parse_first_fragment<A: Address>(
    packet: &mut Packet<A>,
    payload: &[u8],
) -> Result<(), Malformed> {
    match packet.protocol {
        protocol::UDP => udp_up_to(packet, payload, usize::from(u16::MAX)),
        _ => parse(packet, payload),
    }
}

#[inline]
fn udp<A: Address>(packet: &mut Packet<A>, payload: &[u8]) -> Result<(), Malformed> {
    udp_up_to(packet, payload, payload.len())
}

#[inline]
fn udp_up_to<A: Address>(
    packet: &mut Packet<A>,
    payload: &[u8],
    longest: usize,
) -> Result<(), Malformed> {
    let header = payload.first_chunk::<8>().ok_or(Malformed::Transport)?;
    let length = usize::from(be16(header, 4));
    if length < header.len() || length > longest {
        return Err(Malformed::Transport);
    }
    packet.headers.transport = Transport::Udp { checksummed: be16(header, 6) != 0 };
    packet.ports = be32(header, 0);
    Ok(())
}

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Whether an ICMP or ICMPv6 message of type `kind` is an echo request or reply.
#[inline]
pub(in crate::packet) fn is_echo<A: Address>(kind: u8) -> bool {
    match A::ICMP {
        protocol::ICMP => matches!(kind, ECHO_REQUEST | ECHO_REPLY),
        _ => matches!(kind, ECHO_REQUEST_V6 | ECHO_REPLY_V6),
    }
}

#[inline]
fn icmp<A: Address>(packet: &mut Packet<A>, payload: &[u8]) -> Result<(), Malformed> {
    let header = payload.first_chunk::<8>().ok_or(Malformed::Transport)?;
    packet.headers.transport = match (A::ICMP, header[0]) {
        (_, kind) if is_echo::<A>(kind) => {
            Transport::Echo { request: matches!(kind, ECHO_REQUEST | ECHO_REQUEST_V6) }
        }
        // Unreachable, source quench, time exceeded, parameter problem; the same of version 6 and packet too big.
        (protocol::ICMP, 3 | 4 | 11 | 12) | (protocol::ICMPV6, 1..=4) => Transport::IcmpError,
        _ => Transport::IcmpOther,
    };
    if matches!(packet.headers.transport, Transport::Echo { .. }) {
        let identifier = u32::from(be16(header, 4));
        packet.ports = identifier << 16 | identifier;
    }
    Ok(())
}
