#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_host_fuzz::TARGETS[0].1(bytes));
