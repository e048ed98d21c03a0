//! A world to test in: the simulated ERP and the gateway, each on a port of its
//! own, with a configuration from real files. Whatever comes out of it, answers and
//! log lines alike, is searched for planted secrets.

pub mod certificates;
pub mod collector;
pub mod leaks;
pub mod provider;
pub mod tokens;
mod world;

pub use world::{DEFAULT_CREDENTIAL, Reply, TLS, World, key, password, photo, with_clave};

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// So many seconds.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
