//! Fetching an issuer's keys again and again: one fetch, what it changes, and when the next is due.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    super::{
        fetch::FetchError,
        keys::{Fault, KeySet, Read},
    },
    Inner, Provider, Spread,
    flight::{Flight, Landed},
    held::{Confirmed, Held},
};

/// The first pause after a failed fetch; each after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest while there are no keys at all.
const LONGEST_PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);
/// The pauses between attempts while a request waits.
const FIRST_URGENT_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_URGENT_PAUSE: Duration = Duration::from_millis(250);

impl Provider {
    /// Keeps the keys fresh until `stop`: fetches at half the interval, so that a provider that
    /// fails now and then is asked several times before a key has been believed for too long.
    pub(in crate::identity) fn keep_fresh(&self, spread: Spread, stop: CancellationToken) {
        let provider = self.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = provider.keep_fetching(&spread) => {}
            }
        });
    }

    async fn keep_fetching(&self, spread: &Spread) {
        let inner = &self.0;
        let mut urgent = true;
        loop {
            self.board(urgent).flight().landed.await;
            urgent = false;
            let due = inner.plan(spread);
            while inner.clock.instant() < due {
                let outdated = inner
                    .held
                    .load()
                    .as_ref()
                    .map(|held| inner.outdated_at(held));
                let wake = outdated.map_or(due, |at| at.min(due));
                inner.clock.sleep_until(wake).await;
                inner.drop_outdated();
            }
        }
    }
}

impl Inner {
    fn outdated_at(&self, held: &Held) -> Instant {
        held.confirmed().at + self.rules.keep_for
    }

