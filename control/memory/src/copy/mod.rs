//! The copy protocol, version 2 (being built beside version 1).

pub mod ground;
pub mod layout;

use std::time::Duration;

pub use layout::{Layout, SECTION_BYTES, Section};

/// A peer that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Most sections of a copy: 64 TiB.
pub const MAX_SECTIONS: u32 = 1 << 20;
