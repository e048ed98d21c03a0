//! One read or write of the ERP under a [`Permit`]: the whole rule in a page.
//!
//! A read is answered from the cache while it is fresh and of its subject's
//! present generation; a little longer while a new answer is fetched behind it. Otherwise
//! it joins the one fetch for equal requests, whose answer is translated, validated and
//! kept as it is served; where the ERP fails, an older answer may stand in. A write runs to
//! its end once it has begun, moves the order's and the lists' generations on for every
//! credential of the tenant, and leaves one audit record. `docs/caching.md` has it in pictures.

mod answer;
mod collapse;
mod freshness;
mod generation;
mod records;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    cache::{self, Cache, Entry, Generation, Representation},
    caller::Permit,
    clock::Clock,
    operation::{Effect, FreshnessClass},
    telemetry::audit::{self, Outcome, Taken},
    tenants::TenantId,
    upstream::{
        BreakerState, CursorKey, Failure, Lane, Party, Payload, RefusedCredential, Request, Target,
        Upstream,
    },
    watchlist::Watchlist,
};

pub use answer::{ExchangeError, Fetched, Served, Unfit, Verdict, Why};
pub use freshness::{Age, Standing, Windows};
pub use generation::Subject;

use collapse::{Flights, Role};
use generation::{Change, Generations};
use records::{RecordTurn, Records};

/// An answer over this many bytes is translated where it holds up nobody else's requests.
const LARGE_ANSWER: usize = 512 * 1024;

/// The stable name under which a caller is told of an error; audit records have it.
pub type CodeOf = fn(&ExchangeError) -> &'static str;

/// How long answers of each class may be served, from `cache.*`.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of [`FreshnessClass::List`].
    pub list: Windows,
    /// Of [`FreshnessClass::Detail`].
    pub detail: Windows,
}

/// Where answers come from, and what none of them may hold.
pub struct Sources {
    /// What is kept.
    pub cache: Cache,
    /// The ERP.
    pub upstream: Upstream,
    /// Every tenant's secrets.
    pub watchlist: Watchlist,
}

/// The way to the ERP and back. Cheap to clone.
#[derive(Clone)]
pub struct Exchange(Arc<Parts>);

struct Parts {
    cache: Cache,
    upstream: Upstream,
    watchlist: Watchlist,
    lifetimes: Lifetimes,
    clock: Clock,
    tasks: TaskTracker,
    generations: Generations,
    records: Records,
    flights: Flights<Flight, Result<Landed, ExchangeError>>,
    results: Family<ResultLabel, Counter>,
    uploaded: Counter,
    code_of: CodeOf,
    /// Numbers fetches as they begin.
    sequence: AtomicU64,
}

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

/// What to change.
#[derive(Debug)]
pub struct Write {
    /// Where it is at the ERP.
    pub target: Target,
    /// What to send.
    pub payload: Payload,
    /// The kind of record, and which.
    pub record: (&'static str, u64),
    /// For the audit record.
    pub image: Option<audit::Image>,
    /// What must hold of the record first.
    pub condition: Option<Condition>,
}

/// A condition on the record's present state (RFC 9110 §13.1.1). Between the look and the
/// change no other change of this gateway comes in.
pub struct Condition {
    /// How the record is read.
    pub read: Read,
    /// From the ERP's bytes to ours.
    pub translate: fn(&[u8], u64) -> Result<Representation, Unfit>,
    /// Whether a record with that validator may be changed.
    pub allows: Box<dyn Fn(&HeaderValue) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.read).finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Equal requests that may share a fetch. One that began in an earlier generation,
/// or that wasn't asked to go to the ERP, isn't equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    key: cache::Key,
    generation: Generation,
    from_upstream: bool,
    /// A look that a change depends on shares nothing: an equal fetch may have begun
    /// before what it must see.
    alone: Option<u64>,
}

/// A fetch's answer.
#[derive(Clone)]
struct Landed {
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

impl Exchange {
    /// An exchange over those parts; `tasks` is what the drain waits for.
    #[must_use]
    pub fn new(
        sources: Sources,
        lifetimes: Lifetimes,
        clock: Clock,
        tasks: TaskTracker,
        code_of: CodeOf,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let results = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_cache_requests",
            "Reads by how the cache handled them",
            results.clone(),
        );
        let uploaded = Counter::default();
        metrics.register(
            "llavero_upload_bytes",
            "Bytes of photos that the ERP took, as they were before base64",
            uploaded.clone(),
        );
        let generations = Generations::new(clock.instant());
        Self(Arc::new(Parts {
            cache: sources.cache,
            upstream: sources.upstream,
            watchlist: sources.watchlist,
            lifetimes,
            clock,
            tasks,
            generations,
            records: Records::default(),
            flights: Flights::default(),
            results,
            uploaded,
            code_of,
            sequence: AtomicU64::new(0),
        }))
    }

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
                    let fetch = parts.fetch(permit, read, windows, flight.clone(), translate);
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
        let fetch = parts.fetch(permit, read, windows, flight.clone(), translate);
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

