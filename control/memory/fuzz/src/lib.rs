//! Fuzz targets: functions that take any bytes and must neither panic nor break what they assert.
//!
//! `make fuzz` runs them under libFuzzer ([`TARGETS`] by name, the wrappers are in `libfuzzer/`), `cargo test` replays
//! `corpus/`.
#![forbid(unsafe_code)]

mod copy_messages;
mod copy_receiver;
mod image_diff;
mod redo;
mod region_diff;
mod region_header;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("copy_messages", copy_messages::run),
    ("copy_receiver", copy_receiver::run),
    ("image_diff", image_diff::run),
    ("redo", redo::run),
    ("region_diff", region_diff::run),
    ("region_header", region_header::run),
];
