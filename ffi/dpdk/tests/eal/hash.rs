//! DPDK's hash table.

use tidegate_dpdk::KEYS_AT_ONCE;

use crate::Rig;

#[test]
fn finds_what_was_added_and_nothing_else() {
    let rig = Rig::new();
    let mut table = rig.eal.create_hash("found", 1024).expect("table");
    let key = |number: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    };
    for number in 0..16 {
        table.add(&key(number), number * 3).expect("room");
    }
    let keys = std::array::from_fn(|at| key(at as u64));
    let mut values = [0; KEYS_AT_ONCE];
    assert_eq!(table.lookup_burst(&keys, &mut values), 0xffff);
    assert!(values[..16].iter().enumerate().all(|(at, &value)| value == at as u64 * 3));
    table.remove(&key(3)).expect("there");
    assert!(table.remove(&key(3)).is_err(), "it is gone");
    assert_eq!(table.lookup_burst(&keys, &mut values), 0xfff7);
    assert!(rig.eal.create_hash("found", 1024).is_err(), "the name is in use");
}
