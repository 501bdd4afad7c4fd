//! What is written arrives, is counted, and its memory is held as long as it can be reached.

use std::sync::Arc;

use tidegate_fabric::{Endpoint, Provider};

use crate::rig::{
    LOOPBACK, MIB, PLACE, Rig, WINDOW, for_each_provider, image, message_event, region,
};

for_each_provider! {
    a_whole_image more_writes_than_fit pieces_of_any_size messages_find_places
    memory_is_held_while_it_can_be_reached
}

/// The events of the target as a sorted list: arrivals may overtake each other.
fn sorted(answer: &str) -> Vec<String> {
    let mut events: Vec<_> = answer.split(' ').map(str::to_owned).collect();
    events.sort();
    events
}

fn numbers(count: u64) -> Vec<String> {
    let mut numbers: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    numbers.sort();
    numbers
}

/// Each piece once, in an order that is not that of the addresses.
fn a_whole_image(provider: Provider) {
    let mut rig = Rig::new(provider);
    let count = WINDOW / MIB;
    let pieces: Vec<_> = (0..count).map(|number| (number * 7 % count * MIB, MIB)).collect();
    rig.write_all(&pieces).expect("write");
    assert_eq!(rig.writer.in_flight(), 0);
    assert_eq!(sorted(&rig.ask(&format!("events {count}"))), numbers(count));
    assert_eq!(rig.ask("whole"), "true");
}

/// The bound on writes in flight holds, and says "later".
fn more_writes_than_fit(provider: Provider) {
    let mut rig = Rig::new(provider);
    let count = 3 * rig.writer.most_in_flight() as u64;
    let pieces: Vec<_> = (0..count).map(|number| (number * 4096 % WINDOW, 4096)).collect();
    rig.write_all(&pieces).expect("write");
    assert_eq!(sorted(&rig.ask(&format!("events {count}"))), numbers(count));
}

fn pieces_of_any_size(provider: Provider) {
    let mut rig = Rig::new(provider);
    // Together everything, some of it twice.
    let edges = [0, 1, 4095, 4097, 70_001, MIB - 1, MIB + 5];
    let mut pieces: Vec<_> = edges.windows(2).map(|edge| (edge[0], edge[1] - edge[0])).collect();
    pieces.extend((0..16).map(|piece| (piece * MIB, MIB)).skip(1));
    pieces.push((MIB, 1));
    pieces.push((WINDOW - 1, 1));
    rig.write_all(&pieces).expect("write");
    let count = pieces.len() as u64;
    assert_eq!(sorted(&rig.ask(&format!("events {count}"))), numbers(count));
    assert_eq!(rig.ask("whole"), "true");
}

/// More messages than places, of lengths on both sides of what providers treat as small: none is lost, and none
/// overwrites another.
fn messages_find_places(provider: Provider) {
    let mut rig = Rig::new(provider);
    let lengths = [1, 100, 4096, 4097, 20_000, PLACE, 3, 70_000, PLACE, 8192];
    let messages: Vec<_> = (0..).map(|number| number * 12_345).zip(lengths).collect();
    rig.send_all(&messages).expect("send");
    let source = image(WINDOW);
    let mut expected: Vec<_> =
        messages.iter().map(|&message| message_event(&source, message)).collect();
    expected.sort();
    assert_eq!(sorted(&rig.ask(&format!("events {}", messages.len()))), expected);
}

fn memory_is_held_while_it_can_be_reached(provider: Provider) {
    let mut endpoint = Endpoint::open(provider, LOOPBACK).expect("endpoint");
    let regions = [region(MIB), region(MIB), region(MIB)];
    endpoint.expose(regions[0].clone()).expect("window");
    endpoint.attach(regions[1].clone()).expect("source");
    endpoint.receive_into(regions[2].clone(), 65536).expect("places");
    let held = regions.each_ref().map(Arc::downgrade);
    drop(regions);
    assert!(held.iter().all(|region| region.upgrade().is_some()), "registered, so held");
    drop(endpoint);
    assert!(held.iter().all(|region| region.upgrade().is_none()), "closed, so given up");
}
