//! The keys of an issuer that publishes them over the network: fetched in the background,
//! fetched at once for a token whose key isn't known, and kept while the provider is down.
//!
//! All fetches of an issuer go one after another: whoever needs one joins the one that is under
//! way. What a fetch finds is in force for everybody at the same moment, and gets a new version
//! only where the keys have changed, so that remembered tokens stay remembered.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{clock::Clock, config};

use super::{
    Refused,
    bucket::Bucket,
    fetch::{FetchError, Fetcher},
    keys::{Fault, KeySet, Read},
    token::{Doubt, Proved, Unproved},
};

/// The first pause after a failed fetch; each after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest while there are no keys at all.
const LONGEST_PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);
/// The pauses between attempts while a request waits.
const FIRST_URGENT_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_URGENT_PAUSE: Duration = Duration::from_millis(250);
/// When to come back where nothing is planned, and at the latest: tokens cause a fetch that often.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);

/// A part of a duration, by chance: so that replicas don't all ask at the same moment.
pub type Spread = Arc<dyn Fn(Duration) -> Duration + Send + Sync>;

/// So many names of keys that were taken back are known.
const MOST_RETIRED: usize = 64;

/// Keys in force.
pub(super) struct Held {
    pub keys: Arc<KeySet>,
    /// Another set of keys has another.
    pub version: u64,
    /// The names of keys that were taken back, the latest last. After a rotation, old tokens go
    /// on coming for as long as they last; they must not use up the fetches that tokens of a
    /// new key need.
    retired: Arc<[String]>,
    /// When the fetch began that brought them or found them unchanged.
    confirmed: Instant,
    confirmed_wall: SystemTime,
}

/// Keys as they are now.
pub(super) enum Current {
    /// Confirmed within the interval, or the last good ones of a provider that fails.
    Good(Arc<Held>),
    /// A fetch is due that nobody has begun, as after the machine slept.
    Overdue,
    /// None yet, or none any more.
    None,
}

/// One issuer's keys. Cheap to clone.
#[derive(Clone)]
pub(super) struct Provider(Arc<Inner>);

struct Inner {
    issuer: Arc<str>,
    fetcher: Fetcher,
    rules: config::auth::Jwks,
    clock: Clock,
    held: ArcSwapOption<Held>,
    /// Whether the last fetch failed.
    failing: AtomicBool,
    state: Mutex<State>,
    metrics: Metrics,
    /// Fetches under way. Nobody waits for them at the end of the process.
    tasks: TaskTracker,
}

struct State {
    flight: Option<Flight>,
    /// Of flights and of versions.
    numbers: u64,
    for_tokens: Bucket,
    failures: u32,
    failing_since: Option<(SystemTime, FetchError)>,
    next_attempt: Option<Instant>,
    faults: Vec<Fault>,
}

#[derive(Clone)]
struct Flight {
    number: u64,
    landed: Shared<BoxFuture<'static, Landed>>,
    /// Whether somebody waits, so that a failure is worth another attempt at once.
    urgent: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Landed {
    Fetched,
    Failed,
}

/// A fetch to wait for.
enum Boarded {
    /// It was under way, and may have read what was published before.
    Joined(Flight),
    Begun(Flight),
}

/// What an operator is told of an issuer whose keys are fetched.
#[derive(Debug, Clone)]
pub struct Standing {
    /// `iss`.
    pub issuer: Arc<str>,
    /// How many keys are in force.
    pub keys: usize,
    /// When they were confirmed, or the last ones were.
    pub confirmed: Option<SystemTime>,
    /// Since when fetches fail, and why the last one did.
    pub failing: Option<(SystemTime, String)>,
}

/// Counts fetches, by issuer.
#[derive(Clone, Default)]
pub(super) struct Metrics {
    refreshes: Family<RefreshLabels, Counter>,
    last_success: Family<IssuerLabel, Gauge>,
    failing: Family<IssuerLabel, Gauge>,
    expiry: Family<IssuerLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    issuer: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: Arc<str>,
}

impl Metrics {
    pub(super) fn register(&self, metrics: &mut MetricRegistry) {
        metrics.register(
            "llavero_jwks_refresh",
            "Fetches of issuers' keys: ok brought other keys, unchanged the same, failed none",
            self.refreshes.clone(),
        );
        metrics.register(
            "llavero_jwks_last_success_timestamp_seconds",
            "When issuers' keys were last fetched; 0 where they never were",
            self.last_success.clone(),
        );
        metrics.register(
            "llavero_jwks_failing",
            "Whether the last fetch of an issuer's keys failed",
            self.failing.clone(),
        );
        metrics.register(
            "llavero_jwks_expiry_timestamp_seconds",
            "When issuers' keys are believed no more if no fetch succeeds; 0 where there never were any",
            self.expiry.clone(),
        );
    }

