use std::collections::HashSet;

use etherparse::{
    Icmpv4Type, Icmpv6Type, Ipv4Header, Ipv6Header, NetHeaders, PacketHeaders, TransportHeader,
};

use super::*;

const KINDS: [(u32, Kind); 4] =
    [(0, Kind::ACK), (7_999_999, Kind::SYN), (65_536, Kind::FIN), (65_537, Kind::Udp)];

/// What another parser reads: whether the IP header says what is there, and both transport checksums, the frame's and
/// the right one.
fn read(frame: &[u8]) -> (bool, u16, u16) {
    let read = PacketHeaders::from_ethernet_slice(frame).expect("well formed");
    let payload = read.payload.slice();
    let transport = read.transport.expect("a transport header");
    let (is_right, right) = match read.net.expect("an IP header") {
        NetHeaders::Ipv4(ip, _) => {
            let right = match &transport {
                TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv4(&ip, payload),
                TransportHeader::Udp(udp) => udp.calc_checksum_ipv4(&ip, payload),
                other => panic!("{other:?}"),
            };
            let is_whole = usize::from(ip.total_len) == frame.len() - ETHERNET_LEN;
            (is_whole && ip.header_checksum == ip.calc_header_checksum(), right)
        }
        NetHeaders::Ipv6(ip, _) => {
            let right = match &transport {
                TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv6(&ip, payload),
                TransportHeader::Udp(udp) => udp.calc_checksum_ipv6(&ip, payload),
                other => panic!("{other:?}"),
            };
            let is_whole =
                usize::from(ip.payload_length) == frame.len() - ETHERNET_LEN - v6::HEADER;
            (is_whole, right)
        }
        NetHeaders::Arp(arp) => panic!("{arp:?}"),
    };
    let found = match transport {
        TransportHeader::Tcp(tcp) => tcp.checksum,
        TransportHeader::Udp(udp) => udp.checksum,
        other => panic!("{other:?}"),
    };
    (is_right, found, right.expect("fits"))
}

#[test]
fn another_parser_finds_the_checksums_right() {
    for family in [Family::V4, Family::V6] {
        for (number, kind) in KINDS {
            let smallest = family.smallest(kind);
            for bytes in [smallest, smallest + 1, 590, 1514] {
                let frame = family.build(number, kind, bytes);
                assert_eq!(frame.len(), bytes);
                let (is_right, found, right) = read(&frame);
                assert!(is_right && found == right, "{family:?} {kind:?} {bytes}: {found} {right}");
            }
        }
    }
    for (number, kind) in KINDS {
        let (is_right, found, right) = read(&v4::reply(number, kind, SMALLEST));
        assert!(is_right && found == right, "reply {kind:?}: {found} {right}");
    }
}

#[test]
fn icmp_is_what_another_parser_says_and_its_quote_went_the_other_way() {
    for family in [Family::V4, Family::V6] {
        for (kind, size) in [(Kind::Echo, 60), (Kind::Unreachable, 120)] {
            let frame = family.build(17, kind, size.max(family.smallest(kind)));
            let read = PacketHeaders::from_ethernet_slice(&frame).expect("well formed");
            let payload = read.payload.slice();
            match (read.net.expect("an IP header"), read.transport.expect("ICMP")) {
                (NetHeaders::Ipv4(ip, _), TransportHeader::Icmpv4(icmp)) => {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload));
                    let Icmpv4Type::DestinationUnreachable(_) = icmp.icmp_type else { continue };
                    let (quoted, segment) =
                        Ipv4Header::from_slice(payload).expect("a header is quoted");
                    assert_eq!(quoted.header_checksum, quoted.calc_header_checksum());
                    assert_eq!((quoted.source, quoted.destination), (ip.destination, ip.source));
                    assert_eq!(segment[..4], [0, 80, 4, 1]);
                }
                (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
                    let right = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload);
                    assert_eq!(icmp.checksum, right.expect("fits"));
                    let Icmpv6Type::DestinationUnreachable(_) = icmp.icmp_type else { continue };
                    let (quoted, segment) =
                        Ipv6Header::from_slice(payload).expect("a header is quoted");
                    assert_eq!((quoted.source, quoted.destination), (ip.destination, ip.source));
                    assert_eq!(segment[..4], [0, 80, 4, 1]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn ends_are_the_client_and_the_managed_address() {
    let frame = v6::build(17, Kind::Udp, 100);
    let read = PacketHeaders::from_ethernet_slice(&frame).expect("well formed");
    let Some(NetHeaders::Ipv6(ip, _)) = read.net else { panic!("not IPv6") };
    assert_eq!(ip.source_addr().to_string(), "2001:db8:b::1");
    assert_eq!(ip.destination_addr().to_string(), "2001:db8:9::64");
    let Some(TransportHeader::Udp(udp)) = read.transport else { panic!("not UDP") };
    assert_eq!((udp.source_port, udp.destination_port), (1025, SERVICE_PORT));
}

#[test]
fn a_datagram_never_says_that_it_has_no_checksum() {
    // The addresses' lower halves run through all values, so that one sum would be zero.
    for number in (0..1 << 20).step_by(16) {
        let frame = build(number, Kind::Udp, SMALLEST);
        assert_ne!(frame[40..42], [0, 0], "client {number}");
    }
}

#[test]
fn smallest_frames_hold_their_headers() {
    assert_eq!(Family::V4.smallest(Kind::ACK), 60);
    assert_eq!(Family::V6.smallest(Kind::ACK), 74);
    assert_eq!(Family::V6.smallest(Kind::Udp), 62);
    // What they quote: RFC 792, "internet header + 64 bits"; the same of IPv6.
    assert_eq!(Family::V4.smallest(Kind::Unreachable), 14 + 20 + 8 + 28);
    assert_eq!(Family::V6.smallest(Kind::Unreachable), 14 + 40 + 8 + 48);
}

#[test]
fn clients_are_distinct() {
    assert_eq!((0..100_000).map(client).collect::<HashSet<_>>().len(), 100_000);
    assert_eq!((0..100_000).map(v6::client).collect::<HashSet<_>>().len(), 100_000);
}
