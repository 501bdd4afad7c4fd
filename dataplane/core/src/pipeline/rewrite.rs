//! Header rewriting in place, with incremental checksums (RFC 1624).

use crate::packet::{ETHERNET_LEN, Ipv4Packet, Transport, be16, checksum::Delta};

const IPV4_TTL: usize = ETHERNET_LEN + 8;
const IPV4_CHECKSUM: usize = ETHERNET_LEN + 10;
const IPV4_SOURCE: usize = ETHERNET_LEN + 12;
const IPV4_DESTINATION: usize = ETHERNET_LEN + 16;

/// Count one hop and replace the destination address. The caller has checked the time to live.
#[inline]
pub(super) fn hop_to(frame: &mut [u8], packet: &Ipv4Packet, new: u32) {
    hop_and_replace(frame, packet, IPV4_DESTINATION, packet.destination, new);
}

/// Count one hop and replace the source address. The caller has checked the time to live.
#[inline]
pub(super) fn hop_from(frame: &mut [u8], packet: &Ipv4Packet, new: u32) {
    hop_and_replace(frame, packet, IPV4_SOURCE, packet.source, new);
}

#[inline]
fn hop_and_replace(frame: &mut [u8], packet: &Ipv4Packet, at: usize, old: u32, new: u32) {
    frame[at..at + 4].copy_from_slice(&new.to_be_bytes());
    frame[IPV4_TTL] = packet.ttl - 1;
    let address = Delta::of_u32(old, new);
    address.and(hop(packet)).apply_at(frame, IPV4_CHECKSUM);
    // TCP and UDP cover a pseudo header with the addresses (RFC 9293, section 3.1); ICMP does not.
    let transport = usize::from(packet.transport_offset);
    match packet.transport {
        Transport::Tcp(_) => address.apply_at(frame, transport + 16),
        Transport::Udp { checksummed: true } => {
            address.apply_at(frame, transport + 6);
            // Zero means "no checksum" in UDP; a sum of zero is sent as all ones (RFC 768).
            if be16(frame, transport + 6) == 0 {
                frame[transport + 6..transport + 8].fill(0xff);
            }
        }
        _ => {}
    }
}

/// What one hop adds to the header's checksum: time to live and protocol share a word.
#[inline]
fn hop(packet: &Ipv4Packet) -> Delta {
    let word = |ttl: u8| u16::from_be_bytes([ttl, packet.protocol]);
    Delta::of_u16(word(packet.ttl), word(packet.ttl - 1))
}

/// Count one hop. The caller has checked that the time to live is above 1.
#[inline]
pub(super) fn decrement_ttl(frame: &mut [u8], packet: &Ipv4Packet) {
    frame[IPV4_TTL] = packet.ttl - 1;
    hop(packet).apply_at(frame, IPV4_CHECKSUM);
}
