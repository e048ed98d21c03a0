//! The keys of an issuer that publishes them over the network: fetched in the background (`refresh.rs`), fetched at once
//! for a token whose key isn't known (`prove.rs`), and kept while the provider is down.
//!
//! All fetches of an issuer go one after another: whoever needs one joins the one that is under way (`flight.rs`). What a
//! fetch finds is in force for everybody at the same moment (`held.rs`), and gets a new version only where the keys have
//! changed, so that remembered tokens stay remembered.

mod flight;
mod held;
mod metrics;
mod prove;
mod refresh;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio_util::task::TaskTracker;

use crate::{clock::Clock, config};

use super::{
    bucket::Bucket,
    fetch::{FetchError, Fetcher},
    keys::Fault,
};

use flight::{Boarded, Flight, Landed};
use held::Held;
pub(super) use metrics::Metrics;

/// A part of a duration, by chance: so that replicas don't all ask at the same moment.
pub type Spread = Arc<dyn Fn(Duration) -> Duration + Send + Sync>;

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

impl Provider {
    pub(super) fn new(
        issuer: Arc<str>,
        fetcher: Fetcher,
        rules: config::auth::Jwks,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        metrics.begin(&issuer);
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

    /// The flight under way, or a new one.
    fn board(&self, urgent: bool) -> Boarded {
        let mut state = self.0.lock();
        self.join(&state, urgent)
            .unwrap_or_else(|| self.begin(&mut state, urgent))
    }

    fn join(&self, state: &State, urgent: bool) -> Option<Boarded> {
        let flight = state.flight.clone()?;
        if urgent {
            flight.becomes_urgent();
        }
        Some(Boarded::Joined(flight))
    }

    fn begin(&self, state: &mut State, urgent: bool) -> Boarded {
        state.numbers += 1;
        let (flight, sender) = Flight::new(state.numbers, urgent);
        state.flight = Some(flight.clone());
        let landing = Landing {
            inner: self.0.clone(),
            number: flight.number,
        };
        let begun = flight.clone();
        self.0.tasks.spawn(async move {
            let landed = landing.inner.fly(&begun).await;
            drop(landing);
            // Everybody may have left.
            let _ = sender.send(landed);
        });
        Boarded::Begun(flight)
    }

    /// One fetch, for a check of the configuration: how many keys there are.
    pub(super) async fn try_once(&self) -> Result<usize, String> {
        let landed = self.board(false).flight().landed.await;
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
            confirmed: held.map(|held| held.confirmed().wall),
            failing: failing.map(|(since, cause)| (since, cause.to_string())),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self, held: &Held) -> Duration {
        held.age(self.clock.instant())
    }

    fn is_believed(&self, held: &Held) -> bool {
        self.age(held) < self.rules.keep_for
    }
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