    /// One fetch: one attempt or, while somebody waits, as many as fit into the timeout.
    pub(super) async fn fly(&self, flight: &Flight) -> Landed {
        let deadline = self.clock.instant() + self.rules.timeout;
        let mut pause = FIRST_URGENT_PAUSE;
        let mut cause = None;
        loop {
            let begun = Confirmed {
                at: self.clock.instant(),
                wall: self.clock.wall(),
            };
            let fetched = self.clock.before(deadline, self.fetcher.fetch()).await;
            let error = match fetched {
                Some(Ok(read)) => {
                    self.succeeded(read, begun);
                    return Landed::Fetched;
                }
                Some(Err(error)) => error,
                // An attempt that the end cut short says less than the one before it.
                None => cause.unwrap_or(FetchError::Timeout),
            };
            cause = Some(error);
            let next = self.clock.instant() + pause;
            if !flight.is_urgent() || next >= deadline {
                self.failed(error);
                return Landed::Failed;
            }
            self.clock.sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_URGENT_PAUSE);
        }
    }

    /// Puts what was read in force, as of when its fetch began.
    fn succeeded(&self, Read { keys, faults }: Read, begun: Confirmed) {
        let mut state = self.lock();
        let before = self.held.load_full();
        let unchanged = before.as_ref().filter(|before| before.keys.equals(&keys));
        let (held, result) = match unchanged {
            Some(before) => (before.confirmed_anew(begun), "unchanged"),
            None => {
                state.numbers += 1;
                self.tell_change(before.as_deref(), &keys);
                let held = Held::replacing(before.as_deref(), keys, state.numbers, begun);
                (held, "ok")
            }
        };
        self.held.store(Some(Arc::new(held)));
        self.failing.store(false, Ordering::Release);
        // Told once, not at each fetch that finds it again.
        for Fault { kid, what } in faults.iter().filter(|fault| !state.faults.contains(fault)) {
            tracing::warn!(issuer = %self.issuer, kid, what, "a key of an issuer isn't used");
        }
        state.faults = faults;
        state.failures = 0;
        if state.failing_since.take().is_some() {
            tracing::info!(issuer = %self.issuer, "an issuer's keys can be fetched again");
        }
        self.metrics.count(&self.issuer, result);
        self.metrics.set_failing(&self.issuer, false);
        let until = begun.wall + self.rules.keep_for;
        self.metrics.confirmed(&self.issuer, begun.wall, until);
    }

    fn tell_change(&self, before: Option<&Held>, keys: &KeySet) {
        let known = before.map(|before| &*before.keys);
        let added = keys.without(known).join(" ");
        let removed = known.map(|known| known.without(Some(keys)).join(" "));
        let removed = removed.unwrap_or_default();
        tracing::info!(issuer = %self.issuer, added, removed, "an issuer's keys have changed");
    }

    fn failed(&self, error: FetchError) {
        let mut state = self.lock();
        self.failing.store(true, Ordering::Release);
        state.failures = state.failures.saturating_add(1);
        let since = match state.failing_since {
            Some((since, _)) => since,
            None => {
                let standing = match self.held.load().as_ref() {
                    Some(held) if self.is_believed(held) => "its last good ones stay in force",
                    _ => "its tokens can't be judged",
                };
                tracing::warn!(issuer = %self.issuer, cause = %error, standing, "an issuer's keys can't be fetched");
                self.clock.wall()
            }
        };
        state.failing_since = Some((since, error));
        self.metrics.count(&self.issuer, "failed");
        self.metrics.set_failing(&self.issuer, true);
    }

    /// When the next fetch is due.
    fn plan(&self, spread: &Spread) -> Instant {
        let mut state = self.lock();
        let refresh = self.rules.refresh;
        let wait = match state.failures {
            0 => refresh / 2 - spread(refresh / 20),
            failures => {
                // Until the interval is over a provider that only fails now and then is asked
                // often, so that it does answer within; then it is dead, and asked ever less often.
                let longest = match self.held.load().as_ref() {
                    Some(held) if self.is_believed(held) => (refresh / 20)
                        .max(FIRST_PAUSE)
                        .max(self.age(held).saturating_sub(refresh))
                        .min(refresh),
                    _ => LONGEST_PAUSE_WITHOUT_KEYS,
                };
                let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(20));
                let half = doubled.min(longest) / 2;
                half + spread(half)
            }
        };
        let due = self.clock.instant() + wait;
        state.next_attempt = Some(due);
        due
    }

    fn drop_outdated(&self) {
        let state = self.lock();
        let outdated = matches!(self.held.load().as_ref(), Some(held) if !self.is_believed(held));
        if outdated {
            self.held.store(None);
            tracing::warn!(
                issuer = %self.issuer,
                "an issuer's keys are dropped: they couldn't be fetched for longer than auth.jwks.keep_for"
            );
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::{
        clock::Clock,
        config,
        identity::{
            fetch::{self, Fetcher, Origin},
            provider::{Metrics, held::MOST_RETIRED},
        },
    };

    fn now(clock: &Clock) -> Confirmed {
        Confirmed {
            at: clock.instant(),
            wall: clock.wall(),
        }
    }

    fn provider(clock: &Clock) -> Provider {
        provider_with(clock, config::auth::Jwks::default())
    }

    fn provider_with(clock: &Clock, rules: config::auth::Jwks) -> Provider {
        let address = "https://id.example.com/jwks"
            .parse()
            .expect("is an address");
        let fetcher = Fetcher::new(
            fetch::client().expect("TLS is there"),
            Origin::Address(address),
            rules.clone(),
            vec![Algorithm::ES256],
        );
        let metrics = Metrics::default();
        Provider::new("issuer".into(), fetcher, rules, clock.clone(), metrics)
    }

    fn keys() -> Read {
        let set = include_bytes!("../../../tests/fixtures/keys/jwks.json");
        KeySet::read(set, &[Algorithm::ES256]).expect("is a set")
    }

    #[test]
    fn a_key_is_asked_after_often_enough_in_half_an_interval() {
        let clock = Clock::manual();
        let Provider(inner) = provider(&clock);
        let whole: Spread = Arc::new(|whole| whole);
        let wait = || inner.plan(&whole).duration_since(clock.instant());
        inner.failed(FetchError::Connect);
        let mut without_keys = Vec::new();
        for _ in 0..7 {
            without_keys.push(wait().as_millis());
            inner.failed(FetchError::Connect);
        }
        assert_eq!(without_keys, [1000, 2000, 4000, 5000, 5000, 5000, 5000]);

        inner.succeeded(keys(), now(&clock));
        assert_eq!(wait(), Duration::from_secs(150 - 15));
        clock.advance(wait());
        let mut attempts = 1;
        loop {
            inner.failed(FetchError::Connect);
            clock.advance(wait());
            let held = inner.held.load_full().expect("has keys");
            if inner.age(&held) >= inner.rules.refresh {
                break;
            }
            attempts += 1;
        }
        // Where each fails half the time, all of them do in one of 8,192 intervals.
        assert!(attempts >= 13, "{attempts}");
    }

    #[test]
    fn a_dead_provider_is_asked_ever_less_often_whatever_the_interval() {
        for refresh in [10, 30, 300].map(Duration::from_secs) {
            let clock = Clock::manual();
            let rules = config::auth::Jwks {
                refresh,
                ..config::auth::Jwks::default()
            };
            let Provider(inner) = provider_with(&clock, rules);
            let least: Spread = Arc::new(|_| Duration::ZERO);
            let whole: Spread = Arc::new(|whole| whole);
            let fetches = |spread: &Spread, time: Duration| {
                let end = clock.instant() + time;
                let mut fetches = 0;
                while clock.instant() < end {
                    inner.failed(FetchError::Connect);
                    let due = inner.plan(spread);
                    clock.advance(due.duration_since(clock.instant()));
                    fetches += 1;
                }
                fetches
            };
            let hour = Duration::from_secs(3600);
            // Without keys: nobody can be served, so it is asked often, and no more than that.
            let without_keys = fetches(&least, hour);
            assert!((1400..=1450).contains(&without_keys), "{without_keys}");
            inner.succeeded(keys(), now(&clock));
            clock.advance(inner.plan(&whole).duration_since(clock.instant()));
            // The rest of the interval, in which it may be failing now and then only.
            let within = fetches(&least, refresh / 2 + refresh / 20);
            assert!((7..=30).contains(&within), "{within}");
            let first = fetches(&whole, hour);
            let most = 15 + hour.as_secs() / refresh.as_secs();
            assert!(first <= most, "{first} of {most}");
            let then = fetches(&whole, hour);
            assert_eq!(then, hour.as_secs() / refresh.as_secs());
        }
    }

    #[test]
    fn names_that_were_taken_back_are_known_and_bounded() {
        let clock = Clock::manual();
        let Provider(inner) = provider(&clock);
        let set = |kid: &str| {
            let text = include_str!("../../../tests/fixtures/keys/jwks.json").replace("ec-1", kid);
            KeySet::read(text.as_bytes(), &[Algorithm::ES256]).expect("is a set")
        };
        let retired = || {
            let held = inner.held.load_full().expect("has keys");
            held.retired().to_vec()
        };
        for kid in ["a", "a", "b", "c"] {
            inner.succeeded(set(kid), now(&clock));
        }
        assert_eq!(retired(), ["a", "b"]);
        inner.succeeded(set("a"), now(&clock));
        assert_eq!(retired(), ["b", "c"], "it is back");
        for number in 0..100 {
            inner.succeeded(set(&format!("k{number}")), now(&clock));
        }
        assert_eq!(retired().len(), MOST_RETIRED);
        assert_eq!(retired().last().map(String::as_str), Some("k98"));
    }
}
