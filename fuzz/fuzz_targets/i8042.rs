#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperpy_devices::targets::i8042(data));
