use etherparse::{Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice};

use super::*;

const BOX: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOST: Mac = Mac([2, 0, 0, 0, 0, 9]);
const TARGET: u128 = 0x2001_0db8 << 96 | 0x64;
const ASKER: u128 = 0x2001_0db8 << 96 | 9;
/// Where an advertisement's flags are.
const FLAGS: usize = ICMP + 4;

fn fix_checksum(frame: &mut [u8]) {
    frame[ICMP + 2..ICMP + 4].fill(0);
    let sum = checksum::of_icmpv6(&frame[ETHERNET_LEN..ICMP], &frame[ICMP..]);
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&sum.to_be_bytes());
}

/// `frame` with these options, all lengths and the checksum right.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..ICMP + MESSAGE_LEN], options].concat();
    frame[19] = (MESSAGE_LEN + options.len()) as u8;
    fix_checksum(&mut frame);
    frame
}

/// `frame` with other bytes at these offsets and a right checksum.
fn changed(frame: &[u8], bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    bytes.iter().for_each(|(offset, value)| frame[*offset] = *value);
    fix_checksum(&mut frame);
    frame
}

#[track_caller]
fn asked(frame: &[u8]) -> Solicitation {
    match read(frame) {
        Some(Message::Solicitation(asked)) => asked,
        other => panic!("no solicitation: {other:?}"),
    }
}

#[track_caller]
fn told(frame: &[u8]) -> Advertisement {
    match read(frame) {
        Some(Message::Advertisement(told)) => told,
        other => panic!("no advertisement: {other:?}"),
    }
}

/// Source and destination, and the ICMPv6 message, verified by an independent library.
fn verified(frame: &[u8]) -> (u128, u128, Icmpv6Slice<'_>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let ip = packet.net.as_ref().and_then(|net| net.ipv6_ref()).expect("IPv6");
    let (source, destination) = (ip.header().source(), ip.header().destination());
    assert_eq!(ip.header().hop_limit(), 255);
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(source, destination), "checksum");
    (u128::from_be_bytes(source), u128::from_be_bytes(destination), icmp)
}

#[test]
fn a_question_goes_to_the_target_s_group_and_says_who_asks() {
    let frame = solicitation(HOST, ASKER, TARGET);
    let (source, destination, icmp) = verified(&frame);
    assert_eq!((source, destination), (ASKER, 0xff02 << 112 | 0x1_ff00_0064));
    assert_eq!(frame[..12], [[0x33, 0x33, 0xff, 0, 0, 0x64], HOST.0].concat());
    assert_eq!(icmp.icmp_type(), Icmpv6Type::NeighborSolicitation);
    assert_eq!(icmp.payload()[..16], TARGET.to_be_bytes());
    assert_eq!(icmp.payload()[16..], [1, 1, 2, 0, 0, 0, 0, 9]);
    let read =
        Solicitation { source: ASKER, frame_source: HOST, source_mac: Some(HOST), target: TARGET };
    assert_eq!(asked(&frame), read);
}

#[test]
fn a_question_from_nowhere_has_no_option() {
    let frame = solicitation(HOST, 0, TARGET);
    let (source, _, icmp) = verified(&frame);
    assert_eq!((source, icmp.payload()), (0, &TARGET.to_be_bytes()[..]));
    assert_eq!((asked(&frame).source, asked(&frame).source_mac), (0, None));
}

#[test]
fn answers_a_question() {
    for speaker in [Speaker::Host, Speaker::Router] {
        let mut frame = solicitation(HOST, ASKER, TARGET);
        let asked = asked(&frame);
        assert!(answer_in_place(&mut frame, &asked, BOX, speaker));
        let (source, destination, icmp) = verified(&frame);
        assert_eq!((source, destination, Mac::read(&frame)), (TARGET, ASKER, HOST));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("type") };
        assert!(header.solicited && header.r#override);
        assert_eq!(header.router, speaker == Speaker::Router);
        assert_eq!(frame[ICMP + 26..], BOX.0);
        let read = Advertisement { target: TARGET, target_mac: Some(BOX), overrides: true };
        assert_eq!(told(&frame), read);
    }
}

