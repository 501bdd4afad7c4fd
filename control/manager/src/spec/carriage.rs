//! How memory goes from the source's host to the destination's.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_api::manager as proto;
use tidegate_host::Choice;

use super::InvalidSpec;

/// 10 Tbit/s: more is a number of another unit.
const MAX_MBPS: u64 = 10_000_000;

/// By what memory goes, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carriage {
    /// By what; None: as the source's host is configured.
    pub transport: Option<Transport>,
    /// At most so many Mbit/s for each copy; None: as the source's host is configured.
    pub bandwidth_mbps: Option<u64>,
    /// The same for what is sent while the guest stands; 0: no limit. None: as before.
    pub final_bandwidth_mbps: Option<u64>,
}

/// A transport's name that hosts know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Transport(Choice);

impl TryFrom<String> for Transport {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl From<Transport> for String {
    fn from(transport: Transport) -> Self {
        transport.to_string()
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Carriage {
    /// That of an order.
    ///
    /// # Errors
    /// [`InvalidSpec`] with the field's name.
    pub fn from_proto(order: &proto::MigrationSpec) -> Result<Self, InvalidSpec> {
        let invalid = |field| move |reason| InvalidSpec::Value { field, reason };
        let transport = Some(order.transport.clone()).filter(|text| !text.is_empty());
        let transport = transport.map(Transport::try_from).transpose();
        let zero = "for the host's own";
        let bandwidth_mbps = mbps(order.bandwidth_mbps, zero).map_err(invalid("bandwidth_mbps"))?;
        let last = order.final_bandwidth_mbps.map(|value| mbps(value, "for no limit")).transpose();
        let last = last.map_err(invalid("final_bandwidth_mbps"))?;
        if last.is_some() && order.finish == i32::from(proto::FinishMode::None) {
            let reason = "goes only with MERGE or MIRROR: with NONE nothing is sent at the end; leave it out";
            return Err(invalid("final_bandwidth_mbps")(reason.to_owned()));
        }
        Ok(Self {
            transport: transport.map_err(invalid("transport"))?,
            bandwidth_mbps: Some(bandwidth_mbps).filter(|&mbps| mbps != 0),
            final_bandwidth_mbps: last,
        })
    }

    /// Write it into the API's form of an order.
    pub fn tell(self, order: &mut proto::MigrationSpec) {
        order.transport = self.transport_name();
        order.bandwidth_mbps = self.bandwidth_mbps.unwrap_or_default();
        order.final_bandwidth_mbps = self.final_bandwidth_mbps;
    }

    /// At most so many Mbit/s while the guest stands; 0: no limit; None: as the source's host is configured.
    #[must_use]
    pub fn last_mbps(self) -> Option<u64> {
        self.final_bandwidth_mbps.or(self.bandwidth_mbps)
    }

    /// The transport's name as hosts are told it.
    #[must_use]
    pub fn transport_name(self) -> String {
        self.transport.map(String::from).unwrap_or_default()
    }
}

fn mbps(value: u64, zero: &str) -> Result<u64, String> {
    if value <= MAX_MBPS {
        return Ok(value);
    }
    Err(format!("{value} is too much; give Mbit/s, at most {MAX_MBPS}, or 0 {zero}"))
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Some(transport) => write!(f, "by {transport}")?,
            None => f.write_str("by what the source's host is configured with")?,
        }
        if let Some(mbps) = self.bandwidth_mbps {
            write!(f, ", at most {mbps} Mbit/s")?;
        }
        match self.final_bandwidth_mbps {
            None => Ok(()),
            Some(0) => f.write_str("; while the guest stands, without a limit"),
            Some(mbps) => write!(f, "; while the guest stands, at most {mbps} Mbit/s"),
        }
    }
}

#[cfg(test)]
#[path = "carriage_tests.rs"]
mod tests;
