//! Fragments that came before their first: who waits in which place. The packets themselves are kept by whoever owns
//! them, under the numbers of places.
//!
//! Places are given out in turn, so that the next to be given out is that of the fragment that has waited longest.

use super::datagrams::Place;

/// Fragments that may wait at once: few against the packet buffers of a worker. Who is the 257th to come takes the place
/// of the first: a flood shortens the wait, and refuses nobody.
pub(crate) const PLACES: usize = 256;
/// How long one may wait, milliseconds: ways through a network differ by tens of them.
pub(super) const PATIENCE_MS: u64 = 1_000;

/// Number of a place where a packet waits.
pub(crate) type Slot = u16;

/// Fragments in order of arrival: those of one datagram, or those that wait no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    first: Slot,
    last: Slot,
    len: u16,
}

impl Line {
    pub(super) fn len(self) -> u16 {
        self.len
    }
}

/// What is in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Nobody,
    /// A fragment of the datagram there, since that time.
    Waits(Place, u64),
    /// One that waits no more; whether its first came.
    Leaves(bool),
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    occupant: Occupant,
    /// Who comes next in its line, if it is not the last.
    behind: Slot,
}

/// What [`Waiting::give_up`] found.
pub(super) enum Looked {
    /// The first in the line of this datagram has waited too long.
    GaveUp(Place),
    /// One that had left already.
    Gone,
    /// Nobody has waited too long.
    Waits,
}

/// Those that wait, and those that wait no more and have not been fetched.
pub(super) struct Waiting {
    seats: Box<[Seat]>,
    /// How many have come since the start, and how many of those have gone for certain.
    came: u64,
    gone: u64,
    leaving: Option<Line>,
}

impl Waiting {
    pub(super) fn new() -> Self {
        let seat = Seat { occupant: Occupant::Nobody, behind: 0 };
        Self { seats: vec![seat; PLACES].into(), came: 0, gone: 0, leaving: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.came == self.gone
    }

    fn slot(number: u64) -> Slot {
        (number % PLACES as u64) as Slot
    }

    fn seat(&mut self, slot: Slot) -> &mut Seat {
        &mut self.seats[usize::from(slot)]
    }

    /// The place for the next; `None` while who had it has not been fetched.
    pub(super) fn next(&self) -> Option<Slot> {
        let slot = Self::slot(self.came);
        let occupant = self.seats[usize::from(slot)].occupant;
        (!matches!(occupant, Occupant::Leaves(_))).then_some(slot)
    }

    /// Free the place for the next. The datagram of whom waited there, first in its line.
    pub(super) fn displace(&mut self) -> Option<Place> {
        if self.came - self.gone < PLACES as u64 {
            return None;
        }
        self.gone += 1;
        let seat = self.seat(Self::slot(self.came));
        match seat.occupant {
            Occupant::Waits(place, _) => {
                seat.occupant = Occupant::Nobody;
                Some(place)
            }
            _ => None,
        }
    }

    /// Let one wait in the [next](Waiting::next) place, at the end of the line of the datagram at `place`; the line now.
    pub(super) fn stand(&mut self, place: Place, line: Option<Line>, now_ms: u64) -> Line {
        let slot = Self::slot(self.came);
        self.came += 1;
        self.seat(slot).occupant = Occupant::Waits(place, now_ms);
        let alone = Line { first: slot, last: slot, len: 1 };
        self.join(line, alone)
    }

    /// The line without its first.
    pub(super) fn without_first(&self, line: Line) -> Option<Line> {
        let first = self.seats[usize::from(line.first)].behind;
        (line.len > 1).then(|| Line { first, len: line.len - 1, ..line })
    }

    /// One line behind the other.
    fn join(&mut self, front: Option<Line>, back: Line) -> Line {
        let Some(front) = front else { return back };
        self.seat(front.last).behind = back.first;
        Line { first: front.first, last: back.last, len: front.len + back.len }
    }

    /// The first fragment of those in `line` came.
    pub(super) fn let_go(&mut self, line: Line) {
        let mut slot = line.first;
        for _ in 0..line.len {
            let seat = self.seat(slot);
            seat.occupant = Occupant::Leaves(true);
            slot = seat.behind;
        }
        self.leaving = Some(self.join(self.leaving, line));
    }

    /// Look at who has waited longest.
    pub(super) fn give_up(&mut self, now_ms: u64) -> Looked {
        if self.is_empty() {
            return Looked::Waits;
        }
        let slot = Self::slot(self.gone);
        match self.seat(slot).occupant {
            Occupant::Waits(_, since_ms) if now_ms.saturating_sub(since_ms) <= PATIENCE_MS => {
                Looked::Waits
            }
            Occupant::Waits(place, _) => {
                self.gone += 1;
                self.seat(slot).occupant = Occupant::Leaves(false);
                let alone = Line { first: slot, last: slot, len: 1 };
                self.leaving = Some(self.join(self.leaving, alone));
                Looked::GaveUp(place)
            }
            Occupant::Nobody | Occupant::Leaves(_) => {
                self.gone += 1;
                Looked::Gone
            }
        }
    }

    /// One that waits no more, in order, and whether its first came. Its place is free again.
    #[inline]
    pub(super) fn next_released(&mut self) -> Option<(Slot, bool)> {
        let line = self.leaving?;
        let came = self.seat(line.first).occupant == Occupant::Leaves(true);
        self.seat(line.first).occupant = Occupant::Nobody;
        self.leaving = self.without_first(line);
        Some((line.first, came))
    }
}
