//! The read: fresh from the cache, old while a new answer is fetched behind it, or from the one fetch that equal
//! requests share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    cache::{self, Entry, Generation, Representation},
    caller::Permit,
    operation::{Effect, FreshnessClass},
    telemetry::traces::Context,
    upstream::{Failure, Lane, Party, Request, Target},
};

use super::{
    Age, Exchange, ExchangeError, Fetched, Parts, ResultLabel, Served, Standing, Subject, Unfit,
    Verdict, Why, Windows, collapse::Role, lane_of,
};

/// An answer over this many bytes is translated where it holds up nobody else's requests.
const LARGE_ANSWER: usize = 512 * 1024;

/// What to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where it is at the ERP.
    pub target: Target,
    /// What it is about.
    pub subject: Subject,
    /// What the caller takes from the cache.
    pub wanted: Wanted,
}

/// What a caller takes from the cache (RFC 9111 §5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Nothing older: `max-age`, or nothing at all for `no-cache`.
    pub max_age: Option<Duration>,
    /// Nothing else: `only-if-cached`.
    pub only_if_cached: bool,
}

impl Wanted {
    /// Only what the ERP says now.
    pub const FROM_UPSTREAM: Self = Self {
        max_age: Some(Duration::ZERO),
        only_if_cached: false,
    };

    fn allows(self, age: Duration) -> bool {
        self.max_age
            .is_none_or(|most| age <= most && !most.is_zero())
    }
}

/// Equal requests that may share a fetch. One that began in an earlier generation,
/// or that wasn't asked to go to the ERP, isn't equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    key: cache::Key,
    generation: Generation,
    from_upstream: bool,
    /// A look that a change depends on shares nothing: an equal fetch may have begun
    /// before what it must see.
    alone: Option<u64>,
}

/// A fetch's answer.
#[derive(Clone)]
pub(super) struct Landed {
    entry: Entry,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Stored,
    NotStored,
    /// An earlier fetch had stored it by then.
    WasThere,
}

type BoxedFetch = BoxFuture<'static, Result<Landed, ExchangeError>>;

impl Exchange {
    /// The answer to a read: `translate` makes the public body from the ERP's.
    ///
    /// # Errors
    /// What the ERP or the way to it did, or what `translate` found.
    pub async fn read<T>(
        &self,
        permit: &Permit,
        read: Read,
        translate: T,
    ) -> Result<Served, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let mut span = permit.trace().child("cache");
        let outcome = self.look_up(permit, span.context(), read, translate).await;
        match &outcome {
            Ok(served) => span.set("llavero.cache.result", served.verdict.as_str()),
            Err(error) => span.fail((self.0.code_of)(error)),
        }
        outcome
    }

    /// The kept answer, or what a fetch below that place in the trace brings.
    async fn look_up<T>(
        &self,
        permit: &Permit,
        within: Context,
        read: Read,
        translate: T,
    ) -> Result<Served, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let parts = &self.0;
        let windows = parts.windows_of(permit);
        let wanted = read.wanted;
        let key = cache::Key::new(permit.viewer(), read.target.canonical());
        let generation = parts.generation_of(permit, read.subject);

        let kept = parts.cache.get(&key);
        let usable = kept.as_ref().and_then(|entry| {
            let age = parts.age(entry);
            let current = entry.generation == generation && wanted.allows(age);
            current.then(|| windows.standing(age))
        });
        match (&kept, usable) {
            (Some(entry), Some(Standing::Fresh)) => {
                return Ok(parts.served(entry, windows, Verdict::Hit));
            }
            (Some(entry), Some(Standing::Stale)) => {
                if !wanted.only_if_cached {
                    let flight = Flight {
                        key,
                        generation,
                        from_upstream: false,
                        alone: None,
                    };
                    let fetch =
                        parts.fetch(permit, within, read, windows, flight.clone(), translate);
                    parts.flights.start(flight, Lane::Refresh, fetch);
                }
                return Ok(parts.served(entry, windows, Verdict::StaleWhileRevalidate));
            }
            _ if wanted.only_if_cached => return Err(ExchangeError::NotCached),
            _ => {}
        }

        let why = match &kept {
            _ if wanted.max_age == Some(Duration::ZERO) => Why::Request,
            None => Why::UriMiss,
            Some(entry) if !wanted.allows(parts.age(entry)) => Why::Request,
            Some(_) => Why::Stale,
        };
        let subject = read.subject;
        let flight = Flight {
            key: key.clone(),
            generation,
            from_upstream: why == Why::Request,
            alone: matches!(permit.operation().effect, Effect::Write).then(|| parts.next()),
        };
        let fetch = parts.fetch(permit, within, read, windows, flight.clone(), translate);
        let (outcome, role) = parts.flights.join(flight, lane_of(permit), fetch).await;
        match outcome.unwrap_or(Err(ExchangeError::Interrupted)) {
            Ok(landed) => {
                let fetched = match (role, landed.how) {
                    (Role::Leader, How::WasThere) => {
                        return Ok(parts.served(&landed.entry, windows, Verdict::Hit));
                    }
                    (Role::Follower, _) => Fetched::Collapsed,
                    (Role::Leader, How::Stored) => Fetched::Stored,
                    (Role::Leader, How::NotStored) => Fetched::NotStored,
                };
                let verdict = Verdict::Forwarded(why, fetched);
                Ok(parts.served(&landed.entry, windows, verdict))
            }
            Err(error) if error.is_outage() && why != Why::Request => parts
                .last_resort(&key, parts.generation_of(permit, subject), windows)
                .ok_or(error),
            Err(error) => Err(error),
        }
    }
}

