#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperpy_core::targets::memory_map(data));
