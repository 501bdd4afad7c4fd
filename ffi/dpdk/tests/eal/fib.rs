//! Tables of prefixes, against a list that is gone through from end to end.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use tidegate_dpdk::{Errno, Error, Fib4, Fib6, FibConfig, MAX_HOP};

use crate::Rig;

const CONFIG: FibConfig = FibConfig { max_routes: 64, tbl8s: 20 };
/// Room for two host routes over IPv6.
const WIDE: FibConfig = FibConfig { tbl8s: 26, ..CONFIG };

/// What both families' tables can do.
trait Table {
    /// Bits of an address.
    const BITS: u8;
    /// Lengths at which a table of 256 entries begins.
    const STEPS: &'static [u8];

    fn insert(&mut self, bits: u128, length: u8, hop: u16) -> Result<(), Error>;
    fn remove(&mut self, bits: u128, length: u8) -> Result<(), Error>;
    fn find_all(&self, addresses: &[u128]) -> Vec<u16>;
    fn routes(&self) -> u32;

    fn find(&self, address: u128) -> u16 {
        self.find_all(&[address])[0]
    }
}

impl Table for Fib4 {
    const BITS: u8 = 32;
    const STEPS: &'static [u8] = &[24];

    fn insert(&mut self, bits: u128, length: u8, hop: u16) -> Result<(), Error> {
        Fib4::insert(self, bits as u32, length, hop)
    }

    fn remove(&mut self, bits: u128, length: u8) -> Result<(), Error> {
        Fib4::remove(self, bits as u32, length)
    }

    fn find_all(&self, addresses: &[u128]) -> Vec<u16> {
        let addresses: Vec<u32> = addresses.iter().map(|&address| address as u32).collect();
        let mut hops = vec![u16::MAX; addresses.len()];
        Fib4::find_all(self, &addresses, &mut hops);
        hops
    }

    fn routes(&self) -> u32 {
        Fib4::routes(self)
    }
}

impl Table for Fib6 {
    const BITS: u8 = 128;
    const STEPS: &'static [u8] = &[24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120];

    fn insert(&mut self, bits: u128, length: u8, hop: u16) -> Result<(), Error> {
        Fib6::insert(self, bits, length, hop)
    }

    fn remove(&mut self, bits: u128, length: u8) -> Result<(), Error> {
        Fib6::remove(self, bits, length)
    }

    fn find_all(&self, addresses: &[u128]) -> Vec<u16> {
        let mut hops = vec![u16::MAX; addresses.len()];
        Fib6::find_all(self, addresses, &mut hops);
        hops
    }

    fn routes(&self) -> u32 {
        Fib6::routes(self)
    }
}

fn errno(answer: Result<(), Error>) -> Option<Errno> {
    match answer {
        Ok(()) => None,
        Err(Error::Call { errno, .. }) => Some(errno),
        Err(other) => panic!("{other}"),
    }
}

/// The bits an address may have, from the top.
fn mask(bits: u8, length: u8) -> u128 {
    let all = u128::MAX >> (128 - bits);
    all & all.checked_shl(u32::from(bits - length)).unwrap_or(0)
}

/// The list: hops by prefix.
#[derive(Default)]
struct Model(BTreeMap<(u8, u128), u16>);

impl Model {
    fn find<T: Table>(&self, address: u128) -> u16 {
        let longest =
            self.0.iter().rfind(|((length, bits), _)| address & mask(T::BITS, *length) == *bits);
        longest.map_or(0, |(_, &hop)| hop)
    }

    /// Whether a further prefix has room.
    fn has_room<T: Table>(&self, bits: u128, length: u8) -> bool {
        let prefixes = self.0.keys().copied().chain([(length, bits)]);
        let tbl8s: HashSet<(u8, u128)> = prefixes
            .flat_map(|(length, bits)| {
                let steps = T::STEPS.iter().filter(move |&&step| step < length);
                steps.map(move |&step| (step, bits & mask(T::BITS, step)))
            })
            .collect();
        self.0.len() < CONFIG.max_routes as usize && tbl8s.len() <= CONFIG.tbl8s as usize
    }