#[test]
fn answers_a_short_and_a_long_question() {
    let question = solicitation(HOST, ASKER, TARGET);
    let mut long = [14; 48];
    long[1] = 6;
    for options in [&[][..], &long] {
        let mut frame = with_options(&question, options);
        let asked = asked(&frame);
        assert!(answer_in_place(&mut frame, &asked, BOX, Speaker::Host));
        assert_eq!((verified(&frame).1, frame.len()), (ASKER, FRAME_LEN));
    }
}

#[test]
fn a_probe_is_answered_to_all() {
    let mut frame = solicitation(HOST, 0, TARGET);
    let asked = asked(&frame);
    assert!(answer_in_place(&mut frame, &asked, BOX, Speaker::Router));
    let (source, destination, icmp) = verified(&frame);
    assert_eq!((source, destination), (TARGET, ALL_NODES));
    assert_eq!(Mac::read(&frame), Mac([0x33, 0x33, 0, 0, 0, 1]));
    let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("type") };
    assert!(!header.solicited && header.r#override && header.router);
}

#[test]
fn what_an_advertisement_says() {
    let frame = advertisement(BOX, TARGET);
    let Icmpv6Type::NeighborAdvertisement(header) = verified(&frame).2.icmp_type() else {
        panic!("type")
    };
    assert!(!header.router && !header.solicited && header.r#override);
    assert!(told(&frame).overrides);
    assert!(!told(&changed(&frame, &[(FLAGS, 0)])).overrides);
    assert_eq!(told(&with_options(&frame, &[])).target_mac, None);
    // The other kind of option, one of another size, and then its own.
    let others = [1, 1, 6, 6, 6, 6, 6, 6, 2, 2, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6];
    assert_eq!(told(&with_options(&frame, &others)).target_mac, None);
    let options = [&others[..], &[2, 1, 2, 0, 0, 0, 0, 9], &[2, 1, 6, 6, 6, 6, 6, 6]].concat();
    assert_eq!(told(&with_options(&frame, &options)).target_mac, Some(HOST));
}

#[test]
fn what_section_7_1_refuses() {
    for good in [solicitation(HOST, ASKER, TARGET), advertisement(BOX, TARGET).to_vec()] {
        assert!(read(&good).is_some());
        // IP version, hop limit, protocol, type, code, a group as target.
        for (offset, value) in [(14, 0x40), (21, 254), (20, 17), (54, 137), (55, 1), (62, 0xff)] {
            assert!(read(&changed(&good, &[(offset, value)])).is_none(), "byte {offset}");
        }
        let mut wrong_sum = good.clone();
        wrong_sum[ICMP + 2] ^= 1;
        assert!(read(&wrong_sum).is_none());
        assert!((0..good.len()).all(|len| read(&good[..len]).is_none()));
        // Shorter than it must be, and said to be so.
        let mut short = good[..ICMP + MESSAGE_LEN - 4].to_vec();
        short[19] = (MESSAGE_LEN - 4) as u8;
        fix_checksum(&mut short);
        assert!(read(&short).is_none());
        for options in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[9, 2, 0, 0, 0, 0, 0, 0], &[1], &[1, 1]] {
            assert!(read(&with_options(&good, options)).is_none(), "{options:?}");
        }
    }
}

#[test]
fn who_may_ask_and_who_may_be_answered() {
    let probe = solicitation(HOST, 0, TARGET);
    assert!(read(&with_options(&probe, &[1, 1, 2, 0, 0, 0, 0, 9])).is_none(), "says who asks");
    assert!(read(&changed(&probe, &[(38, 0x20)])).is_none(), "to no group of the kind");
    let question = solicitation(HOST, ASKER, TARGET);
    assert!(read(&changed(&question, &[(22, 0xff)])).is_none(), "a group asks");
    assert!(read(&changed(&question, &[(38, 0x20)])).is_some(), "to one machine");
    let announced = advertisement(BOX, TARGET);
    assert!(read(&changed(&announced, &[(FLAGS, SOLICITED)])).is_none(), "an answer to all");
}
