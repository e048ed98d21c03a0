//! `limits`: how much one user and one tenant may ask.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{document::Checker, units};

/// `limits`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// For one user of one tenant. Default 120 a minute, 30 at once.
    #[serde(deserialize_with = "user")]
    pub user: RateLimit,
    /// For all users of one tenant together. Default 1200 a minute, 200 at once.
    #[serde(deserialize_with = "tenant")]
    pub tenant: RateLimit,
}

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in each `per`.
    pub requests: u32,
    /// The time that `requests` are for.
    pub per: Duration,
    /// Requests that may come at once.
    pub burst: u32,
}

const USER: RateLimit = RateLimit {
    requests: 120,
    per: Duration::from_secs(60),
    burst: 30,
};
const TENANT: RateLimit = RateLimit {
    requests: 1200,
    per: Duration::from_secs(60),
    burst: 200,
};

impl Default for Limits {
    fn default() -> Self {
        Self {
            user: USER,
            tenant: TENANT,
        }
    }
}

impl Limits {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        for (key, limit) in [("limits.user", self.user), ("limits.tenant", self.tenant)] {
            at.require(
                limit.requests > 0,
                &format!("{key}.requests"),
                "must be at least 1",
            );
            at.require(
                !limit.per.is_zero(),
                &format!("{key}.per"),
                "must be longer than 0, e.g. 1m",
            );
            at.require(
                limit.burst > 0,
                &format!("{key}.burst"),
                "must be at least 1",
            );
        }
    }
}

/// What is written of a limit; the rest is its default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    requests: Option<u32>,
    #[serde(deserialize_with = "units::optional_duration")]
    per: Option<Duration>,
    burst: Option<u32>,
}

impl Written {
    fn over(self, default: RateLimit) -> RateLimit {
        RateLimit {
            requests: self.requests.unwrap_or(default.requests),
            per: self.per.unwrap_or(default.per),
            burst: self.burst.unwrap_or(default.burst),
        }
    }
}

fn user<'de, D: Deserializer<'de>>(from: D) -> Result<RateLimit, D::Error> {
    Written::deserialize(from).map(|written| written.over(USER))
}

fn tenant<'de, D: Deserializer<'de>>(from: D) -> Result<RateLimit, D::Error> {
    Written::deserialize(from).map(|written| written.over(TENANT))
}
