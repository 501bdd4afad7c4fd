//! The datagrams whose fragments a shard has seen, in a table that never grows.

use ahash::RandomState;
use zerocopy::FromZeros;

use super::{Way, waiting::Line};
use crate::{
    packet::{Address, Fragment, Packet},
    steering::BackendSlot,
};

/// Datagrams remembered at once.
const DATAGRAMS: usize = 4096;
/// Places a datagram can be in. Fragments that wait hold at most one place of sixteen, so that a first one practically
/// always finds one that can be forgotten.
const PLACES: usize = 8;
/// How long a first fragment is remembered, milliseconds: longer than 64 KiB take over 128 kbit/s, and much shorter than a
/// sender takes to use an identification again at the rate that this table can remember (RFC 6864).
pub(super) const REMEMBERED_MS: u64 = 5_000;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DatagramKey<A: Address> {
    addresses: A::Pair,
    identification: u32,
    protocol: u8,
    /// The backend that sent it: a clone goes on with the source's identifications.
    sender: Option<BackendSlot>,
}

impl<A: Address> DatagramKey<A> {
    /// The datagram that `packet` is a `fragment` of; sent by this backend, or by a client.
    pub(crate) fn new(
        packet: &Packet<A>,
        fragment: &Fragment,
        sender: Option<BackendSlot>,
    ) -> Self {
        let protocol = if A::IDENTIFIED_BY_PROTOCOL { packet.protocol } else { 0 };
        let identification = fragment.identification;
        Self { addresses: packet.addresses, identification, protocol, sender }
    }
}

/// Where a datagram is in the table. It stays there while fragments of it wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u16);

/// What is known of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Nothing.
    Free,
    /// Its first fragment has not come; these wait for it.
    Waiting(Line),
    /// Its first fragment went this way.
    Led(Way),
}

/// A datagram.
#[derive(Clone, Debug)]
pub(super) struct Datagram<A: Address> {
    key: DatagramKey<A>,
    pub(super) state: State,
    /// Of its first fragment.
    pub(super) ports: u32,
    /// When its first fragment came.
    since_ms: u64,
    /// Bytes its fragments have carried, twice if they came twice.
    carried: u32,
    /// All it has; zero until its last fragment came.
    total: u32,
}

impl<A: Address> Datagram<A> {
    /// Its first fragment came.
    pub(super) fn begin(&mut self, ports: u32, first: &Fragment, now_ms: u64) {
        (self.ports, self.since_ms) = (ports, now_ms);
        (self.carried, self.total) = (u32::from(first.len), 0);
    }

    /// A later fragment came.
    pub(super) fn carry(&mut self, later: &Fragment) {
        self.carried = self.carried.saturating_add(u32::from(later.len));
        if !later.more {
            self.total = later.end();
        }
    }

    /// Whether all of it has passed, as far as lengths tell.
    pub(super) fn is_complete(&self) -> bool {
        self.total != 0 && self.carried >= self.total
    }

    /// Whether nobody misses it.
    fn is_over(&self, now_ms: u64) -> bool {
        match self.state {
            State::Free => true,
            State::Waiting(_) => false,
            State::Led(_) => now_ms.saturating_sub(self.since_ms) > REMEMBERED_MS,
        }
    }
}

/// Datagrams by key.
pub(super) struct Datagrams<A: Address> {
    places: Box<[Datagram<A>]>,
    hasher: RandomState,
}

impl<A: Address> Datagrams<A> {
    pub(super) fn new() -> Self {
        let addresses = A::Pair::new_zeroed();
        let key = DatagramKey { addresses, identification: 0, protocol: 0, sender: None };
        let free =
            Datagram { key, state: State::Free, ports: 0, since_ms: 0, carried: 0, total: 0 };
        // Senders choose identifications, so the hash must not be theirs to predict.
        Self { places: vec![free; DATAGRAMS].into(), hasher: RandomState::new() }
    }

    pub(super) fn at(&self, place: Place) -> &Datagram<A> {
        &self.places[usize::from(place.0)]
    }

    pub(super) fn at_mut(&mut self, place: Place) -> &mut Datagram<A> {
        &mut self.places[usize::from(place.0)]
    }

    /// Where the datagram with `key` is remembered.
    pub(super) fn find(&self, key: &DatagramKey<A>, now_ms: u64) -> Option<Place> {
        let is_it = |place: &Place| {
            let datagram = self.at(*place);
            datagram.key == *key && !datagram.is_over(now_ms)
        };
        self.places_of(key).find(is_it)
    }

    /// A place for the datagram with `key`, which has none: a free one, or that of the first fragment that came longest ago.
    pub(super) fn take_place(&mut self, key: &DatagramKey<A>, now_ms: u64) -> Option<Place> {
        let age = |place: &Place| {
            let datagram = self.at(*place);
            let is_over = datagram.is_over(now_ms);
            (!is_over, if is_over { 0 } else { datagram.since_ms })
        };
        let waits = |place: &Place| matches!(self.at(*place).state, State::Waiting(_));
        let place = self.places_of(key).filter(|place| !waits(place)).min_by_key(age)?;
        let datagram = self.at_mut(place);
        (datagram.key, datagram.state) = (*key, State::Free);
        Some(place)
    }

    fn places_of(&self, key: &DatagramKey<A>) -> impl Iterator<Item = Place> + use<A> {
        let bucket = self.hasher.hash_one(key) as usize % (DATAGRAMS / PLACES);
        (bucket * PLACES..(bucket + 1) * PLACES).map(|place| Place(place as u16))
    }
}
