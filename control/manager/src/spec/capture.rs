//! How the source's memory is captured.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::host as proto;

use super::InvalidSpec;

/// How T0 is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureWay {
    /// As the source's host thinks best.
    #[default]
    Auto,
    /// Everything is copied while the source is paused.
    Stop,
    /// Copied while it runs, and what changed meanwhile again; it is paused for the last pass.
    Passes,
}

impl CaptureWay {
    /// The API's form of an order.
    ///
    /// # Errors
    /// [`InvalidSpec::Value`].
    pub(super) fn asked(value: i32) -> Result<Self, InvalidSpec> {
        proto::CaptureWay::try_from(value).map(Self::from_proto).map_err(|_| InvalidSpec::Value {
            field: "capture",
            reason: format!("{value} is unknown; say STOP, PASSES or nothing"),
        })
    }

    /// What a host says.
    #[must_use]
    pub fn from_proto(way: proto::CaptureWay) -> Self {
        match way {
            proto::CaptureWay::Unspecified => Self::Auto,
            proto::CaptureWay::Stop => Self::Stop,
            proto::CaptureWay::Passes => Self::Passes,
        }
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(self) -> proto::CaptureWay {
        match self {
            Self::Auto => proto::CaptureWay::Unspecified,
            Self::Stop => proto::CaptureWay::Stop,
            Self::Passes => proto::CaptureWay::Passes,
        }
    }
}

impl fmt::Display for CaptureWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Stop => "stop",
            Self::Passes => "passes",
        })
    }
}