    /// Sends a change and gives back the answer's translation. From here on the
    /// change runs to its end, whether or not the caller stays.
    ///
    /// # Errors
    /// What the ERP or the way to it did, or what `translate` found.
    pub async fn write<T>(
        &self,
        permit: Permit,
        mut write: Write,
        translate: T,
    ) -> Result<Arc<Representation>, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let (this, parts) = (self.clone(), self.0.clone());
        let record = permit
            .trail()
            .take_over(write.record.1, write.image.as_ref());
        let task = async move {
            let (_, id) = write.record;
            let condition = write.condition.take();
            let may_begin = async {
                let turn = parts
                    .record_turn(&permit, &write, condition.is_some())
                    .await?;
                if let Some(condition) = condition {
                    this.require(&permit, id, condition).await?;
                }
                Ok::<_, ExchangeError>(turn)
            };
            // Held until the answer is here.
            let _turn = match may_begin.await {
                Ok(turn) => turn,
                Err(error) => {
                    record.end(Outcome::Refused, Some((parts.code_of)(&error)), None);
                    return Err(error);
                }
            };
            let request = Request {
                clave: permit.tenant().clave(),
                credential: permit.credential(),
                target: &write.target,
                party: &Party::alone(lane_of(&permit)),
                // Nobody can leave a change.
                abandoned: &CancellationToken::new(),
            };
            let answer = parts.upstream.send(request, &write.payload).await;
            let upstream_status = match &answer {
                Ok(answer) => Some(answer.status),
                Err(failure) => failure.status(),
            };
            let result = answer
                .map_err(ExchangeError::from)
                .and_then(|answer| Ok(Arc::new(translate(&answer.body)?)));
            parts.drop_changed(permit.tenant().id(), write.record, result.as_ref().err());
            if let (Ok(_), Some(image)) = (&result, &write.image) {
                parts.uploaded.inc_by(image.bytes as u64);
            }
            parts.tell(record, result.as_ref().err(), upstream_status);
            result
        };
        let task = self
            .0
            .tasks
            .spawn(task.instrument(tracing::Span::current()));
        task.await.unwrap_or(Err(ExchangeError::Interrupted))
    }

    /// Looks at the record as the ERP has it now.
    async fn require(
        &self,
        permit: &Permit,
        id: u64,
        condition: Condition,
    ) -> Result<(), ExchangeError> {
        let Condition {
            read,
            translate,
            allows,
        } = condition;
        let present = self
            .read(permit, read, move |body| translate(body, id))
            .await?;
        if allows(present.representation.etag()) {
            Ok(())
        } else {
            Err(ExchangeError::Changed)
        }
    }

    /// Drops what is kept of a tenant that is gone.
    pub fn forget(&self, tenant: &TenantId) {
        self.0.cache.forget(tenant, self.0.next());
        self.0.upstream.forget(tenant);
    }

    /// How many bytes the cache holds.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.0.cache.bytes()
    }

    /// Seals and opens the cursors of the caller's credential.
    pub async fn cursor_key(&self, permit: &Permit) -> Option<CursorKey> {
        self.0.upstream.cursor_key(permit.credential()).await
    }

    /// Credentials that the ERP refuses.
    #[must_use]
    pub fn refused_credentials(&self) -> Vec<RefusedCredential> {
        self.0.upstream.refused_credentials()
    }

    /// Tenants whose ERP fails.
    #[must_use]
    pub fn broken_tenants(&self) -> Vec<(TenantId, BreakerState)> {
        self.0.upstream.broken()
    }
}

impl Parts {
    /// The fetch of a flight, to be begun where no equal one is under way.
    fn fetch<T>(
        self: &Arc<Self>,
        permit: &Permit,
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

    /// Leave to change the record; none is needed for a photo, which overwrites nothing that
    /// a condition looked at.
    async fn record_turn(
        &self,
        permit: &Permit,
        write: &Write,
        alone: bool,
    ) -> Result<Option<RecordTurn>, Failure> {
        if matches!(write.payload, Payload::Image { .. }) {
            return Ok(None);
        }
        let patience = self.upstream.patience();
        let record = (permit.tenant().id().clone(), write.record.1);
        let turn = self.records.turn(record, alone);
        let turn = self.clock.before(self.clock.instant() + patience, turn);
        turn.await.flatten().map(Some).ok_or(Failure::QueueFull {
            retry_after: patience,
        })
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

    /// Drops what a change makes old: under every credential, before anybody is told of it.
    fn drop_changed(
        &self,
        tenant: &TenantId,
        (kind, id): (&'static str, u64),
        error: Option<&ExchangeError>,
    ) {
        let change = match error {
            None => Change::Made,
            Some(ExchangeError::Upstream(failure)) if failure.is_certain() => return,
            // A page that says 200 may be anybody's.
            Some(_) => Change::Doubtful,
        };
        let now = self.clock.instant();
        for subject in [Subject::Record(kind, id), Subject::Lists(kind)] {
            self.generations.advance(tenant, subject, change, now);
        }
    }

    /// Leaves the record of a change that was sent.
    fn tell(&self, record: Taken, error: Option<&ExchangeError>, upstream_status: Option<u16>) {
        match error {
            None => record.end(Outcome::Done, None, upstream_status),
            Some(error @ ExchangeError::Upstream(failure)) if failure.is_certain() => {
                record.end(
                    Outcome::Refused,
                    Some((self.code_of)(error)),
                    upstream_status,
                );
            }
            Some(_) => record.end(Outcome::Unknown, None, upstream_status),
        }
    }

    fn windows_of(&self, permit: &Permit) -> Windows {
        match permit.operation().effect {
            Effect::Read(FreshnessClass::List) => self.lifetimes.list,
            // A change reads the record that it is based on.
            Effect::Read(FreshnessClass::Detail) | Effect::Write => self.lifetimes.detail,
        }
    }

    fn generation_of(&self, permit: &Permit, subject: Subject) -> Generation {
        self.generations.current(permit.tenant().id(), subject)
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
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

type BoxedFetch = futures_util::future::BoxFuture<'static, Result<Landed, ExchangeError>>;

/// Those who wait for the ERP take turns by caller.
fn lane_of(permit: &Permit) -> Lane {
    Lane::Caller {
        issuer: permit.claims().issuer().clone(),
        subject: permit.claims().subject().clone(),
    }
}
