#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    pontoon_balancer::fuzzing::host(text);
});
