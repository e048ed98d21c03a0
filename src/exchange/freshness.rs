//! Freshness as a pure function (RFC 9111 §4.2): how old an answer is and how
//! long it may still be served.

use std::time::{Duration, Instant};

/// An answer that may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// Since it was fetched.
    pub age: Duration,
    /// What is left of its time to live.
    pub remaining: Duration,
}

/// Whether an answer stored at `stored_at` is fresh `now`, given its class's `ttl`.
#[must_use]
pub fn judge(stored_at: Instant, now: Instant, ttl: Duration) -> Option<Fresh> {
    let age = now.saturating_duration_since(stored_at);
    let remaining = ttl.checked_sub(age).filter(|left| !left.is_zero())?;
    Some(Fresh { age, remaining })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn an_answer_is_fresh_until_its_ttl_is_over() {
        let stored = Instant::now();
        let ttl = Duration::from_secs(30);
        let at = |seconds| judge(stored, stored + Duration::from_secs(seconds), ttl);
        assert_eq!(at(0).map(|fresh| fresh.remaining.as_secs()), Some(30));
        assert_eq!(at(29).map(|fresh| fresh.age.as_secs()), Some(29));
        assert_eq!(at(30), None);
        assert_eq!(
            judge(stored, stored, Duration::ZERO),
            None,
            "a ttl of 0 keeps nothing"
        );
    }
}
