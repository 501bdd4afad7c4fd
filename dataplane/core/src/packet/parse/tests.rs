//! Frames built by an independent library, and arbitrary bytes.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::{
    v4::{parse_any, parse_plain_tcp},
    *,
};

fn builder() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
        [10, 0, 0, 1],
        [10, 0, 0, 2],
        64,
    )
}

fn ipv4(frame: &[u8]) -> Packet<u32> {
    parse_ipv4(frame).expect("well formed")
}

#[test]
fn tcp_segment() {
    let mut frame = Vec::new();
    builder().tcp(1234, 80, 7000, 512).syn().ack(99).write(&mut frame, b"hello").expect("frame");
    let packet = ipv4(&frame);
    assert_eq!((packet.source(), packet.destination()), (0x0a00_0001, 0x0a00_0002));
    assert_eq!(packet.ports, 1234 << 16 | 80);
    assert_eq!(packet.headers.transport_offset, 34);
    let segment = packet.headers.tcp_segment(&frame).expect("TCP");
    assert_eq!(packet.headers.tcp_flags(), Some(TcpFlags::SYN | TcpFlags::ACK));
    assert_eq!(segment.flags, TcpFlags::SYN | TcpFlags::ACK);
    assert!(!packet.headers.opens());
    assert_eq!((segment.sequence, segment.acknowledgement, segment.payload_len), (7000, 99, 5));
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut frame = Vec::new();
    builder().tcp(1, 2, 3, 4).fin().write(&mut frame, b"").expect("frame");
    frame.resize(60, 0);
    assert_eq!(ipv4(&frame).headers.tcp_segment(&frame).expect("TCP").payload_len, 0);
}

#[test]
fn echo_identifier_is_both_ports() {
    let mut frame = Vec::new();
    builder().icmpv4_echo_request(0x1234, 1).write(&mut frame, b"x").expect("frame");
    let packet = ipv4(&frame);
    assert_eq!(packet.headers.transport, Transport::Echo { request: true });
    assert_eq!(packet.ports, 0x1234_1234);
}

#[test]
fn udp_without_checksum() {
    let mut frame = Vec::new();
    builder().udp(53, 54).write(&mut frame, b"x").expect("frame");
    assert_eq!(ipv4(&frame).headers.transport, Transport::Udp { checksummed: true });
    frame[40..42].fill(0);
    assert_eq!(ipv4(&frame).headers.transport, Transport::Udp { checksummed: false });
}

#[test]
fn fragments_are_known_as_such() {
    let mut frame = Vec::new();
    builder().udp(53, 54).write(&mut frame, b"x").expect("frame");
    frame[20] = 0x20; // more fragments
    assert_eq!(ipv4(&frame).headers.transport, Transport::Fragment);
    frame[20] = 0x40; // don't fragment is no fragment
    assert_eq!(ipv4(&frame).headers.transport, Transport::Udp { checksummed: true });
}

#[test]
fn what_a_fragment_says() {
    let mut frame = Vec::new();
    builder().udp(53, 54).write(&mut frame, b"01234567").expect("frame");
    frame[18..20].copy_from_slice(&[0xab, 0xcd]);
    for (field, offset, more) in [(0x2000u16, 0, true), (0x2001, 8, true), (0x1fff, 65_528, false)]
    {
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        let packet = ipv4(&frame);
        let fragment = packet.fragment(&frame);
        assert_eq!(fragment, Fragment { identification: 0xabcd, offset, len: 16, more });
        assert_eq!(fragment.end(), u32::from(offset) + 16);
    }
}

#[test]
fn a_first_fragment_has_a_whole_transport_header() {
    let mut frame = Vec::new();
    builder().udp(53, 54).write(&mut frame, &[7; 100]).expect("frame");
    frame[20] = 0x20;
    for length in 0..20u8 {
        frame[17] = 20 + length;
        let first = ipv4(&frame).of_first_fragment(&frame);
        // Its length is that of the whole datagram.
        let expected = if length < 8 { Err(Malformed::Transport) } else { Ok(53 << 16 | 54) };
        assert_eq!(first.map(|packet| packet.ports), expected, "{length} bytes");
    }
}

#[test]
fn fragments_of_tcp_are_fragments() {
    let mut frame = Vec::new();
    builder().tcp(1, 2, 3, 4).write(&mut frame, b"x").expect("frame");
    for (flags, offset) in [(0x20, 0), (0x20, 9), (0, 9), (0x1f, 0)] {
        (frame[20], frame[21]) = (flags, offset);
        assert_eq!(ipv4(&frame).headers.transport, Transport::Fragment, "{flags:#x} {offset}");
    }
    (frame[20], frame[21]) = (0x40, 0);
    assert_eq!(
        ipv4(&frame).headers.tcp_flags(),
        Some(TcpFlags(0)),
        "don't fragment is no fragment"
    );
}

#[test]
fn every_truncation_is_refused_or_shorter() {
    let mut frame = Vec::new();
    builder().tcp(1, 2, 3, 4).write(&mut frame, b"payload").expect("frame");
    for len in 0..frame.len() {
        assert_eq!(parse_ipv4(&frame[..len]), Err(Malformed::Ip), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..128), ipv4: bool) {
        if ipv4 && bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[14] = 0x45;
        }
        if let Ok(packet) = parse_ipv4(&bytes) {
            let end = ETHERNET_LEN + usize::from(packet.headers.total_len);
            prop_assert!(usize::from(packet.headers.transport_offset) <= end && end <= bytes.len());
            prop_assert_eq!(packet.headers.tcp_segment(&bytes).is_some(), packet.headers.tcp_flags().is_some());
        }
    }

    #[test]
    fn the_short_way_says_the_same(
        mut bytes in prop::collection::vec(any::<u8>(), 54..80),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x44, 0x65]),
        fragment in prop::sample::select(vec![0u8, 0x40, 0x20, 0x01]),
        protocol in prop::sample::select(vec![6u8, 17, 1]),
        total_len in 36u8..62,
        data_offset in 4u8..9,
    ) {
        bytes[14] = first;
        (bytes[16], bytes[17]) = (0, total_len);
        (bytes[20], bytes[21]) = (fragment, 0);
        bytes[23] = protocol;
        bytes[46] = data_offset << 4;
        if let Some(packet) = parse_plain_tcp(&bytes) {
            prop_assert_eq!(parse_any(&bytes), Ok(packet));
        } else if let Ok(packet) = parse_any(&bytes) {
            prop_assert!(packet.headers.tcp_flags().is_none() || packet.headers.transport_offset != 34);
        }
    }
}
