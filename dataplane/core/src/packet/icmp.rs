//! ICMP errors that the box itself sends (RFC 792, RFC 4443), made of the packet they are about.
//!
//! | offset in the message | bytes | field |
//! |---|---|---|
//! | 0 | 1, 1, 2 | type, code, checksum |
//! | 4 | 4 | MTU of the next link; otherwise zero |
//! | 8 | the rest | the packet as it came, from its IP header on |

use super::{
    Address, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, PacketBuf, Transport, be16,
    checksum, protocol,
};

/// Bytes before the quoted packet.
const ICMP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// Internetwork control (RFC 1812, section 4.3.2.5).
const TRAFFIC_CLASS: u8 = 0xc0;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// It does not fit its next link, which takes IP packets of up to so many bytes.
    TooBig {
        /// The link's MTU.
        mtu: u16,
    },
    /// Its time to live ran out.
    TimeExceeded,
    /// There is no route to its destination (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
    NoRoute,
}

impl Complaint {
    /// Type and code.
    fn kind<A: Address>(self) -> [u8; 2] {
        match (self, is_v4::<A>()) {
            (Self::TooBig { .. }, true) => [3, 4],
            (Self::TooBig { .. }, false) => [2, 0],
            (Self::TimeExceeded, true) => [11, 0],
            (Self::TimeExceeded, false) => [3, 0],
            (Self::NoRoute, true) => [3, 0],
            (Self::NoRoute, false) => [1, 0],
        }
    }

    fn mtu(self) -> u16 {
        match self {
            Self::TooBig { mtu } => mtu,
            Self::TimeExceeded | Self::NoRoute => 0,
        }
    }
}

/// Whether errors may be sent about the packet in `frame`, whose headers are `packet`'s: not about errors, nor pieces of
/// a datagram behind the first, nor what was sent to or by a group (RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e)).
#[must_use]
pub fn may_complain<A: Address>(frame: &[u8], packet: &Packet<A>) -> bool {
    let (source, destination) = (packet.source(), packet.destination());
    let has_sender = !source.is_group() && !source.ip().is_loopback();
    has_sender
        && !destination.is_group()
        && !is_later_fragment(frame, packet)
        && !is_about_errors(frame, packet)
}

fn is_later_fragment<A: Address>(frame: &[u8], packet: &Packet<A>) -> bool {
    if packet.headers.transport != Transport::Fragment {
        return false;
    }
    let (at, mask) = if is_v4::<A>() {
        (ETHERNET_LEN + 6, 0x1fff)
    } else {
        // The fragment header is the last one (RFC 8200, section 4.5).
        (usize::from(packet.headers.transport_offset) - 6, 0xfff8)
    };
    be16(frame, at) & mask != 0
}

fn is_about_errors<A: Address>(frame: &[u8], packet: &Packet<A>) -> bool {
    if packet.protocol != A::ICMP {
        return false;
    }
    let kind = frame.get(usize::from(packet.headers.transport_offset));
    if is_v4::<A>() {
        // Unreachable, source quench, redirect, time exceeded, parameter problem; without a type it may be one.
        kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
    } else {
        // All errors, and redirect.
        kind.is_none_or(|kind| matches!(kind, 0..=127 | 137))
    }
}

/// Turn the packet in `packet`, of `total_len` bytes behind its Ethernet header, into an error about it from `from` to `to`
/// of at most `most` bytes. Its MACs are left to be written. `false` when there is no room before it: it is then not to be
/// sent.
///
/// As much as may be is quoted: up to 576 bytes in all (RFC 1812, section 4.3.2.3), or 1280 (RFC 4443, section 2.4 (c)).
#[must_use = "the packet is no error when it answers false"]
pub fn complain<A: Address, B: PacketBuf>(
    packet: &mut B,
    total_len: u16,
    complaint: Complaint,
    (from, to): (A, A),
    most: u16,
) -> bool {
    let usual = if is_v4::<A>() { 576 } else { 1280 };
    let headers_len = A::HEADER_LEN + ICMP_LEN;
    let quoted = usize::from(usual.min(most)).saturating_sub(headers_len);
    let quoted = quoted.min(usize::from(total_len));
    if !packet.truncate(ETHERNET_LEN + quoted) || !packet.prepend(headers_len) {
        return false;
    }
    let frame = packet.as_mut();
    let ethertype = if is_v4::<A>() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    frame[ETHERNET_LEN - 2..ETHERNET_LEN].copy_from_slice(&ethertype.to_be_bytes());
    let (ip, message) = frame[ETHERNET_LEN..].split_at_mut(A::HEADER_LEN);
    write_header(ip, message.len() as u16, from, to);
    message[..ICMP_LEN].fill(0);
    message[..2].copy_from_slice(&complaint.kind::<A>());
    message[6..ICMP_LEN].copy_from_slice(&complaint.mtu().to_be_bytes());
    let checksum = if A::ICMP_COVERS_ADDRESSES {
        checksum::of_icmpv6(ip, message)
    } else {
        checksum::of_icmp(message)
    };
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    true
}

fn write_header<A: Address>(ip: &mut [u8], payload_len: u16, from: A, to: A) {
    ip.fill(0);
    from.write(&mut ip[A::SOURCE..]);
    to.write(&mut ip[A::DESTINATION..]);
    ip[A::HOPS] = HOP_LIMIT;
    if is_v4::<A>() {
        ip[0] = 0x45;
        let total_len = A::HEADER_LEN as u16 + payload_len;
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        // Not to be fragmented, so that it needs no identification (RFC 6864).
        (ip[6], ip[9]) = (DONT_FRAGMENT, A::ICMP);
    } else {
        ip[0] = 0x60;
        ip[4..6].copy_from_slice(&payload_len.to_be_bytes());
        ip[6] = protocol::ICMPV6;
    }
    A::set_traffic_class(ip, TRAFFIC_CLASS);
    if let Some(at) = A::CHECKSUM {
        let checksum = !checksum::sum(ip);
        ip[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn is_v4<A: Address>() -> bool {
    A::BITS == u32::BITS as u8
}
