//! The two families of IP addresses, as the packet path keeps them: numbers in host byte order.

use std::{
    fmt::Debug,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerocopy::FromZeros;

use super::{
    Fragment, Headers, Malformed, Packet,
    checksum::Delta,
    parse::{v4, v6},
    parse_ipv4, parse_ipv6,
};

/// An IPv4 address (`u32`) or an IPv6 address (`u128`), and what differs between the two.
pub trait Address: Copy + Ord + Hash + Debug + Send + Sync + 'static {
    /// Two addresses, as lookups compare them.
    type Pair: Copy + Eq + Hash + Debug + FromZeros + Send + Sync;

    /// Bits of an address.
    const BITS: u8;
    /// Bytes of the header without options or extensions.
    const HEADER_LEN: usize;
    /// Offset of the source address in the header.
    const SOURCE: usize;
    /// Offset of the destination address in the header.
    const DESTINATION: usize;
    /// Offset of time to live or hop limit in the header.
    const HOPS: usize;
    /// Offset of the header's own checksum, if it has one.
    const CHECKSUM: Option<usize>;
    /// The family's ICMP.
    const ICMP: u8;
    /// Whether ICMP's checksum covers the addresses.
    const ICMP_COVERS_ADDRESSES: bool;
    /// Whether a sender may give datagrams of two protocols the same identification at once.
    const IDENTIFIED_BY_PROTOCOL: bool;
    /// The protocol number of a packet of this family inside another.
    const IN_IP: u8;

    /// Both addresses.
    fn pair(first: Self, second: Self) -> Self::Pair;
    /// The first of a pair.
    fn first(pair: Self::Pair) -> Self;
    /// The second of a pair.
    fn second(pair: Self::Pair) -> Self;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;
    /// The address as others know it.
    fn ip(self) -> IpAddr;
    /// Read one from the start of `bytes`.
    ///
    /// # Panics
    /// When there are fewer bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Write it to the start of `bytes`.
    ///
    /// # Panics
    /// When there are fewer bytes.
    fn write(self, bytes: &mut [u8]);
    /// The address with all but its first `len` bits zero; `len` is at most [`Address::BITS`].
    #[must_use]
    fn masked(self, len: u8) -> Self;
    /// 32 bits in which addresses differ.
    fn folded(self) -> u32;
    /// Whether no single machine has it: group addresses, and none at all.
    fn is_group(self) -> bool;
    /// Whether it means something on its link only.
    fn is_link_local(self) -> bool;
    /// What replacing `old` by `new` does to a checksum that covers it.
    fn delta(old: Self, new: Self) -> Delta;
    /// DSCP and ECN of the header in `ip`.
    ///
    /// # Panics
    /// When there is no whole header.
    fn traffic_class(ip: &[u8]) -> u8;
    /// Write DSCP and ECN, and no checksum, to the header in `ip`.
    ///
    /// # Panics
    /// When there is no whole header.
    fn set_traffic_class(ip: &mut [u8], class: u8);
    /// Whether the packet in `ip` is a fragment.
    ///
    /// # Panics
    /// When there is no whole header.
    fn is_fragment(ip: &[u8]) -> bool;
    /// Parse the packet of this family in a frame.
    ///
    /// # Errors
    /// [`Malformed`] says which header is broken.
    fn parse(frame: &[u8]) -> Result<Packet<Self>, Malformed>;
    /// What [`Packet::fragment`] answers.
    fn fragment(frame: &[u8], headers: &Headers) -> Fragment;
    /// What [`Packet::of_first_fragment`] does; `bytes` are the packet's.
    ///
    /// # Errors
    /// [`Malformed`] says which header is broken.
    fn parse_first_fragment(packet: &mut Packet<Self>, bytes: &[u8]) -> Result<(), Malformed>;
    /// Whether the protocol with this number is an extension of the IP header.
    fn is_extension(protocol: u8) -> bool;
}

impl Address for u32 {
    type Pair = u64;

    const BITS: u8 = 32;
    const HEADER_LEN: usize = 20;
    const SOURCE: usize = 12;
    const DESTINATION: usize = 16;
    const HOPS: usize = 8;
    const CHECKSUM: Option<usize> = Some(10);
    const ICMP: u8 = super::protocol::ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    // RFC 791, section 3.2.
    const IDENTIFIED_BY_PROTOCOL: bool = true;
    const IN_IP: u8 = super::protocol::IPIP;

    #[inline]
    fn pair(first: Self, second: Self) -> u64 {
        u64::from(first) << 32 | u64::from(second)
    }

    #[inline]
    fn first(pair: u64) -> Self {
        (pair >> 32) as Self
    }

    #[inline]
    fn second(pair: u64) -> Self {
        pair as Self
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.to_bits()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from_bits(self).into()
    }

    fn read(bytes: &[u8]) -> Self {
        super::be32(bytes, 0)
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.to_be_bytes());
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    #[inline]
    fn folded(self) -> u32 {
        self
    }

