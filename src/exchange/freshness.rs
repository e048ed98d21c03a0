//! Freshness as a pure function (RFC 9111 §4.2, RFC 5861): how old an answer is, and
//! what it may still be served for.

use std::time::Duration;

/// How long an answer may be served, from `cache.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// As it is.
    pub ttl: Duration,
    /// After that, while a new one is fetched.
    pub stale_while_revalidate: Duration,
    /// After the ttl, where the ERP fails.
    pub stale_if_error: Duration,
}

/// What an answer of some age may be served for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// For everything.
    Fresh,
    /// While a new one is fetched, and where that fails.
    Stale,
    /// Where the ERP fails.
    LastResort,
    /// For nothing.
    Dead,
}

impl Windows {
    /// The standing of an answer of that age.
    #[must_use]
    pub fn standing(&self, age: Duration) -> Standing {
        // A ttl of nothing keeps nothing, not even for failures.
        if self.ttl.is_zero() {
            return Standing::Dead;
        }
        let since_stale = match age.checked_sub(self.ttl) {
            None => return Standing::Fresh,
            Some(since) => since,
        };
        if since_stale < self.stale_while_revalidate {
            Standing::Stale
        } else if since_stale < self.stale_if_error {
            Standing::LastResort
        } else {
            Standing::Dead
        }
    }
}

/// The age of an answer that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// Since the ERP answered.
    pub age: Duration,
    /// For how long it counts as fresh.
    pub ttl: Duration,
}

impl Age {
    /// What is left of its freshness in seconds, rounded up; below zero once it is
    /// stale (RFC 9211 §2.6).
    #[must_use]
    pub fn seconds_left(&self) -> i64 {
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        match self.ttl.checked_sub(self.age) {
            Some(left) => whole(left.as_secs() + u64::from(left.subsec_nanos() > 0)),
            None => -whole((self.age - self.ttl).as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_loses_its_standing_with_age() {
        let windows = Windows {
            ttl: seconds(30),
            stale_while_revalidate: seconds(30),
            stale_if_error: seconds(600),
        };
        for (age, standing) in [
            (0, Standing::Fresh),
            (29, Standing::Fresh),
            (30, Standing::Stale),
            (59, Standing::Stale),
            (60, Standing::LastResort),
            (629, Standing::LastResort),
            (630, Standing::Dead),
        ] {
            assert_eq!(windows.standing(seconds(age)), standing, "{age}");
        }
    }

    #[test]
    fn windows_of_nothing_keep_nothing() {
        let windows = Windows {
            ttl: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        };
        assert_eq!(windows.standing(Duration::ZERO), Standing::Dead);
    }

    #[test]
    fn what_is_left_goes_below_zero() {
        let left = |age| {
            let age = Age {
                age: Duration::from_millis(age),
                ttl: seconds(30),
            };
            age.seconds_left()
        };
        assert_eq!(
            [left(0), left(4_500), left(30_000), left(42_700)],
            [30, 26, 0, -12]
        );
    }
}
