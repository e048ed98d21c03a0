//! What must hold whatever is sent: one module for each fuzz target, with a function `check` that
//! takes the fuzzer's bytes and says whether they were accepted. `cargo test` runs the corpora through the
//! same functions.

pub mod json;
pub mod multipart;
pub mod paging;
pub mod tenant_file;
pub mod token;