    #[inline]
    fn is_group(self) -> bool {
        self >> 28 >= 0xe || self == 0
    }

    #[inline]
    fn is_link_local(self) -> bool {
        // What RFC 3927 reserves is used for gateways of guests, and those are routed to like any other.
        false
    }

    fn delta(old: Self, new: Self) -> Delta {
        Delta::of_u32(old, new)
    }

    fn traffic_class(ip: &[u8]) -> u8 {
        ip[1]
    }

    fn set_traffic_class(ip: &mut [u8], class: u8) {
        ip[1] = class;
    }

    fn is_fragment(ip: &[u8]) -> bool {
        // "More fragments", or an offset.
        super::be16(ip, 6) & 0x3fff != 0
    }

    #[inline]
    fn parse(frame: &[u8]) -> Result<Packet<Self>, Malformed> {
        parse_ipv4(frame)
    }

    fn fragment(frame: &[u8], headers: &Headers) -> Fragment {
        v4::fragment(frame, headers)
    }

    fn parse_first_fragment(packet: &mut Packet<Self>, bytes: &[u8]) -> Result<(), Malformed> {
        v4::first_fragment(packet, bytes)
    }

    fn is_extension(_protocol: u8) -> bool {
        false
    }
}

impl Address for u128 {
    type Pair = [Self; 2];

    const BITS: u8 = 128;
    const HEADER_LEN: usize = 40;
    const SOURCE: usize = 8;
    const DESTINATION: usize = 24;
    const HOPS: usize = 7;
    const CHECKSUM: Option<usize> = None;
    const ICMP: u8 = super::protocol::ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    // RFC 8200, section 4.5: later fragments need not even name the right protocol.
    const IDENTIFIED_BY_PROTOCOL: bool = false;
    const IN_IP: u8 = super::protocol::IPV6;

    #[inline]
    fn pair(first: Self, second: Self) -> [Self; 2] {
        [first, second]
    }

    #[inline]
    fn first(pair: [Self; 2]) -> Self {
        pair[0]
    }

    #[inline]
    fn second(pair: [Self; 2]) -> Self {
        pair[1]
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.to_bits()),
        }
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from_bits(self).into()
    }

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        let mut address = [0; 16];
        address.copy_from_slice(&bytes[..16]);
        Self::from_be_bytes(address)
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.to_be_bytes());
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    #[inline]
    fn folded(self) -> u32 {
        let half = (self >> 64) as u64 ^ self as u64;
        (half >> 32) as u32 ^ half as u32
    }

    #[inline]
    fn is_group(self) -> bool {
        self >> 120 == 0xff || self == 0
    }

    #[inline]
    fn is_link_local(self) -> bool {
        self >> 118 == 0xfe80 >> 6
    }

    fn delta(old: Self, new: Self) -> Delta {
        Delta::of_u128(old, new)
    }

    fn traffic_class(ip: &[u8]) -> u8 {
        ip[0] << 4 | ip[1] >> 4
    }

    fn set_traffic_class(ip: &mut [u8], class: u8) {
        ip[0] = ip[0] & 0xf0 | class >> 4;
        ip[1] = ip[1] & 0x0f | class << 4;
    }

    fn is_fragment(ip: &[u8]) -> bool {
        v6::is_fragment(ip)
    }

    #[inline]
    fn parse(frame: &[u8]) -> Result<Packet<Self>, Malformed> {
        parse_ipv6(frame)
    }

    fn fragment(frame: &[u8], headers: &Headers) -> Fragment {
        v6::fragment(frame, headers)
    }

    fn parse_first_fragment(packet: &mut Packet<Self>, bytes: &[u8]) -> Result<(), Malformed> {
        v6::first_fragment(packet, bytes)
    }

    fn is_extension(protocol: u8) -> bool {
        v6::is_extension(protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_addresses() {
        let v4 = |text: &str| u32::of(text.parse().expect("address")).expect("IPv4");
        let v6 = |text: &str| u128::of(text.parse().expect("address")).expect("IPv6");
        assert!(v4("224.0.0.1").is_group() && v4("255.255.255.255").is_group());
        assert!(v4("0.0.0.0").is_group() && !v4("223.255.255.255").is_group());
        assert!(v6("ff02::1").is_group() && v6("::").is_group() && !v6("fe80::1").is_group());
        assert!(v6("fe80::1").is_link_local() && v6("febf::1").is_link_local());
        assert!(!v6("fec0::1").is_link_local() && !v6("2001:db8::1").is_link_local());
        assert_eq!(v4("10.1.2.3").masked(8).ip().to_string(), "10.0.0.0");
        assert_eq!(v6("2001:db8::1").masked(32).ip().to_string(), "2001:db8::");
        assert_eq!((7u32.masked(0), 7u128.masked(0), 7u128.masked(128)), (0, 0, 7));
    }
}
