//! One limit, kept for each key. The rule is governor's (GCRA), the time is our clock's.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{
    NotUntil, Quota, RateLimiter, clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{
        StateStore,
        keyed::{DashMapStateStore, ShrinkableKeyedStateStore},
    },
};

use crate::{clock::Clock, config::limits::RateLimit};

/// How often keys that are whole again are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// A limit on each of any number of keys.
pub(super) struct Limiter<K: Eq + Hash + Clone> {
    rule: RateLimiter<K, Kept<K>, Since, NoOpMiddleware<Nanos>>,
    kept: Kept<K>,
    since: Since,
    quota: Quota,
    /// When keys are dropped next, in nanoseconds of `since`.
    sweep_at: AtomicU64,
}

/// How a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Requests that could come now.
    pub(super) left: u32,
    /// How long until all of them are back.
    pub(super) whole_in: Duration,
    /// How long until one more may come; zero where one may come now.
    pub(super) next_in: Duration,
}

/// Each key's theoretical arrival time. The rule owns its store and shows it to nobody, so
/// it gets a handle.
struct Kept<K>(Arc<DashMapStateStore<K>>);

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Our clock as governor wants one.
#[derive(Clone)]
struct Since {
    clock: Clock,
    origin: Instant,
}

impl clock::Clock for Since {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.clock
            .instant()
            .saturating_duration_since(self.origin)
            .into()
    }
}

impl<K: Eq + Hash + Clone> StateStore for Kept<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, measure)
    }
}

impl<K: Eq + Hash + Clone> ShrinkableKeyedStateStore<K> for Kept<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        ShrinkableKeyedStateStore::retain_recent(&*self.0, drop_below);
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(&*self.0)
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(&*self.0)
    }
}

impl<K: Eq + Hash + Clone> Kept<K> {
    fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// The key's theoretical arrival time, left as it is.
    fn arrival(&self, key: &K) -> Option<Nanos> {
        // Measuring makes an entry where there is none.
        if !self.contains(key) {
            return None;
        }
        self.measure_and_replace(key, Err::<((), Nanos), _>)
            .err()
            .flatten()
    }
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    pub(super) fn new(limit: RateLimit, clock: Clock) -> Self {
        let interval = limit.per / limit.requests.max(1);
        let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
        // The check of the configuration keeps the product far from overflowing.
        let quota = Quota::with_period(interval.max(Duration::from_nanos(1)))
            .unwrap_or(Quota::per_second(burst))
            .allow_burst(burst);
        let since = Since {
            origin: clock.instant(),
            clock,
        };
        let kept = Kept(Arc::default());
        Self {
            rule: RateLimiter::new(quota, kept.clone(), since.clone()),
            kept,
            since,
            quota,
            sweep_at: AtomicU64::new(nanos(SWEEP)),
        }
    }

    /// Counts one request of the key.
    ///
    /// # Errors
    /// One too many, which isn't counted: how long until the next may come.
    pub(super) fn spend(&self, key: &K) -> Result<(), Duration> {
        self.sweep_if_due();
        self.rule
            .check_key(key)
            .map_err(|refused: NotUntil<Nanos>| refused.wait_time_from(self.now()))
    }

    /// How the key stands; nothing is counted.
    pub(super) fn standing(&self, key: &K) -> Standing {
        let burst = self.quota.burst_size().get();
        let interval = nanos(self.quota.replenish_interval());
        let now = self.now().as_u64();
        let arrival = self.kept.arrival(key).map_or(now, Nanos::as_u64);
        let debt = arrival.saturating_sub(now);
        let whole = interval.saturating_mul(u64::from(burst));
        let left = whole.saturating_sub(debt) / interval;
        Standing {
            left: u32::try_from(left).unwrap_or(burst).min(burst),
            whole_in: Duration::from_nanos(debt),
            next_in: Duration::from_nanos(debt.saturating_sub(whole - interval)),
        }
    }

