#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_memory_fuzz::TARGETS[1].1(bytes));
