//! Sessions: their key, their life, and the table one shard keeps them in.

mod entry;
mod index;
mod table;
mod tcp;

pub use entry::{Session, SessionKey, SessionRecord, SessionState};
pub use table::SessionTable;
