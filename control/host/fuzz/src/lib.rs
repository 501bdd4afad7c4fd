//! Fuzz targets: functions that take any bytes and must neither panic nor break what they assert.
//!
//! `make fuzz` runs them under libFuzzer ([`TARGETS`] by name, the wrappers are in `libfuzzer/`), `cargo test` replays
//! `corpus/`.
#![forbid(unsafe_code)]

mod qemu_stream;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 1] = [("qemu_stream", qemu_stream::run)];
