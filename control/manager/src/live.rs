//! What watchers of a running migration see at once: a number to look up in the journal, and progress
//! that is not worth a record.

use tokio::sync::watch;

/// Progress within a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The twin on its way.
    Copy {
        /// On the wire.
        sent_bytes: u64,
        /// Of guest memory.
        covered_bytes: u64,
        /// To be covered.
        total_bytes: u64,
        /// On the wire, over the last second.
        rate_bytes_per_s: u64,
    },
    /// The source's memory, watched.
    Settle {
        /// For how long nothing has changed.
        unchanged_ms: u64,
        /// For how long nothing must.
        settle_ms: u64,
        /// In the last look.
        changed_pages: u64,
        /// Of so many.
        watched_pages: u64,
    },
    /// The drain.
    Drain {
        /// Left at the source.
        old_sessions: u64,
        /// Live at the destination.
        new_sessions: u64,
    },
}

/// The latest of a migration. Written by its driver only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Sequence of the last record.
    pub sequence: u64,
    /// Progress in the phase that runs.
    pub advance: Option<Advance>,
    /// The driver has ended: nothing more comes.
    pub over: bool,
}

/// The driver's end.
pub type LiveSender = watch::Sender<Live>;

/// Publish progress.
pub fn advance(live: &LiveSender, advance: Advance) {
    live.send_modify(|live| live.advance = Some(advance));
}

/// Guest memory that the copy which runs, or the last one that broke, had covered.
pub fn covered_bytes(live: &LiveSender) -> u64 {
    match live.borrow().advance {
        Some(Advance::Copy { covered_bytes, .. }) => covered_bytes,
        _ => 0,
    }
}
