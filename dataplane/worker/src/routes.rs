//! Route tables that change while workers read them: two copies of each.
//!
//! Workers read one copy by their snapshots; changes go to the other, which the next snapshot names. When the last
//! snapshot with the first copy has come back, the first is told the same changes, and may be named again. So no reader
//! ever sees a table change, and none waits.

use std::{fmt, sync::Arc};

use tidegate_dataplane::{
    packet::Address,
    steering::{HopNumber, IpPrefix, PrefixTable, RouteChange, RouteTable},
};

/// A table that takes changes while nobody reads it.
pub(crate) trait Changeable<A>: RouteTable<A> {
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

/// Two copies of one table.
pub(crate) struct TwoCopies<T> {
    /// The first is the one that was given last.
    copies: [Arc<T>; 2],
    /// What the second has not been told yet.
    behind: Vec<RouteChange>,
}

impl<T> TwoCopies<T> {
    pub(crate) fn new(one: T, other: T) -> Self {
        Self { copies: [Arc::new(one), Arc::new(other)], behind: Vec::new() }
    }

    /// The copy that was given last.
    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.copies[0])
    }

    /// Whether nobody reads the copy that is to be changed next.
    pub(crate) fn is_free(&mut self) -> bool {
        Arc::get_mut(&mut self.copies[1]).is_some()
    }
}

impl<T> TwoCopies<T> {
    /// Tell the copy that nobody reads, and give it from now on.
    ///
    /// # Errors
    /// Why a change was not taken; the others were. `None` when the copy is still read.
    pub(crate) fn change<A: Address>(
        &mut self,
        changes: &[RouteChange],
    ) -> Option<Result<(), String>>
    where
        T: Changeable<A>,
    {
        let of_family = |change: &&RouteChange| A::of(change.prefix.address()).is_some();
        let changes: Vec<_> = changes.iter().filter(of_family).copied().collect();
        if changes.is_empty() {
            return Some(Ok(()));
        }
        let free = Arc::get_mut(&mut self.copies[1])?;
        let mut refused = None;
        for change in self.behind.drain(..).chain(changes.iter().copied()) {
            if let Err(reason) = apply::<A>(free, change) {
                refused = Some(Refusal { prefix: change.prefix, reason }.to_string());
            }
        }
        self.behind = changes;
        self.copies.swap(0, 1);
        Some(refused.map_or(Ok(()), Err))
    }
}

fn apply<A: Address>(table: &mut impl Changeable<A>, change: RouteChange) -> Result<(), String> {
    match A::of(change.prefix.address()) {
        Some(address) => table.change(address, change.prefix.len(), change.hop),
        None => Ok(()),
    }
}

struct Refusal {
    prefix: IpPrefix,
    reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.prefix, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str, hop: Option<HopNumber>) -> RouteChange {
        RouteChange { prefix: text.parse().expect("a prefix"), hop }
    }

    fn find(table: &PrefixTable<u32>, address: u32) -> HopNumber {
        let mut hops = [0];
        table.find_all(&[address], &mut hops);
        hops[0]
    }

    #[test]
    fn readers_keep_what_they_have_and_both_copies_come_to_the_same() {
        let mut copies = TwoCopies::new(PrefixTable::<u32>::default(), PrefixTable::default());
        let before = copies.current();
        assert_eq!(copies.change(&[change("10.0.0.0/8", Some(1))]), Some(Ok(())));
        let first = copies.current();
        assert_eq!((find(&before, 0x0a00_0001), find(&first, 0x0a00_0001)), (0, 1));
        // The other copy is still read.
        let next = [change("10.0.0.0/8", None), change("10.1.0.0/16", Some(2))];
        assert!(!copies.is_free());
        assert_eq!(copies.change(&next), None);
        drop(before);
        assert!(copies.is_free());
        assert_eq!(copies.change(&next), Some(Ok(())));
        let second = copies.current();
        assert_eq!((find(&second, 0x0a00_0001), find(&second, 0x0a01_0001)), (0, 2));
        drop(first);
        assert_eq!(copies.change(&[change("10.2.0.0/16", Some(3))]), Some(Ok(())));
        let third = copies.current();
        assert_eq!((find(&third, 0x0a01_0001), find(&third, 0x0a02_0001)), (2, 3));
        // Another family's changes are not this table's.
        assert_eq!(copies.change(&[change("2001:db8::/32", Some(3))]), Some(Ok(())));
        assert!(Arc::ptr_eq(&third, &copies.current()));
    }
}
