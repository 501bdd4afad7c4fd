//! Sessions: their key, their life, and the table one shard keeps them in.

mod entry;
mod key;
mod table;
mod tcp;

pub use entry::{Session, SessionRecord, SessionState};
pub use key::{Endpoint, SessionKey, Tuple};
pub use table::SessionTable;
