//! `idempotency`: what is kept so that a write that is sent again isn't made again.

use serde::Deserialize;

use super::{document::Checker, units};

/// Below this a busy hour's outcomes don't fit.
const MIN_BYTES: u64 = 1 << 20;

/// `idempotency`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    /// Bytes of all outcomes that are kept. Default 64 MiB.
    #[serde(deserialize_with = "units::size")]
    pub max_bytes: u64,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
        }
    }
}

impl Idempotency {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        at.require(
            self.max_bytes >= MIN_BYTES,
            "idempotency.max_bytes",
            "must be at least 1MiB, or retries soon find nothing of the first try",
        );
    }
}
