//! See `tests/src/fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_tests::fuzz::netlink(bytes));
