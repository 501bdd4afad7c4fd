//! What a shard does beside packets, a bounded piece at a time: expiry and listings.

use super::Shard;
use crate::{
    session::{Session, SessionRecord},
    steering::Snapshot,
};

impl Shard {
    /// Look at up to `budget` entries from where the last sweep stopped, and forget those that are
    /// expired, whose address is no longer tracked, or whose owner is no longer a backend of it.
    pub fn sweep(&mut self, snapshot: &Snapshot, now_ms: u64, budget: u32) {
        let end = self.table.used_below();
        for _ in 0..budget.min(end) {
            let at = self.sweep_at;
            self.sweep_at = if at + 1 < end { at + 1 } else { 0 };
            let Some(session) = self.table.get(at) else { continue };
            if !is_wanted(session, snapshot) || session.is_expired(&snapshot.timeouts, now_ms) {
                self.remove(at);
            }
        }
    }

    /// Copy sessions into `out` until it holds its capacity, from entry `from` on; at most `budget`
    /// entries are looked at. Returns where to go on, `None` after the last.
    pub fn list(
        &self,
        address: Option<u32>,
        now_ms: u64,
        from: u32,
        budget: u32,
        out: &mut Vec<SessionRecord>,
    ) -> Option<u32> {
        let last = self.table.used_below();
        let end = from.saturating_add(budget).min(last);
        for at in from..end {
            if out.len() == out.capacity() {
                return Some(at);
            }
            let session = self.table.get(at);
            let listed =
                session.filter(|it| address.is_none_or(|wanted| it.key().address() == wanted));
            out.extend(listed.map(|session| session.record(now_ms)));
        }
        (end < last).then_some(end)
    }
}

/// Whether the session's address is still tracked and its owner still a backend of it.
fn is_wanted(session: &Session, snapshot: &Snapshot) -> bool {
    let service = snapshot.service(session.key().address());
    service.is_some_and(|it| it.tracked && it.path(session.owner()).is_some())
}
