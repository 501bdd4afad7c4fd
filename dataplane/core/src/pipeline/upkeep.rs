//! What a shard does beside packets, a bounded piece at a time: expiry and listings.

use std::{mem, net::IpAddr};

use super::{Capacity, Outcome, Released, Shard, lane::Lane, shard::Desk};
use crate::{
    fragments::WAITING,
    packet::protocol,
    session::{Session, SessionRecord, SessionState, Standing},
    steering::{Family, Service, Snapshot},
};

/// Places a sweep looks at for each session that has begun.
const PLACES_PER_SESSION: u32 = 4;

impl Shard {
    /// Places that sweeps and listings go through, used or free.
    #[must_use]
    pub fn places(&self) -> Capacity {
        Capacity { v4: self.v4.sessions.table.places(), v6: self.v6.sessions.table.places() }
    }

    /// Look at up to `budget` places of each family from where the last sweep stopped, and forget sessions that are
    /// expired, whose address is no longer tracked, or whose owner is no longer a backend of it. Half-open ones that are old
    /// no more make room for others again.
    ///
    /// The more sessions have begun since the last sweep, the more places: what fills the table must not outrun it.
    ///
    /// Of the frames held it looks at as many, and releases those that have waited too long.
    pub fn sweep(&mut self, snapshot: &Snapshot, now_ms: u64, budget: u32) {
        self.v4.sweep(&mut self.desk, snapshot, now_ms, budget);
        self.v6.sweep(&mut self.desk, snapshot, now_ms, budget);
        self.v4.fragments.sweep(now_ms, budget);
        self.v6.fragments.sweep(now_ms, budget);
    }

    /// Compare what is counted of half-open sessions with what is in the tables. It looks at all of them: for tests.
    ///
    /// # Panics
    /// When the two differ.
    pub fn assert_half_open_counts(&self) {
        self.v4.sessions.assert_half_open_counts();
        self.v6.sessions.assert_half_open_counts();
    }

    /// A frame that is held no more; those whose wait ended well in order of their arrival. To be called after
    /// [`Shard::process`] and [`Shard::sweep`] until there is none.
    #[inline]
    pub fn next_released(&mut self) -> Option<Released> {
        let v4 = self.v4.fragments.next_released();
        let (place, came) = v4.or_else(|| {
            let (place, came) = self.v6.fragments.next_released()?;
            Some((place + WAITING as u16, came))
        })?;
        Some(match came {
            true => Released::Process(place),
            false => Released::Drop(place, Outcome::FragmentExpired),
        })
    }

    /// Copy sessions with these addresses, or all if none is given, into `out` until it holds its capacity, from place `from` on; at most `budget` places are
    /// looked at. Returns where to go on, `None` after the last. A session that moves meanwhile, to make room for a new
    /// one, may be missing or there twice.
    pub fn list(
        &self,
        addresses: &[IpAddr],
        now_ms: u64,
        from: u32,
        budget: u32,
        out: &mut Vec<SessionRecord>,
    ) -> Option<u32> {
        let boundary = self.v4.sessions.table.places();
        if from < boundary {
            let next = self.v4.list(addresses, now_ms, from, budget, out);
            return next.or(Some(boundary));
        }
        self.v6.list(addresses, now_ms, from - boundary, budget, out).map(|next| next + boundary)
    }
}

/// Whether it is a session of the source that is not TCP, and their time is over.
fn is_over_age<A: Family>(session: &Session<A>, service: &Service<A>, now_ms: u64) -> bool {
    service.cut_over.is_some_and(|cutover| cutover.datagrams_ended(now_ms))
        && session.key().protocol() != protocol::TCP
        && session.owner() == service.home.slot
}

impl<A: Family> Lane<A> {
    fn sweep(&mut self, desk: &mut Desk, snapshot: &Snapshot, now_ms: u64, budget: u32) {
        let begun = mem::take(&mut self.sessions.begun);
        let places = self.sessions.table.places();
        let budget = budget.saturating_add(begun.saturating_mul(PLACES_PER_SESSION)).min(places);
        if self.sessions.table.is_empty() {
            return;
        }
        // What the last session's address is, if it is anything: most sessions share theirs.
        let mut recent: Option<(A, Option<&Service<A>>)> = None;
        for _ in 0..budget {
            let at = self.sweep_at;
            self.sweep_at = if at + 1 < places { at + 1 } else { 0 };
            let Some(session) = self.sessions.table.get(at) else { continue };
            let address = session.key().address();
            let service = match recent {
                Some((known, service)) if known == address => service,
                _ => snapshot.plane::<A>().service(address),
            };
            recent = Some((address, service));
            let tracked = service.filter(|service| service.tracked);
            let wanted = tracked.filter(|service| service.path(session.owner()).is_some());
            let Some(service) = wanted else {
                self.sessions.remove(desk, at);
                continue;
            };
            let is_expired = session.is_expired(&snapshot.timeouts, now_ms);
            if is_expired && session.state() == SessionState::Resetting {
                self.sessions.end(desk, at, now_ms);
            } else if is_expired || is_over_age(session, service, now_ms) {
                self.sessions.remove(desk, at);
            } else if session.life().half_open() == Some(Standing::PassedOver)
                && !service.is_old(session.birth_epoch())
            {
                self.sessions.take_back(desk, snapshot, at);
            }
        }
    }

    fn list(
        &self,
        addresses: &[IpAddr],
        now_ms: u64,
        from: u32,
        budget: u32,
        out: &mut Vec<SessionRecord>,
    ) -> Option<u32> {
        let last = self.sessions.table.places();
        let end = from.saturating_add(budget).min(last);
        for at in from..end {
            if out.len() == out.capacity() {
                return Some(at);
            }
            let session = self.sessions.table.get(at);
            let listed = session.filter(|it| {
                let is_wanted = |wanted: &IpAddr| A::of(*wanted) == Some(it.key().address());
                addresses.is_empty() || addresses.iter().any(is_wanted)
            });
            out.extend(listed.map(|session| session.record(now_ms)));
        }
        (end < last).then_some(end)
    }
}
