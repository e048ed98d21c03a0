#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    llavero_fuzz::paging::check(data);
});
