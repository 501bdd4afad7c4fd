//! What the API answers, as this program shows it. Field names are the JSON's, and stay.

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
