//! How a migration ends: what becomes of the source's memory, and when the source is paused for it.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::manager as proto;

use super::InvalidSpec;

/// How long memory must not have changed, when the order does not say.
const DEFAULT_SETTLE_MS: u32 = 1000;
/// How long that is waited for.
const DEFAULT_DEADLINE_S: u32 = 60;

/// What happens at the end to what the source changed since T0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishMode {
    /// Merged into the destination's regions.
    Merge,
    /// All of it becomes the destination's, which goes on as the source.
    Mirror(NewSessions),
    /// Dropped.
    None,
}

/// With `mirror`: who gets sessions that begin before the destination is the source's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewSessions {
    /// The source, like all others; none is cut.
    Hold,
    /// A clone as of T0, while the source's drain; they are cut at the end.
    Cut,
}

/// When the source is paused for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// At once.
    #[default]
    Stop,
    /// When its memory has not changed for a while.
    Settle {
        /// For how long.
        settle_ms: u32,
        /// How long that is waited for.
        deadline_s: u32,
        /// What happens when it goes on changing.
        unsettled: Unsettled,
    },
}

/// What happens when memory goes on changing until the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsettled {
    /// The migration is aborted.
    Abort,
    /// The source is paused all the same.
    Stop,
}

impl FinishMode {
    /// Of an order. A mode of a later version must not become another one of this.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(order: &proto::MigrationSpec) -> Result<Self, InvalidSpec> {
        let new_sessions = new_sessions(order.new_sessions)?;
        let mirrors = order.finish == i32::from(proto::FinishMode::Mirror);
        if !mirrors && new_sessions.is_some() {
            let reason = "goes only with MIRROR; leave it out".to_owned();
            return Err(InvalidSpec::Value { field: "new_sessions", reason });
        }
        match proto::FinishMode::try_from(order.finish) {
            Ok(proto::FinishMode::Unspecified | proto::FinishMode::Merge) => Ok(Self::Merge),
            Ok(proto::FinishMode::Mirror) => {
                can_be_mirrored(order)?;
                Ok(Self::Mirror(new_sessions.unwrap_or(NewSessions::Hold)))
            }
            Ok(proto::FinishMode::None) => Ok(Self::None),
            Err(_) => {
                let reason = format!("{} is unknown; say MERGE, MIRROR or NONE", order.finish);
                Err(InvalidSpec::Value { field: "finish", reason })
            }
        }
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(self) -> (proto::FinishMode, proto::NewSessions) {
        let none = proto::NewSessions::Unspecified;
        match self {
            Self::Merge => (proto::FinishMode::Merge, none),
            Self::Mirror(NewSessions::Hold) => {
                (proto::FinishMode::Mirror, proto::NewSessions::Hold)
            }
            Self::Mirror(NewSessions::Cut) => (proto::FinishMode::Mirror, proto::NewSessions::Cut),
            Self::None => (proto::FinishMode::None, none),
        }
    }
}

/// Only a guest with the source's devices and address can go on as the source.
fn can_be_mirrored(order: &proto::MigrationSpec) -> Result<(), InvalidSpec> {
    let refuse = |field, reason: &str| Err(InvalidSpec::Value { field, reason: reason.to_owned() });
    if order.kind == i32::from(proto::DestinationKind::Boot) {
        return refuse(
            "finish",
            "MIRROR needs a clone: a guest that boots has other devices and other memory; say CLONE, or finish by MERGE",
        );
    }
    if !order.destination_locator.is_empty() {
        return refuse(
            "destination_locator",
            "does not go with MIRROR: the source's sockets have the source's address, to which nat does not \
             rewrite; leave it out (l2), or finish by MERGE",
        );
    }
    if !order.regions.is_empty() {
        return refuse("regions", "MIRROR carries all memory over; leave them out");
    }
    Ok(())
}

fn new_sessions(value: i32) -> Result<Option<NewSessions>, InvalidSpec> {
    match proto::NewSessions::try_from(value) {
        Ok(proto::NewSessions::Unspecified) => Ok(None),
        Ok(proto::NewSessions::Hold) => Ok(Some(NewSessions::Hold)),
        Ok(proto::NewSessions::Cut) => Ok(Some(NewSessions::Cut)),
        Err(_) => {
            let reason = format!("{value} is unknown; say HOLD or CUT");
            Err(InvalidSpec::Value { field: "new_sessions", reason })
        }
    }
}

impl Quiesce {
    /// Of an order.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(order: &proto::MigrationSpec) -> Result<Self, InvalidSpec> {
        let unknown = |field, value: i32, known: &str| {
            let reason = format!("{value} is unknown; say {known}");
            Err(InvalidSpec::Value { field, reason })
        };
        let unsettled = match proto::Unsettled::try_from(order.unsettled) {
            Ok(proto::Unsettled::Unspecified | proto::Unsettled::Abort) => Unsettled::Abort,
            Ok(proto::Unsettled::Stop) => Unsettled::Stop,
            Err(_) => return unknown("unsettled", order.unsettled, "ABORT or STOP"),
        };
        match proto::Quiesce::try_from(order.quiesce) {
            Ok(proto::Quiesce::Unspecified | proto::Quiesce::Stop) => {
                let given = [
                    ("settle_ms", order.settle_ms != 0),
                    ("settle_deadline_s", order.settle_deadline_s != 0),
                    ("unsettled", order.unsettled != 0),
                ];
                match given.into_iter().find(|(_, given)| *given) {
                    Some((field, _)) => {
                        let reason = "goes only with SETTLE; leave it out".to_owned();
                        Err(InvalidSpec::Value { field, reason })
                    }
                    None => Ok(Self::Stop),
                }
            }
            Ok(proto::Quiesce::Settle) => {
                let or = |value, default| if value == 0 { default } else { value };
                let settle_ms = or(order.settle_ms, DEFAULT_SETTLE_MS);
                let deadline_s = or(order.settle_deadline_s, DEFAULT_DEADLINE_S);
                if u64::from(settle_ms) > u64::from(deadline_s) * 1000 {
                    let reason = format!(
                        "{deadline_s} s are over before nothing can have changed for {settle_ms} ms; allow more"
                    );
                    return Err(InvalidSpec::Value { field: "settle_deadline_s", reason });
                }
                Ok(Self::Settle { settle_ms, deadline_s, unsettled })
            }
            Err(_) => unknown("quiesce", order.quiesce, "STOP or SETTLE"),
        }
    }

    /// Write it into the API's form of an order.
    pub fn tell(self, order: &mut proto::MigrationSpec) {
        let Self::Settle { settle_ms, deadline_s, unsettled } = self else {
            order.set_quiesce(proto::Quiesce::Stop);
            return;
        };
        order.set_quiesce(proto::Quiesce::Settle);
        (order.settle_ms, order.settle_deadline_s) = (settle_ms, deadline_s);
        order.set_unsettled(match unsettled {
            Unsettled::Abort => proto::Unsettled::Abort,
            Unsettled::Stop => proto::Unsettled::Stop,
        });
    }
}

impl fmt::Display for Quiesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => f.write_str("the source is paused at once"),
            Self::Settle { settle_ms, deadline_s, unsettled } => {
                let then = match unsettled {
                    Unsettled::Abort => "the migration is aborted",
                    Unsettled::Stop => "it is paused all the same",
                };
                write!(
                    f,
                    "the source is paused when its memory has not changed for {settle_ms} ms; if that is not within \
                     {deadline_s} s, {then}"
                )
            }
        }
    }
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
