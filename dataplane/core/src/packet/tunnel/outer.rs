//! Into a tunnel: the headers before a packet, made once and filled in for each.

use std::net::IpAddr;

use super::{
    super::{
        Address, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, LinkHeader, PacketBuf,
        Transport, be32, checksum, protocol,
    },
    Encap, UDP_LEN, VXLAN_HAS_VNI,
};

/// Link header with two tags and EtherType, IPv6, UDP, VXLAN.
const MAX_LEN: usize = 22 + 40 + UDP_LEN + 8;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// Source ports are from here on (RFC 7348, section 5: of the dynamic range).
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// What stands before each packet of a tunnel, from the link header on.
///
/// Over IPv6 the UDP checksum is computed, although a tunnel may leave it out (RFC 6935): every peer takes a packet that has
/// one. Over IPv4 it is zero, as RFC 7348, section 5 asks for.
#[derive(Clone, Debug)]
pub struct Outer {
    bytes: [u8; MAX_LEN],
    len: u8,
    ip_at: u8,
    is_ipv6: bool,
    encap: Encap,
}

/// What of a packet shows on the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its protocol number: IPv4 or IPv6 in IP.
    protocol: u8,
    /// DSCP (RFC 2983, the uniform model) and ECN (RFC 6040, section 4.1), both copied.
    traffic_class: u8,
    /// Equal for packets of one conversation, so that they stay on one way (RFC 6438, RFC 7348).
    entropy: u32,
}

impl Carried {
    /// The packet in `frame`, which `headers` were parsed from.
    #[must_use]
    pub fn packet<A: Address>(frame: &[u8], headers: &Headers) -> Self {
        let ip = &frame[ETHERNET_LEN..];
        let (first, second) = (A::read(&ip[A::SOURCE..]), A::read(&ip[A::DESTINATION..]));
        let ports = match headers.transport {
            // Later fragments have none, and must not be spread away from the first.
            Transport::Tcp(_) | Transport::Udp { .. } if !A::is_fragment(ip) => {
                be32(frame, usize::from(headers.transport_offset))
            }
            _ => 0,
        };
        let mixed =
            u64::from(first.folded() ^ second.folded().rotate_left(16)) << 32 | u64::from(ports);
        // An odd constant: the upper half of the product depends on every bit.
        let entropy = ((mixed ^ mixed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        Self { protocol: A::IN_IP, traffic_class: A::traffic_class(ip), entropy }
    }

    /// A frame that is no IP packet, for a tunnel that carries frames.
    #[must_use]
    pub fn frame() -> Self {
        Self { protocol: 0, traffic_class: 0, entropy: 0 }
    }
}

impl Outer {
    /// Before the packets of a tunnel from `local` to `remote`, addresses of one family, which leave with `link`.
    #[must_use]
    pub fn new(link: &LinkHeader, encap: Encap, local: IpAddr, remote: IpAddr) -> Self {
        let is_ipv6 = remote.is_ipv6();
        let mut outer = Self { bytes: [0; MAX_LEN], len: 0, ip_at: 0, is_ipv6, encap };
        outer.append(link.bytes());
        outer.append(&if is_ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
        outer.ip_at = outer.len;
        // What is inside overwrites it.
        let next = if encap == Encap::Ipip { 0 } else { protocol::UDP };
        if is_ipv6 {
            outer.append(&[0x60, 0, 0, 0, 0, 0, next, HOP_LIMIT]);
        } else {
            outer.append(&[0x45, 0, 0, 0, 0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, next, 0, 0]);
        }
        for address in [local, remote] {
            match address {
                IpAddr::V4(address) => outer.append(&address.octets()),
                IpAddr::V6(address) => outer.append(&address.octets()),
            }
        }
        match encap {
            Encap::Ipip => {}
            Encap::Gue { port } => {
                outer.append_udp(port);
                outer.append(&[0; 4]);
            }
            Encap::Vxlan { port, vni } => {
                outer.append_udp(port);
                outer.append(&[VXLAN_HAS_VNI, 0, 0, 0]);
                outer.append(&(vni << 8).to_be_bytes());
            }
        }
        outer
    }

    fn append_udp(&mut self, port: u16) {
        let [a, b] = port.to_be_bytes();
        self.append(&[0, 0, a, b, 0, 0, 0, 0]);
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// Bytes that the tunnel adds to an IP packet, on its way as an IP packet.
    #[must_use]
    pub fn overhead(&self) -> u16 {
        let inner_link = if self.encap.carries_frames() { ETHERNET_LEN } else { 0 };
        u16::from(self.len - self.ip_at) + inner_link as u16
    }

    /// Wrap a packet without padding behind its Ethernet header, which goes along if the tunnel carries frames. `false`, and
    /// nothing changed, when there is no room before the packet.
    #[must_use = "nothing is wrapped when it answers false"]
    pub fn wrap<B: PacketBuf>(&self, packet: &mut B, carried: &Carried) -> bool {
        let (len, ip_at) = (usize::from(self.len), usize::from(self.ip_at));
        let replaced = if self.encap.carries_frames() { 0 } else { ETHERNET_LEN };
        let ip_len = u16::try_from(packet.as_ref().len() - replaced + len - ip_at);
        let Ok(ip_len) = ip_len else { return false };
        if !packet.prepend(len - replaced) {
            return false;
        }
        let frame = packet.as_mut();
        frame[..len].copy_from_slice(&self.bytes[..len]);
        let (ip, rest) = frame[ip_at..].split_at_mut(if self.is_ipv6 { 40 } else { 20 });
        if self.is_ipv6 {
            self.finish_ipv6(ip, ip_len, carried);
        } else {
            self.finish_ipv4(ip, ip_len, carried);
        }
        if self.encap != Encap::Ipip {
            self.finish_udp(ip, rest, carried);
        }
        true
    }

    fn finish_ipv4(&self, ip: &mut [u8], ip_len: u16, carried: &Carried) {
        ip[1] = carried.traffic_class;
        ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
        if self.encap == Encap::Ipip {
            ip[9] = carried.protocol;
        }
        let checksum = !checksum::sum(ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn finish_ipv6(&self, ip: &mut [u8], ip_len: u16, carried: &Carried) {
        // RFC 6438: the flow label tells conversations apart where ports are not looked at.
        let flow = carried.entropy & 0x000f_ffff;
        let first = 6 << 28 | u32::from(carried.traffic_class) << 20 | flow;
        ip[..4].copy_from_slice(&first.to_be_bytes());
        ip[4..6].copy_from_slice(&(ip_len - 40).to_be_bytes());
        if self.encap == Encap::Ipip {
            ip[6] = carried.protocol;
        }
    }

    fn finish_udp(&self, ip: &[u8], udp: &mut [u8], carried: &Carried) {
        let source = FIRST_SOURCE_PORT | (carried.entropy >> 18) as u16;
        udp[..2].copy_from_slice(&source.to_be_bytes());
        let len = udp.len() as u16;
        udp[4..6].copy_from_slice(&len.to_be_bytes());
        if let Encap::Gue { .. } = self.encap {
            udp[UDP_LEN + 1] = carried.protocol;
        }
        if self.is_ipv6 {
            // Zero would mean that there is none (RFC 768).
            let checksum = match checksum::of_udp::<u128>(ip, udp) {
                0 => 0xffff,
                checksum => checksum,
            };
            udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}
