//! The table against a map, small and full, and large.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{session::SessionState, steering::BackendSlot};

fn key(n: u32) -> SessionKey<u32> {
    SessionKey::new((n >> 8, n as u16), (2, 80), 6)
}

fn session(n: u32, owner: u32) -> Session<u32> {
    Session::new(&key(n), BackendSlot(owner), 1, SessionState::Established, false, 0)
}

fn find(table: &SessionTable<u32>, n: u32) -> Option<u32> {
    table.find(&key(n), table.hash(&key(n)))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32),
    Remove(u32),
    Find(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..40, 0u32..100).prop_map(|(n, owner)| Step::Insert(n, owner)),
        (0u32..40).prop_map(Step::Remove),
        (0u32..40).prop_map(Step::Find),
    ]
}

proptest! {
    #[test]
    fn equals_a_map(steps in prop::collection::vec(step(), 0..400)) {
        let mut table = SessionTable::with_capacity(24).expect("memory");
        let mut oracle = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(n, owner) => {
                    if find(&table, n).is_some() { continue; }
                    let fits = oracle.len() < 24;
                    let hash = table.hash(&key(n));
                    prop_assert_eq!(table.insert(session(n, owner), hash).is_ok(), fits);
                    if fits { oracle.insert(n, owner); }
                }
                Step::Remove(n) => {
                    let removed = find(&table, n).and_then(|at| table.remove(at));
                    prop_assert_eq!(removed.map(|session| session.owner().0), oracle.remove(&n));
                }
                Step::Find(n) => {
                    let found = find(&table, n).and_then(|at| table.get(at));
                    prop_assert_eq!(found.map(|session| session.owner().0), oracle.get(&n).copied());
                }
            }
            prop_assert_eq!(table.len(), oracle.len());
        }
    }
}

proptest! {
    /// What a burst does: all keys are glanced at, then sessions come and go while each is looked up.
    #[test]
    fn a_glance_is_never_trusted_blindly(
        held in prop::collection::vec(0u32..4000, 100..MOST as usize),
        glanced in prop::collection::vec(0u32..4000, 1..64),
        changes in prop::collection::vec((any::<bool>(), 0u32..4000), 64),
    ) {
        let mut table = SessionTable::with_capacity(MOST).expect("memory");
        let mut oracle = std::collections::HashSet::new();
        for n in held {
            if oracle.insert(n) {
                insert(&mut table, n);
            }
        }
        let glances: Vec<_> =
            glanced.iter().map(|&n| (n, table.glance(&key(n), table.hash(&key(n))))).collect();
        for ((n, glance), (comes, changed)) in glances.into_iter().zip(changes) {
            // The key itself, or another, comes or goes.
            for changed in [changed, n] {
                match find(&table, changed) {
                    Some(at) if !comes => {
                        table.remove(at);
                        oracle.remove(&changed);
                    }
                    None if comes && oracle.len() < MOST as usize => {
                        insert(&mut table, changed);
                        oracle.insert(changed);
                    }
                    _ => {}
                }
            }
            let found = table.find_from(glance, &key(n), table.hash(&key(n)));
            prop_assert_eq!(found, find(&table, n));
            prop_assert_eq!(found.map(|at| table[at].key()), oracle.contains(&n).then(|| key(n)));
        }
        prop_assert_eq!(table.len(), oracle.len());
    }
}

/// So many that some buckets are full and sessions move.
const MOST: u32 = 110;

fn insert(table: &mut SessionTable<u32>, n: u32) {
    let hash = table.hash(&key(n));
    table.insert(session(n, n % 100), hash).expect("room");
}

#[test]
fn a_large_table_fills_to_its_capacity_and_survives_churn() {
    let capacity = 98_304;
    let mut table = SessionTable::with_capacity(capacity).expect("memory");
    let insert = |table: &mut SessionTable<u32>, n| {
        let hash = table.hash(&key(n));
        table.insert(session(n, n % 100), hash).is_ok()
    };
    for n in 0..capacity {
        assert!(insert(&mut table, n), "{n}");
    }
    assert!(!insert(&mut table, capacity), "one more than it holds");
    for round in 0..4 {
        for n in (round..capacity).step_by(4) {
            let old = n + round * capacity;
            let at = find(&table, old).or_else(|| find(&table, n)).expect("is there");
            assert!(table.remove(at).is_some());
            assert!(insert(&mut table, n + (round + 1) * capacity), "{n} in round {round}");
        }
    }
    assert_eq!(table.len(), capacity as usize);
    for n in 0..capacity {
        let now = n + (n % 4 + 1) * capacity;
        let found = find(&table, now).and_then(|at| table.get(at)).expect("found");
        assert_eq!(found.key(), key(now));
        assert!(find(&table, n).is_none(), "{n} was replaced");
    }
}

#[test]
fn v6_sessions_are_found_and_forgotten() {
    let key = |n: u32| {
        let client = 0x2001_0db8_u128 << 96 | u128::from(n >> 4);
        SessionKey::new((client, n as u16), (client << 1, 443), 6)
    };
    let capacity = 10_000;
    let mut table = SessionTable::with_capacity(capacity).expect("memory");
    for n in 0..capacity {
        let session = Session::new(&key(n), BackendSlot(n), 1, SessionState::Established, false, 0);
        table.insert(session, table.hash(&key(n))).expect("room");
    }
    for n in 0..capacity {
        let hash = table.hash(&key(n));
        let glanced = table.glance(&key(n), hash);
        let at = table.find_from(glanced, &key(n), hash).expect("found");
        assert_eq!(table.remove(at).map(|session| session.owner()), Some(BackendSlot(n)));
        assert_eq!(table.find(&key(n), hash), None);
    }
    assert!(table.is_empty());
}

#[test]
fn a_session_takes_less_than_a_cache_line() {
    let capacity = 100_000;
    let v4 = SessionTable::<u32>::with_capacity(capacity).expect("memory");
    assert!(v4.bytes() / capacity as usize <= 64, "{} bytes", v4.bytes());
    let v6 = SessionTable::<u128>::with_capacity(capacity).expect("memory");
    assert!(v6.bytes() / capacity as usize <= 128, "{} bytes", v6.bytes());
}

/// A session that has no other bucket could not make room: three of one bucket would not fit a table with room for them.
#[test]
fn a_key_has_two_buckets() {
    let table = SessionTable::<u32>::with_capacity(0).expect("memory");
    let mut seen = [0usize; FEWEST_BUCKETS];
    for n in 0..100_000 {
        let hash = table.hash(&key(n));
        let (first, second) = (table.first(hash), table.second(hash));
        assert_ne!(first, second);
        seen[second] += 1;
    }
    let expected = 100_000 / FEWEST_BUCKETS;
    assert!(seen.iter().all(|count| count.abs_diff(expected) < expected / 4), "{seen:?}");
}