    /// Whether the key has been counted lately.
    pub(super) fn knows(&self, key: &K) -> bool {
        self.kept.contains(key)
    }

    /// How many keys are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Drops the keys that are whole again, where that wasn't done for a while.
    fn sweep_if_due(&self) {
        let (now, due) = (self.now().as_u64(), self.sweep_at.load(Ordering::Relaxed));
        let next = now.saturating_add(nanos(SWEEP));
        // One of those who see that it is time does it.
        if now >= due
            && self
                .sweep_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.rule.retain_recent();
        }
    }

    fn now(&self) -> Nanos {
        clock::Clock::now(&self.since)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests: u32, seconds: u64, burst: u32) -> (Limiter<u32>, Clock) {
        let clock = Clock::manual();
        let per = Duration::from_secs(seconds);
        let limit = RateLimit {
            requests,
            per,
            burst,
        };
        (Limiter::new(limit, clock.clone()), clock)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_may_come_at_once_and_comes_back_one_by_one() {
        let (limiter, clock) = limiter(120, 60, 3);
        let whole = Standing {
            left: 3,
            whole_in: Duration::ZERO,
            next_in: Duration::ZERO,
        };
        assert_eq!(limiter.standing(&1), whole);
        assert!(!limiter.knows(&1), "looking counts nothing");
        for left in [2, 1, 0] {
            assert_eq!(limiter.spend(&1), Ok(()));
            assert_eq!(limiter.standing(&1).left, left);
        }
        assert_eq!(limiter.spend(&1), Err(ms(500)));
        assert_eq!(limiter.standing(&1).whole_in, ms(1500));
        assert_eq!(limiter.standing(&1).next_in, ms(500));
        assert_eq!(limiter.standing(&2), whole, "another's isn't touched");
        clock.advance(ms(499));
        assert_eq!(limiter.spend(&1), Err(ms(1)));
        clock.advance(ms(1));
        assert_eq!(limiter.standing(&1).next_in, Duration::ZERO);
        assert_eq!(limiter.spend(&1), Ok(()));
        assert_eq!(limiter.spend(&1), Err(ms(500)));
        clock.advance(ms(1500));
        assert_eq!(limiter.standing(&1), whole);
    }

    #[test]
    fn no_minute_gets_more_than_the_rate_and_a_burst() {
        let (limiter, clock) = limiter(60, 60, 5);
        let mut passed = 0;
        for _ in 0..6000 {
            passed += u32::from(limiter.spend(&1).is_ok());
            clock.advance(ms(10));
        }
        assert_eq!(passed, 60 + 4);
    }

    #[test]
    fn keys_that_are_whole_again_are_dropped_and_others_stay() {
        let (limiter, clock) = limiter(60, 60, 300);
        for key in 0..1000 {
            assert_eq!(limiter.spend(&key), Ok(()));
        }
        for _ in 0..200 {
            assert_eq!(limiter.spend(&0), Ok(()));
        }
        assert_eq!(limiter.len(), 1000);
        clock.advance(SWEEP);
        assert_eq!(limiter.spend(&1), Ok(()));
        assert_eq!(limiter.len(), 2);
        assert_eq!(limiter.standing(&0).left, 300 - 201 + 60);
    }

    #[test]
    fn the_extremes_that_the_configuration_lets_through_dont_overflow() {
        const DAY: u64 = 24 * 3600;
        for (requests, seconds, burst) in [
            (1, DAY, 1),
            (1, 1, 86_400),
            (u32::MAX, 1, u32::MAX),
            (u32::MAX, DAY, u32::MAX),
        ] {
            let (limiter, clock) = limiter(requests, seconds, burst);
            assert_eq!(limiter.spend(&1), Ok(()));
            let standing = limiter.standing(&1);
            assert_eq!(standing.left, burst - 1);
            assert!(standing.whole_in <= Duration::from_secs(DAY));
            clock.advance(Duration::from_secs(10 * DAY));
            assert_eq!(limiter.spend(&1), Ok(()));
        }
    }
}
