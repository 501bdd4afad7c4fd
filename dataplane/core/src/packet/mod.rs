//! Packets as bytes: addresses, header parsing and rewriting, checksums, ARP and neighbour discovery.
//!
//! Offsets and layouts: Ethernet II; RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 792 (ICMP),
//! RFC 4443 (ICMPv6), RFC 826 (ARP), RFC 4861 (neighbour discovery), IEEE 802.1Q (VLAN tags), RFC 8999 (QUIC).

mod address;
pub mod arp;
pub mod checksum;
pub mod icmp;
mod link;
mod mac;
pub mod neighbour;
mod parse;
mod quic;
mod quoted;
mod rewrite;
pub mod tunnel;

pub use address::Address;
pub use link::{LinkHeader, Tags, TagsError};
pub use mac::{Mac, MacError};
pub use parse::{
    Fragment, Headers, Malformed, Packet, TcpFlags, TcpSegment, Transport, parse_ipv4, parse_ipv6,
    protocol,
};
pub use quic::QuicPacket;
pub use quoted::{Quoted, is_intact};
pub use rewrite::{Field, Translation, count_hop};
pub use tidegate_packet_buf::PacketBuf;

/// Bytes of an Ethernet header without VLAN tag.
pub const ETHERNET_LEN: usize = 14;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Big-endian 16-bit field at `offset`.
///
/// # Panics
/// When the frame is shorter: parse first.
#[inline]
pub(crate) fn be16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

/// Big-endian 32-bit field at `offset`.
///
/// # Panics
/// When the frame is shorter: parse first.
#[inline]
pub(crate) fn be32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

/// Big-endian 64-bit field at `offset`.
///
/// # Panics
/// When the frame is shorter: parse first.
#[inline]
pub(crate) fn be64(bytes: &[u8], offset: usize) -> u64 {
    u64::from(be32(bytes, offset)) << 32 | u64::from(be32(bytes, offset + 4))
}
