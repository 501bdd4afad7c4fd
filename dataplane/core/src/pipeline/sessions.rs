//! A shard's sessions of one family: begun, followed, counted out. Each change is in the counters at once.

use std::io;

use super::{Outcome, shard::Desk};
use crate::{
    packet::{Headers, protocol},
    session::{HalfOpen, Session, SessionKey, SessionTable, Standing, Youngest},
    steering::{Cutover, Family, Service, Snapshot, Unknown},
};

/// Keys that are looked at for one that may go.
const TRIES: usize = 16;

/// What came of making room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Made,
    /// Not all were looked at that may go.
    SoughtFor,
    None,
}

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
        desk: &mut Desk,
        snapshot: &Snapshot,
        at: u32,
        headers: &Headers,
        frame: &[u8],
        from_client: bool,
    ) {
        let session = &mut self.table[at];
        session.seen(desk.now_ms);
        let before = session.life();
        match headers.tcp_segment(frame) {
            Some(segment) => session.follow_tcp(&segment, from_client),
            None => session.follow_datagram(from_client),
        }
        let after = session.life();
        if before == after {
            return;
        }
        if before.is_live() && !after.is_live() {
            desk.counters.entry_closed(session.owner(), session.is_begun_by_vm());
        }
        let Some(standing) = before.half_open() else { return };
        let key = session.key();
        match after.half_open() {
            None => {
                self.half_open.end(standing);
                if session.is_unconfirmed() {
                    self.unconfirmed.push(key);
                }
            }
            Some(changed) if changed != standing => {
                self.keep_in_sight(desk, snapshot, changed, &key);
                self.half_open.change(&key, standing, changed);
            }
            Some(_) => {}
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
        let is_half_open = session.life().half_open().is_some();
        if is_half_open && self.half_open.is_full() {
            let room = self.evict_half_open(desk, snapshot, |it| it.half_open.is_full());
            let is_tolerated = |it: &Self| room == Room::SoughtFor && !it.half_open.is_overfull();
            if room != Room::Made && !is_tolerated(self) {
                return Err(Outcome::HalfOpenLimited);
            }
        }
        if self.table.is_full() && !self.evict_unconfirmed(desk, snapshot) {
            let room = self.evict_half_open(desk, snapshot, |it| it.table.is_full());
            if room != Room::Made {
                return Err(Outcome::TableFull);
            }
        }
        let (key, owner, begun_by_vm) = (session.key(), session.owner(), session.is_begun_by_vm());
        let is_unconfirmed = session.is_unconfirmed();
        if is_half_open {
            self.keep_in_sight(desk, snapshot, Standing::Unanswered, &key);
        }
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

    /// Forget the oldest of the half-open sessions that go first, but none that a cutover has made old, until nothing lacks.
    /// Where that takes longer, one that has gone is room for the one that comes.
    #[cold]
    fn evict_half_open(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        lacks: impl Fn(&Self) -> bool,
    ) -> Room {
        let mut has_gone = false;
        for standing in self.half_open.first_to_go() {
            let mut tries = 0..TRIES;
            while lacks(self) {
                if tries.next().is_none() {
                    // Rather none for a moment than that of one who has precedence.
                    return if has_gone { Room::Made } else { Room::SoughtFor };
                }
                let Some(key) = self.half_open.take_oldest(standing) else { break };
                has_gone |= self.dismiss(desk, snapshot, standing, &key);
            }
        }
        if has_gone || !lacks(self) { Room::Made } else { Room::None }
    }

    /// See to it that not all of this standing are forgotten, one by one, for others like `next`: the oldest goes then.
    #[inline]
    fn keep_in_sight(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        standing: Standing,
        next: &SessionKey<A>,
    ) {
        if self.half_open.is_crowded(standing)
            && let Some(oldest) = self.half_open.take_oldest(standing)
            && oldest != *next
        {
            self.dismiss(desk, snapshot, standing, &oldest);
        }
    }

    /// Forget a session if it is still of this standing, and not one that a cutover has made old. Whether it has gone.
    #[cold]
    fn dismiss(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        standing: Standing,
        key: &SessionKey<A>,
    ) -> bool {
        let Some(at) = self.table.find(key, self.table.hash(key)) else { return false };
        let session = &mut self.table[at];
        if session.life().half_open() != Some(standing) {
            return false;
        }
        let service = snapshot.plane::<A>().service(key.address());
        if service.is_some_and(|service| service.is_old(session.birth_epoch())) {
            session.pass_over();
            self.half_open.change(key, standing, Standing::PassedOver);
            return false;
        }
        self.remove(desk, at);
        desk.counters.half_open_evicted.add(1);
        true
    }

    /// A session that was passed over is not old any more, as after an abort.
    #[cold]
    pub(super) fn take_back(&mut self, desk: &mut Desk, snapshot: &Snapshot, at: u32) {
        let session = &mut self.table[at];
        session.take_back();
        let key = session.key();
        let Some(standing) = session.life().half_open() else { return };
        self.keep_in_sight(desk, snapshot, standing, &key);
        self.half_open.change(&key, Standing::PassedOver, standing);
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
            if let Some(standing) = session.life().half_open() {
                self.half_open.end(standing);
            }
            desk.entry_removed(session.owner(), session.is_begun_by_vm(), session.is_live());
        }
    }

    /// See [`Shard::assert_half_open_counts`](super::Shard::assert_half_open_counts).
    pub(super) fn assert_half_open_counts(&self) {
        let mut counts = [0; 3];
        let sessions = (0..self.table.places()).filter_map(|at| self.table.get(at));
        for standing in sessions.filter_map(|session| session.life().half_open()) {
            counts[standing as usize] += 1;
        }
        assert_eq!(self.half_open.counts(), counts, "half-open sessions by standing");
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
