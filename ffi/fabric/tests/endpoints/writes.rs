//! What is written arrives, is counted, and its memory is held as long as it can be reached.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_fabric::{Event, Provider};

use crate::pair::{MIB, Pair, bytes_of, for_each_provider, image, region, same};

for_each_provider! { a_whole_image more_writes_than_fit pieces_of_any_size memory_outlives_the_endpoint }

/// Each piece once, in an order that is not that of the addresses.
fn a_whole_image(provider: Provider) {
    let pieces = 64;
    let from = image(pieces * MIB);
    let mut pair = Pair::new(provider, &from);
    let (source, peer, window) = (pair.source, pair.peer, pair.window);
    let mut next = 0;
    let mut counted = BTreeSet::new();
    let mut seen = 0;
    pair.run(|writer, sent, arrived| {
        while next < pieces {
            let piece = next * 37 % pieces;
            let write = tidegate_fabric::Write {
                source,
                from: piece * MIB,
                len: MIB,
                peer,
                to: &window,
                at: piece * MIB,
                data: piece as u32,
                id: piece,
            };
            if !writer.write(&write)? {
                break;
            }
            next += 1;
        }
        for event in &arrived[seen..] {
            let Event::Arrived { data } = event else { panic!("{event:?}") };
            assert!(counted.insert(*data), "{data} arrived twice");
        }
        seen = arrived.len();
        assert!(sent.iter().all(|event| matches!(event, Event::Sent { id } if *id < pieces)));
        Ok(counted.len() as u64 == pieces && sent.len() as u64 == pieces)
    })
    .expect("write");
    assert_eq!(pair.writer.in_flight(), 0);
    assert!(same(&from, &pair.into));
}

/// The bound on writes in flight holds, and says "later".
fn more_writes_than_fit(provider: Provider) {
    let from = image(MIB);
    let mut pair = Pair::new(provider, &from);
    let most = pair.writer.most_in_flight() as u64;
    let (source, peer, window) = (pair.source, pair.peer, pair.window);
    let pieces = 3 * most;
    let mut begun = 0;
    pair.run(|writer, sent, arrived| {
        while begun < pieces {
            let at = begun % 256 * 4096;
            let write = tidegate_fabric::Write {
                source,
                from: at,
                len: 4096,
                peer,
                to: &window,
                at,
                data: 0,
                id: begun,
            };
            if !writer.write(&write)? {
                break;
            }
            begun += 1;
            assert!(writer.in_flight() as u64 <= most);
        }
        Ok(sent.len() as u64 == pieces && arrived.len() as u64 == pieces)
    })
    .expect("write");
    assert!(same(&from, &pair.into));
}

fn pieces_of_any_size(provider: Provider) {
    let from = image(2 * MIB);
    let mut pair = Pair::new(provider, &from);
    let window = pair.window;
    for (at, len) in [(0, 1), (4095, 2), (MIB - 1, MIB), (2 * MIB - 1, 1), (5000, 70_001)] {
        pair.write_once(at, len, window).expect("write");
        assert_eq!(bytes_of(&pair.into, at, len), bytes_of(&from, 0, len), "{at} {len}");
    }
}

fn memory_outlives_the_endpoint(provider: Provider) {
    let from = image(MIB);
    let mut pair = Pair::new(provider, &from);
    let window = pair.window;
    pair.write_once(0, MIB, window).expect("write");
    let messages = region(MIB);
    pair.target.receive_into(messages.clone(), 65536).expect("places");
    let held = [&from, &pair.into, &messages].map(Arc::downgrade);
    drop((from, pair.into, messages));
    assert!(held.iter().all(|region| region.upgrade().is_some()), "registered, so held");
    drop((pair.writer, pair.target));
    assert!(held.iter().all(|region| region.upgrade().is_none()), "closed, so given up");
}
