//! `limits`: how much one user, one tenant and one client without a good token may ask.

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
    /// For requests of one client's address without a token that is accepted. Default 300 a
    /// minute, 60 at once.
    #[serde(deserialize_with = "failures")]
    pub failures: RateLimit,
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
const FAILURES: RateLimit = RateLimit {
    requests: 300,
    per: Duration::from_secs(60),
    burst: 60,
};

/// The longest `per`, and how long a burst may take to come back.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Limits {
    fn default() -> Self {
        Self {
            user: USER,
            tenant: TENANT,
            failures: FAILURES,
        }
    }
}

impl Limits {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        for (key, limit) in [
            ("limits.user", self.user),
            ("limits.tenant", self.tenant),
            ("limits.failures", self.failures),
        ] {
            at.require(
                limit.requests > 0,
                &format!("{key}.requests"),
                "must be at least 1",
            );
            // Callers are told in whole seconds.
            at.require(
                !limit.per.is_zero() && limit.per.subsec_nanos() == 0 && limit.per <= DAY,
                &format!("{key}.per"),
                "must be whole seconds, at least 1s and at most 1d, e.g. 1m",
            );
            at.require(
                limit.burst > 0,
                &format!("{key}.burst"),
                "must be at least 1",
            );
            let whole_in =
                limit.per.as_secs_f64() * f64::from(limit.burst) / f64::from(limit.requests.max(1));
            at.require(
                limit.per > DAY || whole_in <= DAY.as_secs_f64(),
                &format!("{key}.burst"),
                "takes more than a day to come back; write a smaller burst or more requests",
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

fn failures<'de, D: Deserializer<'de>>(from: D) -> Result<RateLimit, D::Error> {
    Written::deserialize(from).map(|written| written.over(FAILURES))
}
