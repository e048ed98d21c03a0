//! What may be sent again, how soon, and how often: contract section 8.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::Failure;

/// Requests in all, the first one included, where the ERP fails.
pub(super) const MAX_ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// What a request does at the ERP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it may be sent again.
    Read,
    /// A change: it may be sent again only where it certainly wasn't taken.
    Write,
}

/// Why a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No connection, or one that broke too soon: nothing was sent that could be taken.
    Connect,
    /// 502, 503 or 504.
    Unavailable,
    /// 429. The credential's pause says when, and bounds how much is sent.
    RateLimited,
}

impl Reason {
    /// Every one.
    pub(super) const ALL: [Self; 3] = [Self::Connect, Self::Unavailable, Self::RateLimited];

    /// Its word in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unavailable => "unavailable",
            Self::RateLimited => "rate-limited",
        }
    }
}

/// Whether what failed so may be sent again.
pub(super) fn reason(effect: Effect, failure: &Failure) -> Option<Reason> {
    match (failure, effect) {
        (Failure::Connect | Failure::Unsent, _) => Some(Reason::Connect),
        (Failure::RateLimited { .. }, _) => Some(Reason::RateLimited),
        (Failure::Status(502..=504), Effect::Read) => Some(Reason::Unavailable),
        // Nothing of the request was sent, so a write is as good as a read.
        (Failure::Login(failure), _) => reason(Effect::Read, failure),
        _ => None,
    }
}

/// How long to wait at most before attempt number `attempt + 1`.
pub(super) fn backoff(attempt: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(1 << attempt.saturating_sub(1).min(10))
        .min(LONGEST_BACKOFF)
}

/// One retry for five requests, saved up to ten: a failing ERP sees at most 1.2 times
/// the load.
#[derive(Debug, Default)]
pub(super) struct Budget {
    fifths: u32,
}

impl Budget {
    const RETRY: u32 = 5;
    const MOST: u32 = 10 * Self::RETRY;

    /// A request was made for the first time.
    pub(super) fn deposit(&mut self) {
        self.fifths = (self.fifths + 1).min(Self::MOST);
    }

    /// Whether a retry may be made; then it is counted.
    pub(super) fn withdraw(&mut self) -> bool {
        match self.fifths.checked_sub(Self::RETRY) {
            Some(left) => {
                self.fifths = left;
                true
            }
            None => false,
        }
    }
}

/// Full jitter: anything from nothing to the whole (Brooker, *Exponential Backoff
/// and Jitter*, 2015). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jitter(Option<Arc<Mutex<fastrand::Rng>>>);

impl Jitter {
    /// Different every time.
    #[must_use]
    pub fn random() -> Self {
        Self(Some(Arc::new(Mutex::new(fastrand::Rng::new()))))
    }

    /// The same sequence every time, for tests.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)))))
    }

    /// Always the whole, for tests.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A part of that duration.
    #[must_use]
    pub fn of(&self, whole: Duration) -> Duration {
        match &self.0 {
            None => whole,
            Some(random) => {
                let part = random.lock().unwrap_or_else(PoisonError::into_inner).f64();
                whole.mul_f64(part)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_sent_again_only_where_it_wasnt_taken() {
        let limited = Failure::RateLimited { retry_after: None };
        for (failure, read, write) in [
            (Failure::Connect, true, true),
            (limited, true, true),
            (Failure::Status(502), true, false),
            (Failure::Status(503), true, false),
            (Failure::Status(504), true, false),
            (Failure::Status(500), false, false),
            (Failure::Status(302), false, false),
            (Failure::Broken, false, false),
            (Failure::Timeout, false, false),
            (Failure::NotFound, false, false),
            (Failure::CredentialRejected(401), false, false),
            (Failure::Login(Box::new(Failure::Status(503))), true, true),
            (Failure::Login(Box::new(Failure::Timeout)), false, false),
        ] {
            assert_eq!(reason(Effect::Read, &failure).is_some(), read, "{failure}");
            assert_eq!(
                reason(Effect::Write, &failure).is_some(),
                write,
                "{failure}"
            );
        }
    }

    #[test]
    fn retries_are_a_fifth_of_the_requests_at_most() {
        let mut budget = Budget::default();
        let (mut requests, mut retries) = (0, 0);
        for _ in 0..10_000 {
            requests += 1;
            budget.deposit();
            while budget.withdraw() {
                retries += 1;
            }
            assert!(retries * 5 <= requests);
        }
        assert_eq!(retries, 2_000);
        for _ in 0..10_000 {
            budget.deposit();
        }
        assert_eq!((0..).take_while(|_| budget.withdraw()).count(), 10);
    }

    #[test]
    fn waits_double_up_to_a_bound_and_jitter_only_shortens_them() {
        let waits: Vec<_> = (1..7).map(|at| backoff(at).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000]);
        let jitter = Jitter::seeded(7);
        let parts: Vec<_> = (0..1000).map(|_| jitter.of(LONGEST_BACKOFF)).collect();
        assert!(parts.iter().all(|part| *part <= LONGEST_BACKOFF));
        assert!(parts.iter().any(|part| *part < LONGEST_BACKOFF / 10));
        assert!(parts.iter().any(|part| *part > LONGEST_BACKOFF * 9 / 10));
    }
}
