#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| groupcache_sync::fuzz::auth(data));
