//! `cache`: how much is kept, and for how long.

use std::time::Duration;

use serde::Deserialize;

use super::{document::Checker, units};

/// Below this not even one page of a list fits beside another.
const MIN_BYTES: u64 = 1 << 20;

/// `cache`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Bytes of all answers together. Default 256 MiB.
    #[serde(deserialize_with = "units::size")]
    pub max_bytes: u64,
    /// How long an answer stays fresh.
    pub ttl: Ttl,
    /// How long after that it is served while it is fetched anew (RFC 5861 §3). Default 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub stale_while_revalidate: Duration,
    /// How long after that it is served where the upstream fails (RFC 5861 §4). Default 10 min.
    #[serde(deserialize_with = "units::duration")]
    pub stale_if_error: Duration,
}

/// `cache.ttl`; 0 keeps nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ttl {
    /// Lists. Default 15 s.
    #[serde(deserialize_with = "units::duration")]
    pub list: Duration,
    /// Single records. Default 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub detail: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            ttl: Ttl::default(),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(600),
        }
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self {
            list: Duration::from_secs(15),
            detail: Duration::from_secs(30),
        }
    }
}

impl Cache {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        at.require(
            self.max_bytes >= MIN_BYTES,
            "cache.max_bytes",
            "must be at least 1MiB; to keep nothing, write ttl: {list: 0, detail: 0}",
        );
    }
}