    /// Each prefix's ends and their neighbours.
    fn addresses<T: Table>(&self) -> Vec<u128> {
        let all = mask(T::BITS, T::BITS);
        let edges = self.0.keys().flat_map(|&(length, bits)| {
            let last = bits | (all & !mask(T::BITS, length));
            [bits, last, bits.wrapping_sub(1) & all, last.wrapping_add(1) & all]
        });
        edges.chain([0, all]).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u128, u8, u16),
    /// What an insert of the same would have made.
    Remove(u128, u8),
    /// One that is there.
    RemoveOne(prop::sample::Index),
}

/// Prefixes that lie in and beside each other: few different bytes, lengths of all kinds, few hops.
fn steps(bits: u8) -> impl Strategy<Value = Vec<Step>> {
    let byte = prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(0x80), 1 => Just(0xff)];
    let address = prop::collection::vec(byte, usize::from(bits / 8))
        .prop_map(|bytes| bytes.into_iter().fold(0, |bits, byte| bits << 8 | u128::from(byte)));
    let length =
        prop_oneof![1 => 0..2_u8, 1 => 0..20_u8, 6 => 20..=bits, 2 => Just(bits), 2 => Just(24)];
    let hop = prop_oneof![5 => 0..4_u16, 1 => Just(MAX_HOP)];
    let step = prop_oneof![
        6 => (address.clone(), length.clone(), hop).prop_map(|(bits, length, hop)| Step::Insert(bits, length, hop)),
        1 => (address, length).prop_map(|(bits, length)| Step::Remove(bits, length)),
        4 => any::<prop::sample::Index>().prop_map(Step::RemoveOne),
    ];
    prop::collection::vec(step, 1..80)
}

fn one_step<T: Table>(table: &mut T, model: &mut Model, step: Step) {
    match step {
        Step::Insert(bits, length, hop) => {
            let key = (length, bits & mask(T::BITS, length));
            let room = model.0.contains_key(&key) || model.has_room::<T>(key.1, length);
            let expected = (!room).then_some(Errno::ENOSPC);
            assert_eq!(errno(table.insert(bits, length, hop)), expected, "{bits:x}/{length}");
            if room {
                model.0.insert(key, hop);
            }
        }
        Step::Remove(bits, length) => {
            let there = model.0.remove(&(length, bits & mask(T::BITS, length))).is_some();
            let expected = (!there).then_some(Errno::ENOENT);
            assert_eq!(errno(table.remove(bits, length)), expected, "{bits:x}/{length}");
        }
        Step::RemoveOne(index) if !model.0.is_empty() => {
            let (&(length, bits), _) = model.0.iter().nth(index.index(model.0.len())).expect("one");
            model.0.remove(&(length, bits));
            table.remove(bits, length).expect("there");
        }
        Step::RemoveOne(_) => {}
    }
}

/// One table for all cases that end well, so that what one leaves behind is found by the next.
fn against_a_list<T: Table>(make: impl Fn() -> T) {
    let kept = Cell::new(None);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) };
    proptest!(config, |(steps in steps(T::BITS))| {
        let mut table = kept.take().unwrap_or_else(&make);
        let mut model = Model::default();
        for step in steps {
            one_step(&mut table, &mut model, step.clone());
            prop_assert_eq!(table.routes() as usize, model.0.len());
            let addresses = model.addresses::<T>();
            let expected: Vec<u16> =
                addresses.iter().map(|&address| model.find::<T>(address)).collect();
            prop_assert_eq!(table.find_all(&addresses), expected, "after {:?}", step);
        }
        for &(length, bits) in model.0.keys() {
            table.remove(bits, length).expect("there");
        }
        prop_assert_eq!(table.find_all(&model.addresses::<T>()).into_iter().max(), Some(0));
        kept.set(Some(table));
    });
}