impl Parts {
    /// The fetch of a flight, to be begun where no equal one is under way.
    fn fetch<T>(
        self: &Arc<Self>,
        permit: &Permit,
        within: Context,
        read: Read,
        windows: Windows,
        flight: Flight,
        translate: T,
    ) -> impl FnOnce(Party, CancellationToken) -> BoxedFetch + use<T>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let (this, permit) = (self.clone(), permit.clone());
        let span = tracing::Span::current();
        move |party, abandoned| {
            let fetch = async move {
                // Another fetch may have landed between the look into the cache and this.
                if let Some(entry) = this.cache.get(&flight.key)
                    && !flight.from_upstream
                    && entry.generation == flight.generation
                    && windows.standing(this.age(&entry)) == Standing::Fresh
                {
                    let how = How::WasThere;
                    return Ok(Landed { entry, how });
                }
                let request = Request {
                    clave: permit.tenant().clave(),
                    credential: permit.credential(),
                    target: &read.target,
                    party: &party,
                    abandoned: &abandoned,
                    waited: Duration::ZERO,
                    trace: &within,
                };
                let asked = this.next();
                let now = this.clock.instant();
                let settled = this
                    .generations
                    .is_settled(permit.tenant().id(), read.subject, now);
                let answer = this.upstream.get(request).await.inspect_err(|failure| {
                    // What is gone, or not ours to see any more, isn't brought back by an outage.
                    if matches!(failure, Failure::NotFound | Failure::CredentialRejected(_)) {
                        this.cache.remove(flight.key.clone(), asked);
                    }
                })?;
                let representation = if answer.len() > LARGE_ANSWER {
                    tokio::task::spawn_blocking(move || translate(&answer))
                        .await
                        .unwrap_or(Err(Unfit::Unreadable))?
                } else {
                    translate(&answer)?
                };
                let entry = Entry {
                    representation: Arc::new(representation),
                    asked,
                    stored_at: this.clock.instant(),
                    generation: flight.generation,
                };
                let is_current =
                    this.generation_of(&permit, read.subject) == flight.generation && settled;
                // What holds a secret goes nowhere, and isn't kept until nobody knows it as one.
                let version = this.watchlist.version();
                let tenant = permit.tenant().id().as_str();
                let is_clean = !this
                    .watchlist
                    .finds_in(entry.representation.body(), Some(tenant));
                if is_clean {
                    entry.representation.searched_at(version);
                }
                let stored = is_clean
                    && is_current
                    && windows.standing(Duration::ZERO) != Standing::Dead
                    && this.cache.insert(flight.key, entry.clone());
                let how = if stored { How::Stored } else { How::NotStored };
                Ok(Landed { entry, how })
            };
            Box::pin(fetch.instrument(span))
        }
    }

    /// An older answer, where the ERP fails. A change that is known to have been made
    /// is not undone in it.
    fn last_resort(
        &self,
        key: &cache::Key,
        generation: Generation,
        windows: Windows,
    ) -> Option<Served> {
        let entry = self.cache.get(key)?;
        let may_serve = entry.generation.made == generation.made
            && windows.standing(self.age(&entry)) != Standing::Dead;
        may_serve.then(|| self.served(&entry, windows, Verdict::StaleIfError))
    }

    fn windows_of(&self, permit: &Permit) -> Windows {
        match permit.operation().effect {
            Effect::Read(FreshnessClass::List) => self.lifetimes.list,
            // A change reads the record that it is based on.
            Effect::Read(FreshnessClass::Detail) | Effect::Write => self.lifetimes.detail,
        }
    }

    fn age(&self, entry: &Entry) -> Duration {
        let now: Instant = self.clock.instant();
        now.saturating_duration_since(entry.stored_at)
    }

    fn served(&self, entry: &Entry, windows: Windows, verdict: Verdict) -> Served {
        let result = verdict.as_str();
        self.results.get_or_create(&ResultLabel { result }).inc();
        Served {
            representation: entry.representation.clone(),
            verdict,
            age: Age {
                age: self.age(entry),
                ttl: windows.ttl,
            },
        }
    }
}
