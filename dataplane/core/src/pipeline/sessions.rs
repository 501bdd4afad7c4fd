//! A shard's sessions of one family: begun, followed, counted out. Each change is in the counters at once.

use std::io;

use super::{Outcome, shard::Desk};
use crate::{
    packet::{Headers, TcpFlags},
    session::{HalfOpen, Session, SessionState, SessionTable},
    steering::{Family, Snapshot},
};

/// The sessions, and the order in which those began that are only begun.
pub(super) struct Sessions<A: Family> {
    pub(super) table: SessionTable<A>,
    half_open: HalfOpen<A>,
    /// Since the last sweep.
    pub(super) begun: u32,
}

impl<A: Family> Sessions<A> {
    /// Room for `capacity` sessions.
    pub(super) fn new(capacity: u32) -> io::Result<Self> {
        let (table, half_open) = (SessionTable::with_capacity(capacity)?, HalfOpen::new(capacity)?);
        Ok(Self { table, half_open, begun: 0 })
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
        let ends = headers.tcp_flags().is_some_and(TcpFlags::ends);
        if !session.is_settled() || ends {
            self.follow_closely(desk, at, headers, frame, from_client);
        }
    }

    /// The same for packets that may change the session's state.
    #[inline]
    fn follow_closely(
        &mut self,
        desk: &Desk,
        at: u32,
        headers: &Headers,
        frame: &[u8],
        from_client: bool,
    ) {
        let session = &mut self.table[at];
        let before = session.state();
        match headers.tcp_segment(frame) {
            Some(segment) => session.follow_tcp(&segment, from_client),
            None => session.follow_datagram(from_client),
        }
        let after = session.state();
        if before == SessionState::Opening && after != SessionState::Opening {
            self.half_open.end();
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
        if self.table.is_full() && !self.evict_half_open(desk, snapshot) {
            return Err(Outcome::TableFull);
        }
        let (key, owner, begun_by_vm) = (session.key(), session.owner(), session.is_begun_by_vm());
        let at = self.table.insert(session, hash).map_err(|_| Outcome::TableFull)?;
        if is_half_open {
            self.half_open.begin(key);
        }
        self.begun += 1;
        desk.entry_added(owner, begun_by_vm);
        Ok(at)
    }

    /// Forget the oldest half-open session, but none that a cutover has made old. Whether there was one.
    #[cold]
    fn evict_half_open(&mut self, desk: &mut Desk, snapshot: &Snapshot) -> bool {
        /// Keys that are looked at for one that is still half open.
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let Some(key) = self.half_open.take_oldest() else { return false };
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