#[test]
fn ipv4_follows_the_model() {
    let rig = Rig::new();
    against_a_list(|| rig.eal.create_fib4("model4", &CONFIG).expect("table"));
}

#[test]
fn ipv6_follows_the_model() {
    let rig = Rig::new();
    against_a_list(|| rig.eal.create_fib6("model6", &CONFIG).expect("table"));
}

/// What DPDK itself, or another of its tables, gets wrong.
fn corners<T: Table>(table: &mut T) {
    let bits = 1 << (T::BITS - 4);
    // The default route, under and beside others, and another one in its place.
    table.insert(0, 0, 9).expect("room");
    table.insert(bits, 8, 5).expect("room");
    assert_eq!((table.find(0), table.find(bits + 1)), (9, 5));
    table.insert(0, 0, 10).expect("there already");
    assert_eq!((table.find(0), table.find(bits + 1), table.routes()), (10, 5, 2));
    // Long routes that lead where the one around them does, again and again.
    for _ in 0..200 {
        table.insert(bits + 1, T::BITS, 5).expect("room");
        table.remove(bits + 1, T::BITS).expect("there");
    }
    assert_eq!(errno(table.remove(bits + 1, T::BITS)), Some(Errno::ENOENT));
    table.insert(bits + 1, T::BITS, 5).expect("room");
    table.insert(bits, 8, 6).expect("there already");
    assert_eq!((table.find(bits), table.find(bits + 1), table.find(bits + 2)), (6, 5, 6));
    table.remove(0, 0).expect("there");
    assert_eq!((table.find(0), table.find(bits)), (0, 6));
    assert_eq!(errno(table.remove(0, 0)), Some(Errno::ENOENT));
    table.remove(bits + 1, T::BITS).expect("there");
    table.remove(bits, 8).expect("there");
    // The default route beside routes at both ends, and beside its halves.
    let last = mask(T::BITS, T::BITS);
    table.insert(1, T::BITS, 1).expect("room");
    table.insert(last, T::BITS, 2).expect("room");
    let all = |table: &T| table.find_all(&[0, 1, 2, last - 1, last]);
    for hop in [3, 4] {
        table.insert(0, 0, hop).expect("room");
        assert_eq!(all(table), [hop, 1, hop, hop, 2]);
    }
    table.insert(last, 1, 5).expect("room");
    assert_eq!((all(table), table.routes()), (vec![4, 1, 4, 5, 2], 4));
    table.remove(0, 0).expect("there");
    assert_eq!(all(table), [0, 1, 0, 5, 2]);
    assert_eq!(errno(table.remove(0, 1)), Some(Errno::ENOENT));
    table.insert(0, 0, 0).expect("room");
    table.remove(last, 1).expect("there");
    assert_eq!((all(table), table.routes()), (vec![0, 1, 0, 0, 2], 3));
    // What is no route.
    assert!(matches!(table.insert(0, T::BITS + 1, 1), Err(Error::PrefixLength { .. })));
    assert!(matches!(table.remove(0, T::BITS + 1), Err(Error::PrefixLength { .. })));
    assert!(matches!(table.insert(0, 1, MAX_HOP + 1), Err(Error::NextHop { .. })));
}

#[test]
fn ipv4_corners() {
    let rig = Rig::new();
    let mut table = rig.eal.create_fib4("corners4", &WIDE).expect("table");
    corners(&mut table);
    let text = table.remove(0x0a00_0000, 9).expect_err("is not there").to_string();
    assert_eq!(
        text,
        "rte_fib_delete failed for 10.0.0.0/9 in table \"corners4\": No such file or directory (errno 2)"
    );
}

#[test]
fn ipv6_corners() {
    let rig = Rig::new();
    let mut table = rig.eal.create_fib6("corners6", &WIDE).expect("table");
    corners(&mut table);
    let text = table.insert(1 << 125, 200, 1).expect_err("too long").to_string();
    assert_eq!(text, "prefix length 200 asked, an IPv6 prefix has 0 to 128");
}

