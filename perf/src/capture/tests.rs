use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader};

use super::*;

fn sessions(capture: &Capture) -> Vec<u32> {
    capture.sessions(&mut Random::new(1))
}

#[test]
fn the_same_capture_is_the_same_file() {
    let (one, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let capture = Capture::established(1000);
    let [one, other] = [one, other].map(|dir| {
        let path = capture.file(dir.path()).expect("written");
        assert_eq!(path, capture.file(dir.path()).expect("cached"));
        fs::read(path).expect("read")
    });
    assert_eq!(one, other);
    assert_eq!(one.len(), 24 + 1000 * (16 + SMALLEST));
}

#[test]
fn orders_are_what_they_say() {
    let mut shuffled = sessions(&Capture::established(1000));
    assert!(!shuffled.is_sorted());
    shuffled.sort_unstable();
    assert_eq!(shuffled, (0..1000).collect::<Vec<_>>());
    let zipf = Capture { order: Order::Zipf, packets: 20_000, ..Capture::established(1000) };
    let mut counts = [0; 1000];
    sessions(&zipf).iter().for_each(|&session| counts[session as usize] += 1);
    counts.sort_unstable_by(|a, b| b.cmp(a));
    // 1/1 of the harmonic number of 1000, 7.49, is 13 %.
    assert!((2400..2950).contains(&counts[0]), "{}", counts[0]);
    assert!(counts[0] > counts[1] * 3 / 2);
}

#[test]
fn shares_are_kept() {
    let capture = Capture { syn_share: 0.25, fin_share: 0.25, ..Capture::established(1) };
    let mut random = Random::new(7);
    let kinds: Vec<_> = (0..10_000).map(|number| capture.kind(number, &mut random)).collect();
    let syns = kinds.iter().filter(|&&kind| kind == Kind::SYN).count();
    let plain = kinds.iter().filter(|&&kind| kind == Kind::ACK).count();
    assert!((2300..2700).contains(&syns) && (4700..5300).contains(&plain), "{syns} {plain}");
}

/// The frames of a capture's file.
fn frames(capture: &Capture) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("dir");
    let file = fs::read(capture.file(dir.path()).expect("written")).expect("read");
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let length =
            |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes).expect("four bytes");
        assert_eq!(length(8), length(12), "nothing is cut off");
        let (frame, after) = after.split_at(length(8) as usize);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

#[test]
fn another_parser_reads_what_was_asked_for() {
    let capture = Capture {
        family: Family::V6,
        transport: Transport::Udp,
        sizes: Sizes::All(200),
        order: Order::Uniform,
        packets: 50,
        ..Capture::established(1000)
    };
    let frames = frames(&capture);
    assert_eq!(frames.len(), 50);
    for frame in frames {
        let read = LaxPacketHeaders::from_ethernet(&frame).expect("well formed");
        assert!(matches!(read.net, Some(NetHeaders::Ipv6(..))));
        assert!(matches!(read.transport, Some(TransportHeader::Udp(_))));
        assert_eq!(frame.len(), 200);
    }
}

#[test]
fn the_mix_of_sizes_is_kept() {
    let sizes = |family| {
        let mix = Capture { family, sizes: Sizes::Imix, ..Capture::established(12_000) };
        let sizes: Vec<_> = frames(&mix).iter().map(Vec::len).collect();
        let count = |bytes| sizes.iter().filter(|&&it| it == bytes).count();
        assert_eq!(count(family.smallest(Kind::ACK)) + count(590) + count(1514), 12_000);
        (count(590), count(1514))
    };
    for family in [Family::V4, Family::V6] {
        let (middle, large) = sizes(family);
        assert!((3800..4200).contains(&middle) && (900..1100).contains(&large), "{middle} {large}");
    }
}

#[test]
fn draws_do_not_meet_all_sessions() {
    let all = Capture::established(10_000);
    assert_eq!(all.sessions_met(), 10_000);
    let uniform = Capture { order: Order::Uniform, ..all };
    // 1 - 1/e.
    assert!((6200..6450).contains(&uniform.sessions_met()), "{}", uniform.sessions_met());
}

#[test]
fn what_cannot_be_is_refused() {
    let all = Capture::established(1000);
    let zipf = Capture { order: Order::Zipf, ..all };
    zipf.check().expect("can be");
    for capture in [
        Capture { sessions: 0, packets: 0, ..all },
        Capture { first: CLIENTS, ..all },
        Capture { first: u32::MAX, ..all },
        Capture { packets: 999, ..all },
        Capture { syn_share: 0.6, fin_share: 0.6, ..all },
        Capture { syn_share: -0.1, ..all },
        Capture { syn_share: f64::NAN, ..all },
        Capture { transport: Transport::Udp, syn_share: 0.1, ..all },
        Capture { family: Family::V6, ..all },
        Capture { sizes: Sizes::All(LONGEST + 1), ..all },
    ] {
        assert!(capture.check().is_err(), "{capture:?}");
    }
}

#[test]
fn floods_are_first_packets_of_clients_of_their_own() {
    let flood = |transport| sorted(frames(&Capture::flood(transport, 1 << 20, 64)));
    let built = |kind: fn(u32) -> Kind, bytes| {
        let frames = (1 << 20..(1 << 20) + 64).map(|it| Family::V4.build(it, kind(it), bytes));
        sorted(frames.collect())
    };
    assert_eq!(flood(Transport::Tcp), built(|_| Kind::SYN, SMALLEST));
    assert_eq!(flood(Transport::Udp), built(|_| Kind::Udp, SMALLEST));
    let in_turn = |it: u32| if it.is_multiple_of(2) { Kind::Echo } else { Kind::Unreachable };
    assert_eq!(flood(Transport::Icmp), built(in_turn, 70));
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort_unstable();
    frames
}
