#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    llavero_fuzz::tenant_file::check(data);
});
