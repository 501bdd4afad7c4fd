//! Sessions that the box has not seen begin: a list of the source's sockets.

use std::ops::AddAssign;

use super::{Shard, lane::Lane, shard::Desk};
use crate::{
    packet::Address,
    session::{ImportedState, Session, SessionKey, Tuple},
    steering::{Family, Snapshot},
};

/// A session of a managed address's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedSession {
    /// Client, managed address and protocol.
    pub tuple: Tuple,
    /// Where it is in its life.
    pub state: ImportedState,
}

/// What became of a list of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// They are sessions of the home now.
    pub imported: u64,
    /// They were there already, and stay as they are.
    pub known: u64,
    /// There is no room for them.
    pub no_room: u64,
    /// Their address is not one whose sessions are recorded.
    pub not_tracked: u64,
}

impl AddAssign for Import {
    fn add_assign(&mut self, other: Self) {
        self.imported += other.imported;
        self.known += other.known;
        self.no_room += other.no_room;
        self.not_tracked += other.not_tracked;
    }
}

impl Shard {
    /// Take up sessions of this shard that are not in its table: born in their address's epoch, or before it once that has
    /// been cut over, owned by its home, and silent from now on.
    pub fn import(
        &mut self,
        snapshot: &Snapshot,
        sessions: &[ImportedSession],
        now_ms: u64,
    ) -> Import {
        let mut import = Import::default();
        for session in sessions {
            let counter = match session.tuple.client.is_ipv4() {
                true => self.v4.import(&mut self.desk, snapshot, session, now_ms),
                false => self.v6.import(&mut self.desk, snapshot, session, now_ms),
            };
            *counter(&mut import) += 1;
        }
        import
    }
}

type Counter = fn(&mut Import) -> &mut u64;

impl<A: Family> Lane<A> {
    fn import(
        &mut self,
        desk: &mut Desk,
        snapshot: &Snapshot,
        session: &ImportedSession,
        now_ms: u64,
    ) -> Counter {
        let Some(key) = key::<A>(&session.tuple) else { return |import| &mut import.not_tracked };
        let service = snapshot.plane::<A>().managed(key.address());
        let Some(service) = service.filter(|service| service.tracked) else {
            return |import| &mut import.not_tracked;
        };
        let hash = self.sessions.table.hash(&key);
        if let Some(at) = self.sessions.table.find(&key, hash) {
            if service.path(self.sessions.table[at].owner()).is_some() {
                return |import| &mut import.known;
            }
            // What the sweep has yet to forget is no reason to miss one.
            self.sessions.remove(desk, at);
        }
        let epoch = service.epoch - u32::from(service.cut_over.is_some());
        let (owner, state) = (service.home.slot, session.state);
        let session = Session::imported(&key, owner, epoch, state, now_ms);
        match self.sessions.begin(desk, snapshot, session, hash) {
            Ok(_) => |import| &mut import.imported,
            Err(_) => |import| &mut import.no_room,
        }
    }
}

fn key<A: Address>(tuple: &Tuple) -> Option<SessionKey<A>> {
    let (client, address) = (A::of(tuple.client)?, A::of(tuple.address)?);
    let (mine, ours) = ((client, tuple.client_port), (address, tuple.address_port));
    Some(SessionKey::new(mine, ours, tuple.protocol))
}
