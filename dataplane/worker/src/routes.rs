//! Route tables that change while workers read them: two copies of each.
//!
//! Workers read one copy by their snapshots; changes go to the other, which the next snapshot names. When the last
//! snapshot with the first copy has come back, the first is told the same changes, and may be named again. So no reader
//! ever sees a table change, and none waits.

use std::{fmt, sync::Arc};

use tidegate_dataplane::{
    packet::Address,
    steering::{HopNumber, PrefixTable, RouteChange, RouteTable, RouteTables},
};
use tidegate_dpdk::{Eal, Error, Fib4, Fib6, FibConfig};

use crate::Routes as Kind;

/// Room of DPDK's tables. Both copies of both take about 250 MiB.
const V4: FibConfig = FibConfig { max_routes: 65_536, tbl8s: 4_096 };
const V6: FibConfig = FibConfig { max_routes: 32_768, tbl8s: 16_384 };

/// A table that takes changes while nobody reads it.
trait Changeable<A>: RouteTable<A> {
    /// Let the first `len` bits of `address` lead to `hop`, or nowhere.
    ///
    /// # Errors
    /// Why not, in words for operators.
    fn change(&mut self, address: A, len: u8, hop: Option<HopNumber>) -> Result<(), String>;
}

impl<A: Address> Changeable<A> for PrefixTable<A> {
    fn change(&mut self, address: A, len: u8, hop: Option<HopNumber>) -> Result<(), String> {
        match hop {
            Some(hop) => self.insert(address, len, hop),
            None => self.remove(address, len),
        }
        Ok(())
    }
}

/// One of DPDK's tables.
struct Lpm<T>(T);

impl<T> fmt::Debug for Lpm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lpm")
    }
}

macro_rules! lpm {
    ($address:ty, $table:ty) => {
        impl RouteTable<$address> for Lpm<$table> {
            fn find_all(&self, destinations: &[$address], hops: &mut [HopNumber]) {
                self.0.find_all(destinations, &mut hops[..destinations.len()]);
            }
        }

        impl Changeable<$address> for Lpm<$table> {
            fn change(
                &mut self,
                address: $address,
                len: u8,
                hop: Option<HopNumber>,
            ) -> Result<(), String> {
                let changed = match hop {
                    Some(hop) => self.0.insert(address, len, hop),
                    None => self.0.remove(address, len),
                };
                changed.map_err(|error| error.to_string())
            }
        }
    };
}

lpm!(u32, Fib4);
lpm!(u128, Fib6);

/// Two copies of one table.
struct TwoCopies<A> {
    /// The first is the one that was given last.
    copies: [Arc<dyn Changeable<A>>; 2],
    /// What the second has not been told yet.
    behind: Vec<RouteChange>,
}

impl<A: Address> TwoCopies<A> {
    fn new(one: impl Changeable<A> + 'static, other: impl Changeable<A> + 'static) -> Self {
        Self { copies: [Arc::new(one), Arc::new(other)], behind: Vec::new() }
    }

    /// The copy that was given last.
    fn current(&self) -> Arc<dyn RouteTable<A>> {
        Arc::clone(&self.copies[0]) as Arc<dyn RouteTable<A>>
    }

    /// Whether nobody reads the copy that is to be changed next.
    fn is_free(&mut self) -> bool {
        Arc::get_mut(&mut self.copies[1]).is_some()
    }

    /// Tell the copy that nobody reads, and give it from now on. Changes it does not take are named, and left out.
    fn change(&mut self, changes: &[RouteChange]) -> Vec<String> {
        let of_family = |change: &&RouteChange| A::of(change.prefix.address()).is_some();
        let changes: Vec<_> = changes.iter().filter(of_family).copied().collect();
        let Some(free) = Arc::get_mut(&mut self.copies[1]).filter(|_| !changes.is_empty()) else {
            return Vec::new();
        };
        let mut refused = Vec::new();
        for change in self.behind.drain(..).chain(changes.iter().copied()) {
            let Some(address) = A::of(change.prefix.address()) else { continue };
            if let Err(reason) = free.change(address, change.prefix.len(), change.hop) {
                refused.push(format!("{}: {reason}", change.prefix));
            }
        }
        self.behind = changes;
        self.copies.swap(0, 1);
        refused
    }
}

/// The tables of both families.
pub(crate) struct Routes {
    v4: TwoCopies<u32>,
    v6: TwoCopies<u128>,
}

impl Routes {
    /// Empty tables of this kind.
    ///
    /// # Errors
    /// When EAL has no memory for them.
    pub(crate) fn new(eal: &Eal, kind: Kind) -> Result<Self, Error> {
        let v4 = |name| eal.create_fib4(name, &V4).map(Lpm);
        let v6 = |name| eal.create_fib6(name, &V6).map(Lpm);
        Ok(match kind {
            Kind::Lpm => Self {
                v4: TwoCopies::new(v4("v4-one")?, v4("v4-other")?),
                v6: TwoCopies::new(v6("v6-one")?, v6("v6-other")?),
            },
            Kind::Map => Self::maps(),
        })
    }

    fn maps() -> Self {
        Self {
            v4: TwoCopies::new(PrefixTable::default(), PrefixTable::default()),
            v6: TwoCopies::new(PrefixTable::default(), PrefixTable::default()),
        }
    }

    /// Whether nobody reads the copies that are to be changed next.
    pub(crate) fn are_free(&mut self) -> bool {
        self.v4.is_free() && self.v6.is_free()
    }

    /// Tell the copies that nobody reads, and give them from now on; see [`Routes::are_free`].
    pub(crate) fn change(&mut self, changes: &[RouteChange]) -> RouteTables {
        // Packets there then take the next shorter route, which is the best there is.
        for refused in self.v4.change(changes).into_iter().chain(self.v6.change(changes)) {
            tracing::error!("a route was not taken: {refused}");
        }
        RouteTables { v4: self.v4.current(), v6: self.v6.current() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str, hop: Option<HopNumber>) -> RouteChange {
        RouteChange { prefix: text.parse().expect("a prefix"), hop }
    }

    fn find(tables: &RouteTables, address: u32) -> HopNumber {
        let mut hops = [0];
        tables.v4.find_all(&[address], &mut hops);
        hops[0]
    }

    #[test]
    fn readers_keep_what_they_have_and_both_copies_come_to_the_same() {
        let mut routes = Routes::maps();
        let before = routes.change(&[]);
        let first = routes.change(&[change("10.0.0.0/8", Some(1))]);
        assert_eq!((find(&before, 0x0a00_0001), find(&first, 0x0a00_0001)), (0, 1));
        // The other copy is still read.
        assert!(!routes.are_free());
        drop(before);
        assert!(routes.are_free());
        let next = [change("10.0.0.0/8", None), change("10.1.0.0/16", Some(2))];
        let second = routes.change(&next);
        assert_eq!((find(&second, 0x0a00_0001), find(&second, 0x0a01_0001)), (0, 2));
        assert_eq!(find(&first, 0x0a00_0001), 1);
        drop(first);
        let third = routes.change(&[change("10.2.0.0/16", Some(3))]);
        assert_eq!((find(&third, 0x0a01_0001), find(&third, 0x0a02_0001)), (2, 3));
        // Another family's changes are not this table's.
        let fourth = routes.change(&[change("2001:db8::/32", Some(3))]);
        assert!(Arc::ptr_eq(&third.v4, &fourth.v4) && !Arc::ptr_eq(&third.v6, &fourth.v6));
    }
}
