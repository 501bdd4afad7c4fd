//! A shard's sessions of one family: begun, followed, counted out. Each change is in the counters at once.

use std::io;

use super::{Outcome, shard::Desk};
use crate::{
    packet::{Headers, protocol},
    session::{HalfOpen, Session, SessionKey, SessionState, SessionTable, Youngest},
    steering::{Cutover, Family, Service, Snapshot, Unknown},
};

/// Keys that are looked at for one that may go.
const TRIES: usize = 16;

/// The sessions, and the order in which those began that make room for others.
pub(super) struct Sessions<A: Family> {
    pub(super) table: SessionTable<A>,
    half_open: HalfOpen<A>,
    /// They seem to be established, and clients alone have been heard in them.
    unconfirmed: Youngest<A>,
    /// Since the last sweep.
    pub(super) begun: u32,
}

impl<A: Family> Sessions<A> {
    /// Room for `capacity` sessions.
    pub(super) fn new(capacity: u32) -> io::Result<Self> {
        Ok(Self {
            table: SessionTable::with_capacity(capacity)?,
            half_open: HalfOpen::new(capacity)?,
            unconfirmed: Youngest::new(capacity)?,
            begun: 0,
        })
    }

    /// Keep the session at `at` up to date with one of its packets.
    #[inline]
    pub(super) fn follow(
        &mut self,
        desk: &Desk,
        at: u32,
        headers: &Headers,
        frame: &[u8],
        from_client: bool,
        now_ms: u64,
    ) {
        let session = &mut self.table[at];
        session.seen(now_ms);
        let before = session.state();
        match headers.tcp_segment(frame) {
            Some(segment) => session.follow_tcp(&segment, from_client),
            None => session.follow_datagram(from_client),
        }
        let after = session.state();
        if before == SessionState::Opening && after != SessionState::Opening {
            self.half_open.end();
            if session.is_unconfirmed() {
                self.unconfirmed.push(session.key());
            }
        }
        if before != SessionState::Lingering && after == SessionState::Lingering {
            desk.counters.entry_closed(session.owner(), session.is_begun_by_vm());
        }
    }

    /// Add a session. Where there is no room, or too many are half open, the oldest of those makes room; otherwise it is
    /// refused for want of room.
    #[inline]
    pub(super) fn begin(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        session: Session<A>,
        hash: u64,
    ) -> Result<u32, Outcome> {
        let is_half_open = session.state() == SessionState::Opening;
        if is_half_open
            && self.half_open.is_full()
            && !self.evict_half_open(desk, snapshot)
            && self.half_open.is_full()
        {
            return Err(Outcome::HalfOpenLimited);
        }
        if self.table.is_full()
            && !self.evict_unconfirmed(desk, snapshot)
            && !self.evict_half_open(desk, snapshot)
        {
            return Err(Outcome::TableFull);
        }
        let (key, owner, begun_by_vm) = (session.key(), session.owner(), session.is_begun_by_vm());
        let is_unconfirmed = session.is_unconfirmed();
        let at = self.table.insert(session, hash).map_err(|_| Outcome::TableFull)?;
        if is_half_open {
            self.half_open.begin(key);
        } else if is_unconfirmed {
            self.unconfirmed.push(key);
        }
        self.begun += 1;
        desk.entry_added(owner, begun_by_vm);
        Ok(at)
    }

    /// Forget the oldest half-open session, but none that a cutover has made old. Whether there was one.
    #[cold]
    fn evict_half_open(&mut self, desk: &mut Desk, snapshot: &Snapshot) -> bool {
        for _ in 0..TRIES {
            let Some(key) = self.half_open.youngest.take_oldest() else { return false };
            let Some(at) = self.table.find(&key, self.table.hash(&key)) else { continue };
            let session = &self.table[at];
            if session.state() != SessionState::Opening {
                continue;
            }
            let service = snapshot.plane::<A>().service(key.address());
            if service.is_some_and(|service| service.is_old(session.birth_epoch())) {
                self.half_open.pass_over();
                continue;
            }
            self.remove(desk, at);
            desk.counters.half_open_evicted.add(1);
            return true;
        }
        false
    }

    /// Forget the oldest unconfirmed session, but none that would then lose its old owner. Whether there was one.
    #[cold]
    fn evict_unconfirmed(&mut self, desk: &mut Desk, snapshot: &Snapshot) -> bool {
        for _ in 0..TRIES {
            let Some(key) = self.unconfirmed.take_oldest() else { return false };
            let Some(at) = self.table.find(&key, self.table.hash(&key)) else { continue };
            let session = &self.table[at];
            let service = snapshot.plane::<A>().service(key.address());
            let is_kept = |service: &Service<A>| {
                service.is_old(session.birth_epoch()) && !comes_back(service, &key)
            };
            if session.is_unconfirmed() && !service.is_some_and(is_kept) {
                self.remove(desk, at);
                desk.counters.half_open_evicted.add(1);
                return true;
            }
        }
        false
    }

    pub(super) fn remove(&mut self, desk: &mut Desk, at: u32) {
        if let Some(session) = self.table.remove(at) {
            if session.state() == SessionState::Opening {
                self.half_open.end();
            }
            desk.entry_removed(session.owner(), session.is_begun_by_vm(), session.is_live());
        }
    }

    /// Count a session out that is over, and let it linger.
    pub(super) fn end(&mut self, desk: &mut Desk, at: u32, now_ms: u64) {
        let session = &mut self.table[at];
        desk.counters.entry_closed(session.owner(), session.is_begun_by_vm());
        session.end(now_ms);
    }
}

/// Whether the source would adopt an old session again that was forgotten.
fn comes_back<A: Family>(service: &Service<A>, key: &SessionKey<A>) -> bool {
    let adopts = |cutover: Cutover| cutover.unknown_tcp == Unknown::Source;
    key.protocol() == protocol::TCP && service.cut_over.is_some_and(adopts)
}
