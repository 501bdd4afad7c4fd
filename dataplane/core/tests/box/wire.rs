//! Frames that leave, read back and verified by an independent library.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpHeaders,
    TcpHeader, UdpHeader,
};
use tidegate_dataplane::{packet::Mac, steering::PortId};

use super::{
    summed::{DCCP, UDP_LITE, is_intact},
    world::number,
};

/// What a transmitted IP frame says. Its checksums were right, or [`Seen::read`] would have panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) port: PortId,
    pub(crate) from_mac: Mac,
    pub(crate) to_mac: Mac,
    pub(crate) source: u32,
    pub(crate) destination: u32,
    /// Or echo identifier, in both.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) ttl: u8,
    /// UDP's checksum field; 0 for other protocols.
    pub(crate) udp_checksum: u16,
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    /// Read `frame`, and verify the IPv4 header's and the transport's checksum.
    #[track_caller]
    pub(crate) fn read(port: PortId, frame: &[u8]) -> Self {
        let (ethernet, rest) = Ethernet2Header::from_slice(frame).expect("Ethernet");
        let (ip, payload) = IpHeaders::from_slice(rest).expect("IP");
        let expected = if ip.ipv4().is_some() { EtherType::IPV4 } else { EtherType::IPV6 };
        assert_eq!(ethernet.ether_type, expected);
        let (source, destination, ttl) = match &ip {
            IpHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.time_to_live)
            }
            IpHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into(), ip.hop_limit),
        };
        let rest = payload.payload;
        let mut seen = Self {
            port,
            from_mac: Mac(ethernet.source),
            to_mac: Mac(ethernet.destination),
            source: number(source),
            destination: number(destination),
            source_port: 0,
            destination_port: 0,
            ttl,
            udp_checksum: 0,
            payload: rest.to_vec(),
        };
        if payload.fragmented {
            return seen;
        }
        match payload.ip_number.0 {
            6 => seen.read_tcp(&ip, rest),
            17 => seen.read_udp(&ip, rest),
            1 => seen.read_icmp(rest),
            58 => seen.read_icmpv6(&ip, rest),
            summed @ (UDP_LITE | DCCP) => {
                let intact = is_intact(summed, source, destination, rest);
                assert!(intact, "checksum of protocol {summed}");
            }
            _ => {}
        }
        seen
    }

    fn read_tcp(&mut self, ip: &IpHeaders, rest: &[u8]) {
        let (tcp, payload) = TcpHeader::from_slice(rest).expect("TCP");
        let expected = match ip {
            IpHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload),
            IpHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload),
        };
        assert_eq!(tcp.checksum, expected.expect("a TCP checksum"), "TCP checksum");
        (self.source_port, self.destination_port) = (tcp.source_port, tcp.destination_port);
        self.payload = payload.to_vec();
    }

    fn read_udp(&mut self, ip: &IpHeaders, rest: &[u8]) {
        let (udp, payload) = UdpHeader::from_slice(rest).expect("UDP");
        if udp.checksum != 0 {
            let expected = match ip {
                IpHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload),
                IpHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload),
            };
            assert_eq!(udp.checksum, expected.expect("a UDP checksum"), "UDP checksum");
        }
        (self.source_port, self.destination_port) = (udp.source_port, udp.destination_port);
        self.udp_checksum = udp.checksum;
        self.payload = payload.to_vec();
    }

    fn read_icmp(&mut self, rest: &[u8]) {
        let (icmp, payload) = Icmpv4Header::from_slice(rest).expect("ICMP");
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP checksum");
        if let Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) = icmp.icmp_type {
            (self.source_port, self.destination_port) = (echo.id, echo.id);
        }
        self.payload = payload.to_vec();
    }

    fn read_icmpv6(&mut self, ip: &IpHeaders, rest: &[u8]) {
        let (icmp, payload) = Icmpv6Header::from_slice(rest).expect("ICMPv6");
        let (ip, _) = ip.ipv6().expect("ICMPv6 over IPv6");
        let expected = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload);
        assert_eq!(icmp.checksum, expected.expect("an ICMPv6 checksum"), "ICMPv6 checksum");
        if let Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) = icmp.icmp_type {
            (self.source_port, self.destination_port) = (echo.id, echo.id);
        }
        self.payload = payload.to_vec();
    }

    /// Addresses and ports: source, its port, destination, its port.
    pub(crate) fn tuple(&self) -> (u32, u16, u32, u16) {
        (self.source, self.source_port, self.destination, self.destination_port)
    }
}
