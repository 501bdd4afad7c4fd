//! Every parser, and every rewriter on what the parsers accepted.

use tidegate_dataplane::packet::{
    Address, ETHERNET_LEN, Field, Headers, Mac, PacketBuf, Quoted, Tags, Translation, arp,
    count_hop, is_intact, neighbour,
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

/// There and back again changes nothing but the time to live.
fn rewrite<A: Address>(bytes: &[u8], headers: &Headers, destination: A) {
    if headers.ttl < 3 {
        return;
    }
    let other = destination.masked(7);
    let mut frame = bytes.to_vec();
    Translation::new(destination, other).apply(&mut frame, headers, Field::Destination);
    let there = A::parse(&frame).expect("still a packet");
    assert!(there.destination() == other && there.headers.ttl == headers.ttl - 1);
    Translation::new(other, destination).apply(&mut frame, &there.headers, Field::Destination);
    let back = A::parse(&frame).expect("still a packet");
    assert!(
        back.destination() == destination && back.ports == A::parse(bytes).expect("it was").ports
    );
    count_hop::<A>(&mut frame, &back.headers);
    assert_eq!(frame.len(), bytes.len());
    assert!(frame.prepend(0));
}
