//! Packets as bytes: addresses, header parsing and rewriting, checksums, ARP frames.
//!
//! Offsets and layouts: Ethernet II; RFC 791 (IPv4), RFC 9293 (TCP), RFC 768 (UDP), RFC 792 (ICMP), RFC 826 (ARP).

pub mod arp;
pub mod checksum;
mod mac;
mod parse;
mod rewrite;

pub use mac::{Mac, MacError, Macs};
pub use parse::{
    Headers, Ipv4Packet, Malformed, TcpFlags, TcpSegment, Transport, parse_ipv4, protocol,
};
pub use rewrite::{Field, Translation, count_hop};

/// Bytes of an Ethernet header without VLAN tag.
pub const ETHERNET_LEN: usize = 14;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;

/// A packet the pipeline can read and rewrite in place: one contiguous frame without FCS.
pub trait PacketBuf: AsRef<[u8]> + AsMut<[u8]> {}
impl<T: AsRef<[u8]> + AsMut<[u8]>> PacketBuf for T {}

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
