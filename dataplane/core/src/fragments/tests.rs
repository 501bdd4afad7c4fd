//! Against a naive list of who waits, and the bounds.

use proptest::prelude::*;

use super::{datagrams::REMEMBERED_MS, waiting::PATIENCE_MS, *};
use crate::packet::{Headers, Packet, Transport, protocol};

fn key(identification: u32) -> DatagramKey<u32> {
    let headers =
        Headers { transport_offset: 34, total_len: 100, ttl: 64, transport: Transport::Fragment };
    let packet = Packet { addresses: 7, ports: 0, protocol: protocol::UDP, headers };
    DatagramKey::new(&packet, &Fragment { identification, ..FIRST }, None)
}

const FIRST: Fragment = Fragment { identification: 0, offset: 0, len: 8, more: true };
const WAY: Way = Way::Shard(3);

fn released(fragments: &mut Fragments<u32>) -> Vec<(Slot, bool)> {
    std::iter::from_fn(|| fragments.next_released()).collect()
}

#[test]
fn who_comes_when_all_places_are_taken_displaces_the_first() {
    let mut fragments = Fragments::new();
    let places = WAITING as u32;
    for number in 0..3 * places {
        let slot = fragments.wait(&key(number), 0);
        assert_eq!(slot, Some((number % places) as Slot), "places in turn");
    }
    // Only the last still wait, each under its own datagram.
    for (number, waits) in [(2 * places - 1, false), (2 * places, true), (3 * places - 1, true)] {
        let First::Leads(place) = fragments.first(&key(number), 0, &FIRST, 0) else {
            panic!("{number} is not remembered");
        };
        fragments.lead(place, WAY);
        let slot = (number % places) as Slot;
        let expected = if waits { vec![(slot, true)] } else { vec![] };
        assert_eq!(released(&mut fragments), expected);
    }
}

#[test]
fn a_place_is_given_out_again_only_when_its_frame_was_fetched() {
    let mut fragments = Fragments::<u32>::new();
    fragments.wait(&key(0), 0);
    let First::Leads(place) = fragments.first(&key(0), 0, &FIRST, 0) else { panic!("leads") };
    fragments.lead(place, WAY);
    for number in 1..WAITING as u32 {
        assert!(fragments.wait(&key(number), 0).is_some());
    }
    assert_eq!(fragments.wait(&key(1_000), 0), None, "the first has not been fetched");
    assert_eq!(released(&mut fragments), [(0, true)]);
    assert_eq!(fragments.wait(&key(1_000), 0), Some(0));
}

#[test]
fn first_fragments_never_run_out_of_room_before_those_that_wait() {
    let mut fragments = Fragments::new();
    let waiting = 0..WAITING as u32;
    for number in waiting.clone() {
        assert!(fragments.wait(&key(number), 0).is_some());
    }
    for number in 1_000..101_000 {
        let now_ms = u64::from(number);
        let First::Leads(place) = fragments.first(&key(number), 0, &FIRST, now_ms) else {
            panic!("no room for {number}");
        };
        fragments.lead(place, WAY);
        assert_eq!(fragments.later(&key(number), &FIRST, now_ms), Some(WAY));
    }
    // No datagram for which something waits was forgotten.
    for number in waiting {
        let First::Leads(place) = fragments.first(&key(number), 0, &FIRST, 101_000) else {
            panic!("{number} was not waiting");
        };
        fragments.lead(place, WAY);
        assert_eq!(released(&mut fragments), [(number as Slot, true)]);
    }
}

/// Something that happens to few datagrams.
#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u32),
    First(u32),
    Sweep(u32),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0u32..6;
    prop_oneof![
        8 => number().prop_map(Step::Wait),
        2 => number().prop_map(Step::First),
        2 => (0u32..40).prop_map(Step::Sweep),
        1 => prop_oneof![Just(1), Just(PATIENCE_MS), Just(PATIENCE_MS + 1), Just(REMEMBERED_MS)]
            .prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The naive list has the same fragments leave, in the same order and for the same reason.
    #[test]
    fn equals_a_list(steps in prop::collection::vec(step(), 1..600)) {
        let (mut fragments, mut now_ms) = (Fragments::<u32>::new(), 0u64);
        let mut list: Vec<(u32, Slot, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(number) => {
                    if fragments.later(&key(number), &FIRST, now_ms).is_some() {
                        continue;
                    }
                    let waiting = list.iter().filter(|(other, ..)| *other == number).count();
                    let slot = fragments.wait(&key(number), now_ms);
                    prop_assert_eq!(slot.is_some(), waiting < usize::from(MOST_OF_A_DATAGRAM));
                    // The place may be that of the one that has waited longest.
                    list.retain(|(_, other, _)| Some(*other) != slot);
                    list.extend(slot.map(|slot| (number, slot, now_ms)));
                    prop_assert!(list.len() <= WAITING);
                }
                Step::First(number) => {
                    let followers = list.extract_if(.., |(other, ..)| *other == number);
                    let expected: Vec<_> = followers.map(|(_, slot, _)| (slot, true)).collect();
                    if let First::Leads(place) = fragments.first(&key(number), 0, &FIRST, now_ms) {
                        fragments.lead(place, WAY);
                    }
                    prop_assert_eq!(released(&mut fragments), expected);
                }
                Step::Sweep(budget) => {
                    fragments.sweep(now_ms, budget);
                    let gone = released(&mut fragments);
                    prop_assert!(gone.len() <= budget as usize);
                    for (slot, came) in gone {
                        prop_assert!(!came);
                        let (_, first, since_ms) = list.remove(0);
                        prop_assert!(first == slot && now_ms - since_ms > PATIENCE_MS);
                    }
                }
                Step::Advance(ms) => now_ms += ms,
            }
        }
        now_ms += PATIENCE_MS + 1;
        fragments.sweep(now_ms, u32::MAX);
        let expected: Vec<_> = list.into_iter().map(|(_, slot, _)| (slot, false)).collect();
        prop_assert_eq!(released(&mut fragments), expected);
    }
}
