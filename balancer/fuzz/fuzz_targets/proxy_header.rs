#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = pontoon_balancer::fuzzing::proxy_header(bytes);
});
