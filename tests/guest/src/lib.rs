//! The service that runs in the test guests, and what others must know about it.
//!
//! A client sends `HELLO <session>` and then `REQ <session> <sequence>`, one per line; each request is answered
//! by `<identity> <session> <sequence>`. The identity names the guest that answered. Every request is counted
//! by its session in the declared region, before it is answered. The service closes a session when its client has
//! closed its side; after `LINGER <ms>` it does so only that much later.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod counters;
pub mod identity;
pub mod protocol;
pub mod server;

/// What the service prints first of all once it serves.
pub const READY: &str = "tidegate-guest: ready";
/// What a guest that rewrites its memory instead prints when it has begun.
pub const REWRITING: &str = "tidegate-guest: rewriting";
/// How often it says something from then on.
pub const BEAT: std::time::Duration = std::time::Duration::from_millis(5);
/// TCP port of the service.
pub const PORT: u16 = 7000;
/// Sessions are numbered from 0 up to this, exclusive.
pub const SESSIONS: u32 = 8192;
