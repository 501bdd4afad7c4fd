//! Every parser, and every rewriter on what the parsers accepted.

use tidegate_dataplane::packet::{
    Address, ETHERNET_LEN, Field, Headers, Mac, PacketBuf, Quoted, Tags, Translation, Transport,
    arp, checksum, count_hop, is_intact, neighbour, protocol,
};

pub(crate) fn run(bytes: &[u8]) {
    let mut frame = bytes.to_vec();
    if let Some(tags) = Tags::strip(&mut frame) {
        assert!(tags.count() <= 2);
        assert_eq!(frame.len() % 4, bytes.len() % 4, "tags have four bytes");
    } else {
        assert_eq!(frame, bytes, "nothing changes");
    }
    let _ = arp::read(bytes);
    neighbours(bytes);
    family::<u32>(bytes);
    family::<u128>(bytes);
}

/// Who is asked for can be answered, and what is answered can be read.
fn neighbours(bytes: &[u8]) {
    let Some(message) = neighbour::read(bytes) else { return };
    assert!(neighbour::is_about_neighbours(bytes));
    let neighbour::Message::Solicitation(asked) = message else { return };
    let mut answer = bytes.to_vec();
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    assert!(neighbour::answer_in_place(&mut answer, &asked, mac, neighbour::Speaker::Router));
    assert_eq!(answer.len(), neighbour::FRAME_LEN);
    let told =
        neighbour::Advertisement { target: asked.target, target_mac: Some(mac), overrides: true };
    assert_eq!(neighbour::read(&answer), Some(neighbour::Message::Advertisement(told)));
}

fn family<A: Address>(bytes: &[u8]) {
    let Ok(packet) = A::parse(bytes) else { return };
    let headers = packet.headers;
    let end = ETHERNET_LEN + usize::from(headers.total_len);
    assert!(usize::from(headers.transport_offset) <= end && end <= bytes.len());
    assert_eq!(headers.tcp_segment(bytes).is_some(), headers.tcp_flags().is_some());
    rewrite::<A>(bytes, &headers, packet.destination());
    let _ = is_intact::<A>(bytes, &headers);
    if let Some(quoted) = Quoted::<A>::read(bytes, &headers) {
        let translation = Translation::new(quoted.source, packet.destination());
        let mut frame = bytes.to_vec();
        quoted.translate(&mut frame, &headers, &translation, Field::Source);
        assert_eq!(
            Quoted::<A>::read(&frame, &headers).map(|it| it.source),
            Some(packet.destination())
        );
    }
}

/// There and back again changes nothing but the time to live, and only what it has to on the way.
fn rewrite<A: Address>(bytes: &[u8], headers: &Headers, destination: A) {
    if headers.ttl < 4 {
        return;
    }
    let other = destination.masked(7);
    let mut frame = bytes.to_vec();
    Translation::new(destination, other).apply(&mut frame, headers, Field::Destination);
    assert_translated(bytes, &frame, headers, (other, 1));
    let there = A::parse(&frame).expect("still a packet");
    Translation::new(other, destination).apply(&mut frame, &there.headers, Field::Destination);
    assert_translated(bytes, &frame, headers, (destination, 2));
    let back = A::parse(&frame).expect("still a packet");
    count_hop::<A>(&mut frame, &back.headers);
    assert_translated(bytes, &frame, headers, (destination, 3));
    assert!(frame.prepend(0));
}

/// `after` is the packet of `before` that goes to `destination` now and has come so many hops. Its checksums are as right as they
/// were: they may be replaced, and what they are summed with stays the sum it was.
fn assert_translated<A: Address>(
    before: &[u8],
    after: &[u8],
    headers: &Headers,
    (destination, hops): (A, u8),
) {
    assert_eq!(before.len(), after.len());
    let transport = usize::from(headers.transport_offset);
    let mut expected = before.to_vec();
    destination.write(&mut expected[ETHERNET_LEN + A::DESTINATION..]);
    expected[ETHERNET_LEN + A::HOPS] -= hops;
    let addresses = ETHERNET_LEN + A::SOURCE..ETHERNET_LEN + A::HEADER_LEN;
    let of_transport = match headers.transport {
        Transport::Tcp(_) => Some(16),
        Transport::Udp { checksummed: true } => Some(6),
        Transport::UdpLite => Some(6).filter(|at| before[transport + at..][..2] != [0; 2]),
        Transport::Dccp => Some(6),
        Transport::Echo { .. } | Transport::IcmpError | Transport::IcmpOther => {
            (A::ICMP == protocol::ICMPV6).then_some(2)
        }
        _ => None,
    };
    let header = ETHERNET_LEN..ETHERNET_LEN + A::HEADER_LEN;
    let checksums = [
        A::CHECKSUM.map(|at| (ETHERNET_LEN + at, header, 0..0)),
        of_transport.map(|at| (transport + at, addresses, transport + at..transport + at + 2)),
    ];
    for (at, summed, beside) in checksums.into_iter().flatten() {
        expected[at..at + 2].copy_from_slice(&after[at..at + 2]);
        // All ones and zero are one number.
        let sum = |frame: &[u8]| {
            checksum::sum(&[&frame[summed.clone()], &frame[beside.clone()]].concat()) % u16::MAX
        };
        assert_eq!(sum(before), sum(after), "the checksum at {at}");
    }
    assert_eq!(expected, after, "nothing else changes");
}
