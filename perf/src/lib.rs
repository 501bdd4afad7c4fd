//! Benchmarks. `cargo bench -p tidegate-perf` runs them; see `benches/`.
#![forbid(unsafe_code)]
