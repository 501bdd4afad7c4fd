//! How the switch treats, from cutover on, what it cannot know better.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::{manager::MigrationSpec, switch as proto};

use super::InvalidSpec;

/// A week, which is as long as the switch counts.
const MAX_AGE_S: u32 = 604_800;

/// Who gets what belongs to no known session and does not begin one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The source: the session is older than the switch's knowledge.
    #[default]
    Source,
    /// The destination.
    Destination,
    /// Nobody.
    Drop,
}

/// A migration's policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policies {
    /// Who gets TCP of no known session.
    pub unknown_tcp: Unknown,
    /// Who gets QUIC of no known connection, where the address speaks it.
    pub unknown_quic: Unknown,
    /// Old sessions that are not TCP end so long after the cutover at the latest; 0: whenever they fall silent.
    pub datagram_max_age_s: u32,
    /// The drain does not wait for sessions that the source began itself.
    pub ignore_begun_by_source: bool,
}

impl Policies {
    /// Those of an order.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(order: &MigrationSpec) -> Result<Self, InvalidSpec> {
        let datagram_max_age_s = order.datagram_max_age_s;
        if datagram_max_age_s > MAX_AGE_S {
            let reason = format!(
                "{datagram_max_age_s} is too long; use at most {MAX_AGE_S}, a week, or 0 for no limit"
            );
            return Err(InvalidSpec::Value { field: "datagram_max_age_s", reason });
        }
        Ok(Self {
            unknown_tcp: Unknown::from_proto("unknown_tcp", order.unknown_tcp)?,
            unknown_quic: Unknown::from_proto("unknown_quic", order.unknown_quic)?,
            datagram_max_age_s,
            ignore_begun_by_source: order.ignore_begun_by_source,
        })
    }
}

impl Unknown {
    fn from_proto(field: &'static str, value: i32) -> Result<Self, InvalidSpec> {
        match proto::Unknown::try_from(value) {
            Ok(proto::Unknown::Unspecified | proto::Unknown::Source) => Ok(Self::Source),
            Ok(proto::Unknown::Destination) => Ok(Self::Destination),
            Ok(proto::Unknown::Drop) => Ok(Self::Drop),
            Err(_) => {
                let reason = format!("{value} is unknown; say SOURCE, DESTINATION or DROP");
                Err(InvalidSpec::Value { field, reason })
            }
        }
    }

    /// The API's form of it.
    #[must_use]
    pub fn to_proto(self) -> proto::Unknown {
        match self {
            Self::Source => proto::Unknown::Source,
            Self::Destination => proto::Unknown::Destination,
            Self::Drop => proto::Unknown::Drop,
        }
    }
}

impl fmt::Display for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.unknown_tcp {
            Unknown::Source => "TCP of no known session goes to the source",
            Unknown::Destination => "TCP of no known session goes to the destination",
            Unknown::Drop => "TCP of no known session is dropped",
        })?;
        f.write_str(match self.unknown_quic {
            Unknown::Source => "",
            Unknown::Destination => "; QUIC of no known connection goes to the destination",
            Unknown::Drop => "; QUIC of no known connection is dropped",
        })?;
        match self.datagram_max_age_s {
            0 => {}
            age => write!(f, "; what is not TCP leaves the source after {age} s at the latest")?,
        }
        if self.ignore_begun_by_source {
            f.write_str("; what the source began is not waited for")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_checked_and_told() {
        let of = |order: MigrationSpec| Policies::from_proto(&order);
        let plain = of(MigrationSpec::default()).expect("good");
        assert_eq!(plain, Policies::default());
        assert_eq!(plain.to_string(), "TCP of no known session goes to the source");
        let all = MigrationSpec {
            unknown_tcp: proto::Unknown::Drop.into(),
            unknown_quic: proto::Unknown::Destination.into(),
            datagram_max_age_s: 604_800,
            ignore_begun_by_source: true,
            ..MigrationSpec::default()
        };
        assert_eq!(
            of(all).expect("good").to_string(),
            "TCP of no known session is dropped; QUIC of no known connection goes to the destination; what is not TCP leaves the source after 604800 s at the latest; \
             what the source began is not waited for"
        );
        let long = MigrationSpec { datagram_max_age_s: 604_801, ..MigrationSpec::default() };
        let error = of(long).expect_err("too long").to_string();
        assert!(error.starts_with("datagram_max_age_s: 604801 is too long; use"), "{error}");
        let tcp = MigrationSpec { unknown_tcp: 9, ..MigrationSpec::default() };
        let quic = MigrationSpec { unknown_quic: 9, ..MigrationSpec::default() };
        for (order, field) in [(tcp, "unknown_tcp"), (quic, "unknown_quic")] {
            let error = of(order).expect_err("unknown").to_string();
            assert_eq!(error, format!("{field}: 9 is unknown; say SOURCE, DESTINATION or DROP"));
        }
    }
}
