//! Messages: many small pieces at once, into places that the receiver chooses.

use tidegate_fabric::{Event, Message, Provider};

use crate::pair::{MIB, Pair, bytes_of, for_each_provider, image, region};

for_each_provider! { each_message_has_its_place a_message_waits_for_a_place }

const PLACE: u64 = 256 * 1024;

fn each_message_has_its_place(provider: Provider) {
    let from = image(4 * MIB);
    let mut pair = Pair::new(provider, &from);
    let places = region(8 * PLACE);
    pair.target.receive_into(places.clone(), PLACE).expect("places");
    let (source, peer) = (pair.source, pair.peer);
    // Lengths on both sides of what providers treat as small.
    let lengths = [1, 100, 4096, 20_000, PLACE, 3];
    let mut begun = 0;
    let mut received = Vec::new();
    pair.run(|writer, sent, arrived| {
        while let Some(&len) = lengths.get(begun) {
            let message =
                Message { source, from: begun as u64 * MIB / 2, len, peer, id: begun as u64 };
            if !writer.send(&message)? {
                break;
            }
            begun += 1;
        }
        received = arrived.to_vec();
        Ok(sent.len() == lengths.len() && arrived.len() == lengths.len())
    })
    .expect("send");
    for event in received {
        let Event::Received { place, len } = event else { panic!("{event:?}") };
        let index = lengths.iter().position(|&length| length == len).expect("a length sent");
        let expected = bytes_of(&from, index as u64 * MIB / 2, len);
        assert!(bytes_of(&places, place * PLACE, len) == expected, "message {index}");
    }
}

/// More messages than places: none is lost, and none overwrites one that was not given back.
fn a_message_waits_for_a_place(provider: Provider) {
    let from = image(MIB);
    let mut pair = Pair::new(provider, &from);
    let places = region(2 * PLACE);
    pair.target.receive_into(places.clone(), PLACE).expect("places");
    let (source, peer) = (pair.source, pair.peer);
    let messages = 20;
    let (mut begun, mut received) = (0, 0);
    let began = std::time::Instant::now();
    while received < messages {
        if begun < messages {
            let from = begun * 4096;
            let message = Message { source, from, len: PLACE - 4096 * begun, peer, id: begun };
            begun += u64::from(pair.writer.send(&message).expect("send"));
        }
        pair.writer.poll(&mut |_| ()).expect("writer");
        let mut events = vec![];
        pair.target.poll(&mut |event| events.push(event)).expect("target");
        for event in events {
            let Event::Received { place, len } = event else { panic!("{event:?}") };
            let number = (PLACE - len) / 4096;
            assert_eq!(
                bytes_of(&places, place * PLACE, len),
                bytes_of(&from, number * 4096, len),
                "message {number}"
            );
            received += 1;
            pair.target.give_back(place).expect("give back");
        }
        assert!(began.elapsed() < crate::pair::DEADLINE, "hangs after {received}");
    }
}
