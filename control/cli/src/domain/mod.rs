//! What the API answers, as this program shows it. Field names are the JSON's, and stay.

pub mod diff;
pub mod guest;
pub mod migration;
pub mod switch;

/// An answer that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A part is missing.
    #[error("{message} has no {field}")]
    Missing {
        /// The protocol's message.
        message: &'static str,
        /// Its field.
        field: &'static str,
    },
    /// A number stands for nothing this version knows.
    #[error("{field} is {value}, which this version does not know")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
}

/// A protocol's usual name, or its number.
#[must_use]
pub fn protocol_name(number: u32) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}
