//! Sessions: their key, their life, and the table one shard keeps them in.

mod connections;
mod entry;
mod half_open;
mod key;
mod life;
mod table;

pub use connections::Connections;
pub use entry::{Session, SessionRecord};
pub(crate) use half_open::{HalfOpen, Standing, Youngest};
pub use key::{Endpoint, SessionKey, Tuple};
pub use life::{ImportedState, SessionState};
pub use table::SessionTable;
