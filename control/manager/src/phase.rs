//! The phases of a migration and their order.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::manager as proto;

use crate::spec::{FinishMode, NewSessions, Quiesce, Spec};

/// One step of a migration, in the order they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everything that can be checked is checked; nothing changes.
    Preflight,
    /// The switch hosts the address and knows the destination.
    Takeover,
    /// T0: the source's memory is captured.
    Capture,
    /// The twin goes to the destination's host.
    Copy,
    /// The destination is started from what was received.
    Destination,
    /// New sessions go to the destination from here on.
    Cutover,
    /// Until the last old session has closed.
    Drain,
    /// What the source changed since T0 goes to the destination's host while the source runs on.
    Ahead,
    /// The source's memory is watched until it stops changing.
    Settle,
    /// The source is paused for good.
    Quiesce,
    /// What the source changed since T0 goes to the destination's host.
    Diff,
    /// ... and is merged into the destination's regions.
    Merge,
    /// ... or makes the destination, with the source's final device state, its image.
    Mirror,
    /// The destination goes on as the source.
    Continue,
    /// The switch stops hosting the address.
    Release,
    /// The source is deleted, both hosts forget the migration.
    Cleanup,
}

/// All phases in order.
pub const ALL: [Phase; 16] = [
    Phase::Preflight,
    Phase::Takeover,
    Phase::Capture,
    Phase::Copy,
    Phase::Destination,
    Phase::Cutover,
    Phase::Drain,
    Phase::Ahead,
    Phase::Settle,
    Phase::Quiesce,
    Phase::Diff,
    Phase::Merge,
    Phase::Mirror,
    Phase::Continue,
    Phase::Release,
    Phase::Cleanup,
];

impl Phase {
    /// The phases a migration of this order goes through.
    pub fn sequence(order: &Spec) -> impl Iterator<Item = Self> {
        let (finish, quiesce) = (order.finish, order.quiesce);
        ALL.into_iter().filter(move |phase| phase.applies(finish, quiesce))
    }

    fn applies(self, finish: FinishMode, quiesce: Quiesce) -> bool {
        let mirrors = matches!(finish, FinishMode::Mirror(_));
        match self {
            // All sessions stay at the source until its image goes on with them.
            Self::Cutover | Self::Drain => finish != FinishMode::Mirror(NewSessions::Hold),
            Self::Settle => quiesce != Quiesce::Stop,
            Self::Diff => mirrors || finish == FinishMode::Merge,
            Self::Merge => finish == FinishMode::Merge,
            Self::Ahead | Self::Mirror | Self::Continue => mirrors,
            _ => true,
        }
    }

    /// Once this phase has started the migration can no longer be aborted: what the destination's memory
    /// holds, which of the two goes on as the guest, or who owns the address, cannot be taken back.
    #[must_use]
    pub fn point_of_no_return(finish: FinishMode) -> Self {
        match finish {
            FinishMode::Merge => Self::Merge,
            FinishMode::Mirror(_) => Self::Continue,
            FinishMode::None => Self::Release,
        }
    }

    /// Whether a transient error is waited out rather than giving up: from the cutover on, giving up costs sessions.
    /// Not in `mirror` until the destination goes on: there the source only has to be continued, and the longer it stands
    /// still, the more sessions are lost. What goes ahead of that is waited for, while the source runs.
    #[must_use]
    pub fn is_worth_waiting(self, finish: FinishMode) -> bool {
        let patient_from = match finish {
            FinishMode::Mirror(_) => Self::Continue,
            FinishMode::Merge | FinishMode::None => Self::Cutover,
        };
        // A drain waits by itself.
        self == Self::Ahead || self >= patient_from && self != Self::Drain
    }

    /// Whether all memory goes over in it while the source runs: giving up costs no session, but what has taken long.
    #[must_use]
    pub fn carries_memory(self) -> bool {
        matches!(self, Self::Capture | Self::Copy)
    }

    /// Whether an abort cuts the step short instead of letting it finish. The others are short, and cutting
    /// them could leave a guest paused with nobody waiting for the answer. A capture takes as long as the copy where RAM goes straight;
    /// its host has the source go on.
    #[must_use]
    pub fn interruptible(self) -> bool {
        matches!(
            self,
            Self::Preflight
                | Self::Capture
                | Self::Copy
                | Self::Destination
                | Self::Drain
                | Self::Ahead
                | Self::Settle
        )
    }

    /// The word for it in messages, JSON and the journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Takeover => "takeover",
            Self::Capture => "capture",
            Self::Copy => "copy",
            Self::Destination => "destination",
            Self::Cutover => "cutover",
            Self::Drain => "drain",
            Self::Ahead => "ahead",
            Self::Settle => "settle",
            Self::Quiesce => "quiesce",
            Self::Diff => "diff",
            Self::Merge => "merge",
            Self::Mirror => "mirror",
            Self::Continue => "continue",
            Self::Release => "release",
            Self::Cleanup => "cleanup",
        }
    }

    /// The same in the API.
    #[must_use]
    pub fn to_proto(self) -> proto::Phase {
        match self {
            Self::Preflight => proto::Phase::Preflight,
            Self::Takeover => proto::Phase::Takeover,
            Self::Capture => proto::Phase::Capture,
            Self::Copy => proto::Phase::Copy,
            Self::Destination => proto::Phase::Destination,
            Self::Cutover => proto::Phase::Cutover,
            Self::Drain => proto::Phase::Drain,
            Self::Ahead => proto::Phase::Ahead,
            Self::Settle => proto::Phase::Settle,
            Self::Quiesce => proto::Phase::Quiesce,
            Self::Diff => proto::Phase::Diff,
            Self::Merge => proto::Phase::Merge,
            Self::Mirror => proto::Phase::Mirror,
            Self::Continue => proto::Phase::Continue,
            Self::Release => proto::Phase::Release,
            Self::Cleanup => proto::Phase::Cleanup,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
