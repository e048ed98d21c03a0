//! What every request passes on its way in and every answer on its way out; one
//! layer a file. `router.rs` says in which order and why.

pub mod access_log;
pub mod audit;
pub mod authenticate;
pub mod cache_headers;
pub mod client_address;
pub mod framing;
pub mod host;
pub mod leak_guard;
pub mod panics;
pub mod permit;
pub mod problems;
pub mod rate_limit;
pub mod request_id;
pub mod security_headers;
pub mod trace;
