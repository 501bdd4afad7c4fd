//! Why an order cannot be understood: each message begins with the field's name in the API.

/// A field of a migration's order that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The request has no spec.
    #[error("spec: missing")]
    Missing,
    /// A required field is empty.
    #[error("{field}: missing; {remedy}")]
    Empty {
        /// Its name in the API.
        field: &'static str,
        /// What to give.
        remedy: &'static str,
    },
    /// A field's value cannot be read.
    #[error("{field}: {reason}")]
    Value {
        /// Its name in the API.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Source and destination are the same guest.
    #[error(
        "destination_guest: `{guest}` on host `{host}` is the source itself; give the destination a name of its own"
    )]
    SameGuest {
        /// The guest.
        guest: String,
        /// Its host.
        host: String,
    },
    /// A name is not in the inventory.
    #[error("{field}: `{name}` is not configured in this manager; it knows {known}")]
    Unknown {
        /// Its name in the API.
        field: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No name was given and there are several, or none.
    #[error("{field}: which one? This manager knows {known}")]
    Ambiguous {
        /// Its name in the API.
        field: &'static str,
        /// What there is.
        known: String,
    },
}
