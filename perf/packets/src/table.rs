//! The session table alone.

use std::io;

use anyhow::Context as _;
use tidegate_dataplane::{
    packet::protocol,
    pipeline::BURST,
    session::{Session, SessionKey, SessionState, SessionTable},
    steering::BackendSlot,
};

use crate::frame;

/// Key of the session of client `number`.
#[inline]
#[must_use]
pub fn key(number: u32) -> SessionKey<u32> {
    let service = (frame::MANAGED, frame::SERVICE_PORT);
    SessionKey::new(frame::client(number), service, protocol::TCP)
}

/// Our table.
pub struct Ours(SessionTable<u32>);

impl Ours {
    /// With room for `sessions`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn empty(sessions: u32) -> io::Result<Self> {
        Ok(Self(SessionTable::with_capacity(sessions)?))
    }

    /// With the sessions of clients below `sessions`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn filled(sessions: u32) -> anyhow::Result<Self> {
        let Self(mut table) = Self::empty(sessions)?;
        for number in 0..sessions {
            let key = key(number);
            let session =
                Session::new(&key, BackendSlot(0), 1, SessionState::Established, false, 0);
            let hash = table.hash(&key);
            let inserted = table.insert(session, hash).ok();
            inserted.with_context(|| format!("no room for session {number} of {sessions}"))?;
        }
        Ok(Self(table))
    }

    /// End the sessions of one burst and begin those of another, in stages as a shard does.
    ///
    /// # Errors
    /// When one that should end is not there, or one that should begin finds no room.
    pub fn replace(
        &mut self,
        old: &[SessionKey<u32>; BURST],
        new: &[SessionKey<u32>; BURST],
    ) -> anyhow::Result<()> {
        let hashes = [old, new].map(|keys| keys.each_ref().map(|key| self.0.hash(key)));
        for &hash in hashes.as_flattened() {
            self.0.prefetch(hash);
        }
        for (key, &hash) in old.iter().zip(&hashes[0]) {
            let at = self.0.find(key, hash).context("a session is missing")?;
            self.0.remove(at);
        }
        for (key, &hash) in new.iter().zip(&hashes[1]) {
            let session = Session::new(key, BackendSlot(0), 1, SessionState::Established, false, 0);
            self.0.insert(session, hash).ok().context("no room for a session")?;
        }
        Ok(())
    }

    /// Bytes of memory, everything included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Look a burst up in stages, as a shard does, and read what is found; how many live sessions there were.
    #[inline]
    #[must_use]
    pub fn lookup(&self, keys: &[SessionKey<u32>; BURST]) -> u32 {
        let mut hashes = [0; BURST];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.0.hash(key);
            self.0.prefetch(*hash);
        }
        let mut glanced = [0; BURST];
        for ((glanced, key), &hash) in glanced.iter_mut().zip(keys).zip(&hashes) {
            *glanced = self.0.glance(key, hash);
        }
        let found = keys.iter().zip(hashes).zip(glanced).map(|((key, hash), glanced)| {
            let session = self.0.find_from(glanced, key, hash).map(|at| &self.0[at]);
            u32::from(session.is_some_and(Session::is_live))
        });
        found.sum()
    }
}