    fn count(&self, issuer: &Arc<str>, result: &'static str) {
        let issuer = issuer.clone();
        self.refreshes
            .get_or_create(&RefreshLabels { issuer, result })
            .inc();
    }

    fn set_failing(&self, issuer: &Arc<str>, failing: bool) {
        let issuer = issuer.clone();
        self.failing
            .get_or_create(&IssuerLabel { issuer })
            .set(failing.into());
    }

    fn confirmed(&self, issuer: &Arc<str>, at: SystemTime, until: SystemTime) {
        let issuer = issuer.clone();
        let label = IssuerLabel { issuer };
        self.last_success
            .get_or_create(&label)
            .set(unix_seconds(at));
        self.expiry.get_or_create(&label).set(unix_seconds(until));
    }
}

fn unix_seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok();
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

impl Provider {
    pub(super) fn new(
        issuer: Arc<str>,
        fetcher: Fetcher,
        rules: config::auth::Jwks,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        // Every series is there from the start, so that a first failure is an increase.
        for result in ["ok", "unchanged", "failed"] {
            let issuer = issuer.clone();
            let labels = RefreshLabels { issuer, result };
            let _ = metrics.refreshes.get_or_create(&labels);
        }
        metrics.set_failing(&issuer, false);
        metrics.confirmed(&issuer, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        let state = State {
            flight: None,
            numbers: 0,
            for_tokens: Bucket::full(clock.instant()),
            failures: 0,
            failing_since: None,
            next_attempt: None,
            faults: Vec::new(),
        };
        Self(Arc::new(Inner {
            issuer,
            fetcher,
            rules,
            clock,
            held: ArcSwapOption::empty(),
            failing: AtomicBool::new(false),
            state: Mutex::new(state),
            metrics,
            tasks: TaskTracker::new(),
        }))
    }

    /// The keys in force.
    pub(super) fn current(&self) -> Current {
        let Some(held) = self.0.held.load_full() else {
            return Current::None;
        };
        let age = self.0.age(&held);
        if age >= self.0.rules.keep_for {
            Current::None
        } else if age >= self.0.rules.refresh && !self.0.failing.load(Ordering::Acquire) {
            Current::Overdue
        } else {
            Current::Good(held)
        }
    }

    /// What the token says, and the version of the keys that prove it. Where no key that is
    /// known can prove it, the provider may be asked.
    pub(super) async fn prove(&self, token: &Unproved<'_>) -> Result<(Proved, u64), Refused> {
        let inner = &self.0;
        let deadline = inner.clock.instant() + inner.rules.timeout;
        if matches!(self.current(), Current::Overdue) {
            let (Boarded::Joined(flight) | Boarded::Begun(flight)) = self.board(false);
            inner.clock.before(deadline, flight.landed).await;
        }
        let mut doubt = match self.judge(token) {
            Ok(proved) => return Ok(proved),
            Err(Some(doubt)) if !doubt.key_may_be_new => return Err(doubt.invalid.into()),
            Err(doubt) => doubt,
        };
        let mut looked_up = false;
        // A fetch that was under way may have read what was published before the token was
        // signed; the one after it can't have.
        for is_second in [false, true] {
            let (flight, is_recent) = match self.board_for_a_token() {
                Some(Boarded::Joined(flight)) => (flight, is_second),
                Some(Boarded::Begun(flight)) => (flight, true),
                None => {
                    looked_up = !inner.failing.load(Ordering::Acquire);
                    break;
                }
            };
            let landed = inner.clock.before(deadline, flight.landed).await;
            doubt = match self.judge(token) {
                Ok(proved) => return Ok(proved),
                Err(doubt) => doubt,
            };
            looked_up = is_recent && landed == Some(Landed::Fetched);
            if is_recent || landed.is_none() {
                break;
            }
        }
        match doubt {
            Some(doubt) if looked_up => Err(doubt.invalid.into()),
            // What couldn't be looked up isn't known to be wrong.
            _ => Err(self.unavailable()),
        }
    }

    /// Whether the keys in force prove the token; no doubt either where there are none.
    fn judge(&self, token: &Unproved<'_>) -> Result<(Proved, u64), Option<Doubt>> {
        // Keys that are overdue still are the last good ones.
        let held = self
            .0
            .held
            .load_full()
            .filter(|held| self.0.is_believed(held));
        let held = held.ok_or(None)?;
        let is_retired = |kid| held.retired.iter().any(|retired| retired == kid);
        let proved = token.prove(&held.keys).map_err(|doubt| {
            let key_may_be_new = doubt.key_may_be_new && !token.kid().is_some_and(is_retired);
            Some(Doubt {
                key_may_be_new,
                ..doubt
            })
        })?;
        Ok((proved, held.version))
    }

    fn unavailable(&self) -> Refused {
        let now = self.0.clock.instant();
        let planned = self.0.lock().next_attempt;
        let retry_after = planned
            .filter(|at| *at > now)
            .map_or(LONGEST_RETRY_AFTER, |at| at.duration_since(now))
            .min(LONGEST_RETRY_AFTER);
        Refused::Unavailable { retry_after }
    }

    /// The flight under way, or a new one.
    fn board(&self, urgent: bool) -> Boarded {
        let mut state = self.0.lock();
        self.join(&state, urgent)
            .unwrap_or_else(|| self.begin(&mut state, urgent))
    }

    /// The same for a token; none where tokens have caused too many.
    fn board_for_a_token(&self) -> Option<Boarded> {
        let mut state = self.0.lock();
        if let Some(joined) = self.join(&state, true) {
            return Some(joined);
        }
        let now = self.0.clock.instant();
        state
            .for_tokens
            .take(now)
            .then(|| self.begin(&mut state, true))
    }

    fn join(&self, state: &State, urgent: bool) -> Option<Boarded> {
        let flight = state.flight.clone()?;
        if urgent {
            flight.urgent.store(true, Ordering::Release);
        }
        Some(Boarded::Joined(flight))
    }

    fn begin(&self, state: &mut State, urgent: bool) -> Boarded {
        state.numbers += 1;
        let (sender, receiver) = oneshot::channel();
        let flight = Flight {
            number: state.numbers,
            landed: receiver
                .map(|landed| landed.unwrap_or(Landed::Failed))
                .boxed()
                .shared(),
            urgent: Arc::new(AtomicBool::new(urgent)),
        };
        state.flight = Some(flight.clone());
        let landing = Landing {
            inner: self.0.clone(),
            number: flight.number,
        };
        let urgent = flight.urgent.clone();
        self.0.tasks.spawn(async move {
            let landed = landing.inner.fly(&urgent).await;
            drop(landing);
            // Everybody may have left.
            let _ = sender.send(landed);
        });
        Boarded::Begun(flight)
    }

    /// Keeps the keys fresh until `stop`: fetches at half the interval, so that a provider that
    /// fails now and then is asked several times before a key has been believed for too long.
    pub(super) fn keep_fresh(&self, spread: Spread, stop: CancellationToken) {
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
            let (Boarded::Joined(flight) | Boarded::Begun(flight)) = self.board(urgent);
            flight.landed.await;
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

    /// One fetch, for a check of the configuration: how many keys there are.
    pub(super) async fn try_once(&self) -> Result<usize, String> {
        let (Boarded::Joined(flight) | Boarded::Begun(flight)) = self.board(false);
        let landed = flight.landed.await;
        let standing = self.standing();
        match (landed, standing.failing) {
            (Landed::Failed, Some((_, cause))) => Err(cause),
            (Landed::Failed, None) => Err("the fetch was ended".to_owned()),
            (Landed::Fetched, _) => Ok(standing.keys),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let held = self.0.held.load_full();
        let believed = held.as_ref().filter(|held| self.0.is_believed(held));
        let failing = self.0.lock().failing_since;
        Standing {
            issuer: self.0.issuer.clone(),
            keys: believed.map_or(0, |held| held.keys.len()),
            confirmed: held.map(|held| held.confirmed_wall),
            failing: failing.map(|(since, cause)| (since, cause.to_string())),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self, held: &Held) -> Duration {
        self.clock
            .instant()
            .saturating_duration_since(held.confirmed)
    }

    fn is_believed(&self, held: &Held) -> bool {
        self.age(held) < self.rules.keep_for
    }

    fn outdated_at(&self, held: &Held) -> Instant {
        held.confirmed + self.rules.keep_for
    }

    /// One fetch: one attempt or, while somebody waits, as many as fit into the timeout.
    async fn fly(&self, urgent: &AtomicBool) -> Landed {
        let deadline = self.clock.instant() + self.rules.timeout;
        let mut pause = FIRST_URGENT_PAUSE;
        let mut cause = None;
        loop {
            let (begun, begun_wall) = (self.clock.instant(), self.clock.wall());
            let fetched = self.clock.before(deadline, self.fetcher.fetch()).await;
            let error = match fetched {
                Some(Ok(read)) => {
                    self.succeeded(read, begun, begun_wall);
                    return Landed::Fetched;
                }
                Some(Err(error)) => error,
                // An attempt that the end cut short says less than the one before it.
                None => cause.unwrap_or(FetchError::Timeout),
            };
            cause = Some(error);
            let next = self.clock.instant() + pause;
            if !urgent.load(Ordering::Acquire) || next >= deadline {
                self.failed(error);
                return Landed::Failed;
            }
            self.clock.sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_URGENT_PAUSE);
        }
    }

    fn succeeded(&self, Read { keys, faults }: Read, begun: Instant, begun_wall: SystemTime) {
        let mut state = self.lock();
        let before = self.held.load_full();
        let unchanged = before.as_ref().filter(|before| before.keys.equals(&keys));
        let held = match unchanged {
            Some(before) => Held {
                keys: before.keys.clone(),
                version: before.version,
                retired: before.retired.clone(),
                confirmed: begun,
                confirmed_wall: begun_wall,
            },
            None => {
                state.numbers += 1;
                let known = before.as_ref().map(|before| &*before.keys);
                let added = keys.without(known).join(" ");
                let removed = known.map(|known| known.without(Some(&keys)).join(" "));
                let removed = removed.unwrap_or_default();
                tracing::info!(issuer = %self.issuer, added, removed, "an issuer's keys have changed");
                Held {
                    retired: retired(before.as_deref(), &keys),
                    keys: Arc::new(keys),
                    version: state.numbers,
                    confirmed: begun,
                    confirmed_wall: begun_wall,
                }
            }
        };
        let result = if unchanged.is_some() {
            "unchanged"
        } else {
            "ok"
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
        let until = begun_wall + self.rules.keep_for;
        self.metrics.confirmed(&self.issuer, begun_wall, until);
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

/// The names of keys that were in force once and aren't among those.
fn retired(before: Option<&Held>, keys: &KeySet) -> Arc<[String]> {
    let Some(before) = before else {
        return Arc::default();
    };
    let mut retired: Vec<String> = Vec::new();
    let earlier = before.retired.iter().map(String::as_str);
    for id in earlier.chain(before.keys.ids()) {
        if !keys.ids().any(|present| present == id) {
            retired.push(id.to_owned());
        }
    }
    let forgotten = retired.len().saturating_sub(MOST_RETIRED);
    retired.drain(..forgotten);
    retired.into()
}

/// Takes a flight off when it ends, panics included.
struct Landing {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if state.flight.as_ref().map(|flight| flight.number) == Some(self.number) {
            state.flight = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::identity::fetch::{self, Origin};

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
        let set = include_bytes!("../../tests/fixtures/keys/jwks.json");
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

        inner.succeeded(keys(), clock.instant(), clock.wall());
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
            inner.succeeded(keys(), clock.instant(), clock.wall());
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
            let text = include_str!("../../tests/fixtures/keys/jwks.json").replace("ec-1", kid);
            KeySet::read(text.as_bytes(), &[Algorithm::ES256]).expect("is a set")
        };
        let retired = || {
            let held = inner.held.load_full().expect("has keys");
            held.retired.to_vec()
        };
        for kid in ["a", "a", "b", "c"] {
            inner.succeeded(set(kid), clock.instant(), clock.wall());
        }
        assert_eq!(retired(), ["a", "b"]);
        inner.succeeded(set("a"), clock.instant(), clock.wall());
        assert_eq!(retired(), ["b", "c"], "it is back");
        for number in 0..100 {
            inner.succeeded(set(&format!("k{number}")), clock.instant(), clock.wall());
        }
        assert_eq!(retired().len(), MOST_RETIRED);
        assert_eq!(retired().last().map(String::as_str), Some("k98"));
    }
}