/// A full table refuses what is new and still changes what is there, every tbl8 in use.
fn full<T: Table>(mut table: T, each: u32) {
    let bits = |n: u32| (0x20 << (T::BITS - 8)) | u128::from(n) << (T::BITS - 24);
    let room = CONFIG.tbl8s / each;
    table.insert(bits(0), 8, 7).expect("room");
    for n in 0..room {
        table.insert(bits(n), T::BITS, 7).expect("room");
    }
    assert_eq!(errno(table.insert(bits(room), T::BITS, 7)), Some(Errno::ENOSPC));
    assert_eq!((table.find(bits(room)), table.routes()), (7, room + 1));
    table.insert(bits(0), 8, 8).expect("there already");
    for n in 0..room {
        assert_eq!((table.find(bits(n)), table.find(bits(n) + 1)), (7, 8), "{n}");
    }
    table.remove(bits(3 % room), T::BITS).expect("there");
    table.insert(bits(room), T::BITS, 9).expect("room again");
    assert_eq!(table.find(bits(room)), 9);
}

#[test]
fn full_tables_refuse_and_stay_right() {
    let rig = Rig::new();
    full(rig.eal.create_fib4("full4", &CONFIG).expect("table"), 1);
    full(rig.eal.create_fib6("full6", &CONFIG).expect("table"), 13);
    let few = FibConfig { max_routes: 2, tbl8s: 20 };
    let mut four = rig.eal.create_fib4("few4", &few).expect("table");
    let mut six = rig.eal.create_fib6("few6", &few).expect("table");
    for n in 1..=2 {
        four.insert(n << 24, 8, 1).expect("room");
        six.insert(u128::from(n) << 120, 8, 1).expect("room");
    }
    assert_eq!(errno(four.insert(3 << 24, 8, 1)), Some(Errno::ENOSPC));
    assert_eq!(errno(six.insert(0, 0, 1)), Some(Errno::ENOSPC));
}

#[test]
fn tables_have_a_name_each_and_numbers_in_range() {
    let rig = Rig::new();
    let name = "a".repeat(20);
    for _ in 0..3 {
        let table = rig.eal.create_fib4(&name, &CONFIG).expect("free again");
        assert!(rig.eal.create_fib4(&name, &CONFIG).is_err(), "in use");
        drop(table);
        let table = rig.eal.create_fib6(&name, &CONFIG).expect("free again");
        assert!(rig.eal.create_fib6(&name, &CONFIG).is_err(), "in use");
        drop(table);
    }
    let both = (rig.eal.create_fib4("both", &CONFIG), rig.eal.create_fib6("both", &CONFIG));
    assert!(both.0.is_ok() && both.1.is_ok(), "{:?} {:?}", both.0.err(), both.1.err());
    for (max_routes, tbl8s) in [(0, 1), (1, 0), (u32::MAX, 1), (1, u32::MAX)] {
        let config = FibConfig { max_routes, tbl8s };
        let four = rig.eal.create_fib4("range", &config).err().expect("is refused").to_string();
        assert!(four.contains(&format!("{config:?}")) && four.contains("Invalid"), "{four}");
        let six = rig.eal.create_fib6("range", &config).err().expect("is refused").to_string();
        assert!(six.contains(&format!("{config:?}")), "{six}");
    }
}

#[test]
fn many_threads_look_up_at_once() {
    let rig = Rig::new();
    let mut table = rig.eal.create_fib4("threads", &CONFIG).expect("table");
    table.insert(0x0a00_0000, 8, 3).expect("room");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let addresses = [0x0a01_0203; 150];
                let mut hops = [0; 150];
                table.find_all(&addresses, &mut hops);
                assert_eq!(hops, [3; 150]);
            });
        }
    });
}
