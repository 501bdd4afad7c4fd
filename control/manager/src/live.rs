//! What watchers of a running migration see at once: a number to look up in the journal, and progress
//! that is not worth a record.

use tidegate_api::host::SendProgress;
use tokio::sync::watch;

/// Memory on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// On the wire.
    pub sent_bytes: u64,
    /// Of guest memory.
    pub covered_bytes: u64,
    /// To be covered.
    pub total_bytes: u64,
    /// On the wire, over the last second.
    pub rate_bytes_per_s: u64,
}

/// Progress within a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// RAM that goes straight while it is captured.
    Capture(Carried),
    /// The twin on its way.
    Copy(Carried),
    /// What a mirror's source has changed, ahead of its image.
    Ahead(Carried),
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

impl From<&SendProgress> for Carried {
    fn from(progress: &SendProgress) -> Self {
        Self {
            sent_bytes: progress.sent_bytes,
            covered_bytes: progress.covered_bytes,
            total_bytes: progress.total_bytes,
            rate_bytes_per_s: progress.rate_bytes_per_s,
        }
    }
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
        Some(Advance::Copy(carried)) => carried.covered_bytes,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_copy_has_covered_is_there_for_the_next_attempt() {
        let carried =
            Carried { sent_bytes: 1, covered_bytes: 2, total_bytes: 3, rate_bytes_per_s: 4 };
        let live = LiveSender::new(Live::default());
        assert_eq!(covered_bytes(&live), 0);
        advance(&live, Advance::Copy(carried));
        assert_eq!(covered_bytes(&live), 2);
        // Of a capture that breaks, nothing is left.
        advance(&live, Advance::Capture(carried));
        assert_eq!(covered_bytes(&live), 0);
    }
}
