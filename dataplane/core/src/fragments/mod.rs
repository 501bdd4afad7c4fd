//! Fragments of datagrams: later ones go where the first went, without reassembly.
//!
//! Only the first fragment carries ports. What it found out is [remembered](datagrams) for the others, and those that
//! come before it [wait](waiting) (RFC 4787, REQ-14). All memory is taken when the shard is made.

mod datagrams;
mod waiting;

#[cfg(test)]
mod tests;

use crate::{
    packet::{Address, Fragment},
    steering::BackendSlot,
};

pub(crate) use datagrams::{DatagramKey, Place};
pub(crate) use waiting::{PLACES as WAITING, Slot};

use datagrams::{Datagrams, State};
use waiting::Waiting;

/// Later fragments of one datagram that may wait: 64 KiB in packets of 1500 bytes, their first one last.
const MOST_OF_A_DATAGRAM: u16 = 44;

/// Where the first fragment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the shard of its session.
    Shard(u16),
    /// From a client to this backend.
    ToBackend(BackendSlot),
    /// From a backend to a client, in the managed address's name.
    ToClient,
    /// Along a route, as it was.
    Route,
    /// Nowhere.
    Dropped,
}

/// What a first fragment is to the datagrams that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// It leads a datagram: say where to by [`Fragments::lead`].
    Leads(Place),
    /// It was there before; the datagram goes this way.
    Again(Way),
    /// The datagram has another first fragment, with other ports.
    Conflicts,
    /// No datagram can be forgotten for it.
    NoRoom,
}

/// A shard's fragments of one family.
pub(crate) struct Fragments<A: Address> {
    datagrams: Datagrams<A>,
    waiting: Waiting,
}

impl<A: Address> Fragments<A> {
    pub(crate) fn new() -> Self {
        Self { datagrams: Datagrams::new(), waiting: Waiting::new() }
    }

    /// A first fragment with these ports.
    pub(crate) fn first(
        &mut self,
        key: &DatagramKey<A>,
        ports: u32,
        fragment: &Fragment,
        now_ms: u64,
    ) -> First {
        let known = self.datagrams.find(key, now_ms);
        if let Some(place) = known
            && let datagram = self.datagrams.at(place)
            && let State::Led(way) = datagram.state
            // Of one that is complete or was dropped, it is a new one with the same identification.
            && !datagram.is_complete()
            && way != Way::Dropped
        {
            return if datagram.ports == ports { First::Again(way) } else { First::Conflicts };
        }
        let Some(place) = known.or_else(|| self.datagrams.take_place(key, now_ms)) else {
            return First::NoRoom;
        };
        self.datagrams.at_mut(place).begin(ports, fragment, now_ms);
        First::Leads(place)
    }

    /// The first fragment went this way, and the later ones that waited for it shall follow.
    pub(crate) fn lead(&mut self, place: Place, way: Way) {
        let datagram = self.datagrams.at_mut(place);
        if let State::Waiting(line) = datagram.state {
            self.waiting.let_go(line);
        }
        datagram.state = State::Led(way);
    }

    /// Where a later fragment's first went, if that is known.
    pub(crate) fn later(
        &mut self,
        key: &DatagramKey<A>,
        fragment: &Fragment,
        now_ms: u64,
    ) -> Option<Way> {
        let place = self.datagrams.find(key, now_ms)?;
        let datagram = self.datagrams.at_mut(place);
        let State::Led(way) = datagram.state else { return None };
        datagram.carry(fragment);
        Some(way)
    }

    /// Let a later fragment wait for its first, in the place of that which has waited longest when there is no other.
    pub(crate) fn wait(&mut self, key: &DatagramKey<A>, now_ms: u64) -> Option<Slot> {
        let slot = self.waiting.next()?;
        let known = self.datagrams.find(key, now_ms);
        let place = known.or_else(|| self.datagrams.take_place(key, now_ms))?;
        if let State::Waiting(line) = self.datagrams.at(place).state
            && line.len() >= MOST_OF_A_DATAGRAM
        {
            return None;
        }
        if let Some(longest) = self.waiting.displace() {
            self.leave_line(longest);
        }
        let datagram = self.datagrams.at_mut(place);
        let line = match datagram.state {
            State::Waiting(line) => Some(line),
            State::Free | State::Led(_) => None,
        };
        datagram.state = State::Waiting(self.waiting.stand(place, line, now_ms));
        Some(slot)
    }

    /// Look at up to `budget` of those that have waited longest, and give up those that have waited too long.
    #[inline]
    pub(crate) fn sweep(&mut self, now_ms: u64, budget: u32) {
        if !self.waiting.is_empty() {
            self.give_up(now_ms, budget);
        }
    }

    #[cold]
    fn give_up(&mut self, now_ms: u64, budget: u32) {
        for _ in 0..budget {
            match self.waiting.give_up(now_ms) {
                waiting::Looked::GaveUp(place) => self.leave_line(place),
                waiting::Looked::Gone => {}
                waiting::Looked::Waits => return,
            }
        }
    }

    /// The fragment of the datagram at `place` that has waited longest waits no more.
    fn leave_line(&mut self, place: Place) {
        let datagram = self.datagrams.at_mut(place);
        if let State::Waiting(line) = datagram.state {
            datagram.state = match self.waiting.without_first(line) {
                Some(rest) => State::Waiting(rest),
                None => State::Free,
            };
        }
    }

    /// One that waits no more, and whether its first came.
    #[inline]
    pub(crate) fn next_released(&mut self) -> Option<(Slot, bool)> {
        self.waiting.next_released()
    }
}
