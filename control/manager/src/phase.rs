//! The phases of a migration and their order.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::manager as proto;

use crate::spec::FinishMode;

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
    /// The source is paused for good.
    Quiesce,
    /// What the source changed since T0 goes to the destination's host.
    Diff,
    /// ... and is merged into the destination's regions.
    Merge,
    /// The switch stops hosting the address.
    Release,
    /// The source is deleted, both hosts forget the migration.
    Cleanup,
}

/// All phases in order.
pub const ALL: [Phase; 12] = [
    Phase::Preflight,
    Phase::Takeover,
    Phase::Capture,
    Phase::Copy,
    Phase::Destination,
    Phase::Cutover,
    Phase::Drain,
    Phase::Quiesce,
    Phase::Diff,
    Phase::Merge,
    Phase::Release,
    Phase::Cleanup,
];

impl Phase {
    /// The phases a migration with this finish mode goes through.
    pub fn sequence(finish: FinishMode) -> impl Iterator<Item = Self> {
        ALL.into_iter().filter(move |phase| phase.applies(finish))
    }

    fn applies(self, finish: FinishMode) -> bool {
        finish == FinishMode::Merge || !matches!(self, Self::Diff | Self::Merge)
    }

    /// Once this phase has started the migration can no longer be aborted: what the destination's memory
    /// holds, or who owns the address, cannot be taken back.
    #[must_use]
    pub fn point_of_no_return(finish: FinishMode) -> Self {
        match finish {
            FinishMode::Merge => Self::Merge,
            FinishMode::None => Self::Release,
        }
    }

    /// Whether an abort cuts the step short instead of letting it finish. The others are short, and cutting
    /// them could leave a guest paused with nobody waiting for the answer.
    #[must_use]
    pub fn interruptible(self) -> bool {
        matches!(self, Self::Preflight | Self::Copy | Self::Destination | Self::Drain)
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
            Self::Quiesce => "quiesce",
            Self::Diff => "diff",
            Self::Merge => "merge",
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
            Self::Quiesce => proto::Phase::Quiesce,
            Self::Diff => proto::Phase::Diff,
            Self::Merge => proto::Phase::Merge,
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
