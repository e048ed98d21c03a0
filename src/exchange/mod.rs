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
mod marks;
mod records;
mod trace;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
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
    idempotency::{Attempt, Claim},
    operation::{Effect, FreshnessClass},
    telemetry::{
        audit::{self, Outcome, Taken},
        traces::Context,
    },
    tenants::{CredentialId, TenantId},
    upstream::{
        BreakerState, CursorKey, Failure, Lane, Party, Payload, RefusedCredential, Request, Target,
        Upstream,
    },
    watchlist::Watchlist,
};

pub use answer::{ExchangeError, Fetched, Served, Unfit, Verdict, Why};
pub use freshness::{Age, Standing, Windows};
pub use generation::Subject;
pub use trace::{Sighting, Trace};

use collapse::{Flights, Role};
use generation::{Change, Generations};
use marks::{Mark, MarkTurn, Marks};
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
    marks: Marks,
    flights: Flights<Flight, Result<Landed, ExchangeError>>,
    results: Family<ResultLabel, Counter>,
    uploaded: Counter,
    traces: Family<ResultLabel, Counter>,
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
    /// Where it is made once, however often it is asked for.
    pub claim: Option<Box<Claim>>,
    /// How it is known again, where nobody knows what became of it.
    pub trace: Option<Trace>,
}

/// A change that was made.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its answer.
    pub representation: Arc<Representation>,
    /// Whether an earlier attempt had made it.
    pub is_replayed: bool,
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

/// What a change holds until its answer is here.
struct Turns {
    #[expect(dead_code, reason = "held for its drop")]
    record: Option<RecordTurn>,
    mark: Option<MarkTurn>,
}

/// How a change goes on once its turn has come.
enum Beginning {
    /// It is sent.
    Send(Turns),
    /// An earlier attempt had made it.
    WasMade(Arc<Representation>, Turns),
}

/// What came of sending a change.
struct Sent {
    result: Result<Arc<Representation>, ExchangeError>,
    upstream_status: Option<u16>,
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
        // Every series is there from the start, so that a first event is an increase.
        for result in Verdict::WORDS {
            let _ = results.get_or_create(&ResultLabel { result });
        }
        let uploaded = Counter::default();
        metrics.register(
            "llavero_upload_bytes",
            "Bytes of photos that the ERP took, as they were before base64",
            uploaded.clone(),
        );
        let traces = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_write_traces",
            "Looks for what became of writes whose answer never came",
            traces.clone(),
        );
        for result in ["found", "absent"] {
            let _ = traces.get_or_create(&ResultLabel { result });
        }
        let generations = Generations::new(clock.instant());
        Self(Arc::new(Parts {
            cache: sources.cache,
            upstream: sources.upstream,
            watchlist: sources.watchlist,
            lifetimes,
            tasks,
            generations,
            records: Records::default(),
            marks: Marks::new(clock.clone()),
            clock,
            flights: Flights::default(),
            results,
            uploaded,
            traces,
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
    ) -> Result<Written, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let this = self.clone();
        let record = permit
            .trail()
            .take_over(write.record.1, write.image.as_ref());
        let task = async move {
            let mut claim = write.claim.take();
            let mut turns = match this.begin(&permit, &mut write, claim.as_deref()).await {
                Ok(Beginning::Send(turns)) => turns,
                Ok(Beginning::WasMade(representation, turns)) => {
                    this.0
                        .drop_changed(permit.tenant().id(), write.record, None);
                    give_answer(claim, &representation).await;
                    // Whoever is next finds that.
                    drop(turns);
                    record.end(Outcome::Replayed, None, None);
                    return Ok(Written {
                        representation,
                        is_replayed: true,
                    });
                }
                Err(error) => {
                    if let Some(claim) = claim {
                        claim.undecided().await;
                    }
                    record.end(Outcome::Refused, Some((this.0.code_of)(&error)), None);
                    return Err(error);
                }
            };
            let now = this.0.clock.wall();
            if let Some(claim) = &mut claim {
                claim.sends(now);
            }
            let sent = this.send(&permit, &write, &mut turns, now, translate).await;
            let parts = &this.0;
            let error = sent.result.as_ref().err();
            parts.drop_changed(permit.tenant().id(), write.record, error);
            match (&sent.result, claim) {
                (Ok(representation), claim) => give_answer(claim, representation).await,
                (Err(error), Some(claim)) if error.is_certain() => claim.not_done().await,
                (Err(_), Some(claim)) => claim.undecided().await,
                (Err(_), None) => {}
            }
            if let (Ok(_), Some(image)) = (&sent.result, &write.image) {
                parts.uploaded.inc_by(image.bytes as u64);
            }
            parts.tell(record, sent.result.as_ref().err(), sent.upstream_status);
            drop(turns);
            let representation = sent.result?;
            Ok(Written {
                representation,
                is_replayed: false,
            })
        };
        let task = self
            .0
            .tasks
            .spawn(task.instrument(tracing::Span::current()));
        task.await.unwrap_or(Err(ExchangeError::Interrupted))
    }

    /// Waits for all that a change must wait for, and looks whether it was made already.
    async fn begin(
        &self,
        permit: &Permit,
        write: &mut Write,
        claim: Option<&Claim>,
    ) -> Result<Beginning, ExchangeError> {
        let parts = &self.0;
        let condition = write.condition.take();
        let record = parts
            .record_turn(permit, write, condition.is_some())
            .await?;
        let mark = parts.mark_turn(permit, write).await?;
        let mut turns = Turns { record, mark };
        if let (Some(claim), Some(trace)) = (claim, &write.trace)
            && let Some(earlier) = claim.earlier()
        {
            if let Some(answer) = claim.made_by_another().await {
                let representation = Arc::new(Representation::new(answer.to_vec()));
                return Ok(Beginning::WasMade(representation, turns));
            }
            let found = parts
                .look_for(permit, trace, earlier, turns.mark.as_deref_mut())
                .await;
            match found {
                Ok(Some(representation)) => return Ok(Beginning::WasMade(representation, turns)),
                // Where there is no record, there is no trace in it.
                Ok(None) | Err(ExchangeError::Upstream(Failure::NotFound)) => {}
                Err(error) => return Err(ExchangeError::Unseen(Box::new(error))),
            }
            let settled = earlier.ended + trace::LATE;
            if let Ok(left) = settled.duration_since(parts.clock.wall())
                && !left.is_zero()
            {
                let retry_after = left.min(trace::LOOK_AGAIN);
                return Err(ExchangeError::Unsettled { retry_after });
            }
        }
        if let Some(condition) = condition {
            self.require(permit, write.record.1, condition).await?;
        }
        Ok(Beginning::Send(turns))
    }

    /// Sends a change; where its answer doesn't say what became of it, asks for its trace.
    async fn send<T>(
        &self,
        permit: &Permit,
        write: &Write,
        turns: &mut Turns,
        sent: SystemTime,
        translate: T,
    ) -> Sent
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit>,
    {
        let parts = &self.0;
        if let Some(history) = &mut turns.mark {
            history.sends(sent);
        }
        let request = Request {
            clave: permit.tenant().clave(),
            credential: permit.credential(),
            target: &write.target,
            party: &Party::alone(lane_of(permit)),
            // Nobody can leave a change.
            abandoned: &CancellationToken::new(),
            trace: permit.trace(),
        };
        let answer = parts.upstream.send(request, &write.payload).await;
        let upstream_status = match &answer {
            Ok(answer) => Some(answer.status),
            Err(failure) => failure.status(),
        };
        let mut result = answer
            .map_err(ExchangeError::from)
            .and_then(|answer| Ok(Arc::new(translate(&answer.body)?)));
        if let (Err(error), Some(trace)) = (&result, &write.trace)
            && !error.is_certain()
        {
            let attempt = Attempt {
                first: sent,
                sent,
                ended: parts.clock.wall(),
                mark: trace.mark.clone().unwrap_or_default(),
            };
            let found = parts
                .look_for(permit, trace, &attempt, turns.mark.as_deref_mut())
                .await;
            // Where that fails too, the change's own failure is what is told.
            if let Ok(Some(representation)) = found {
                result = Ok(representation);
            }
        } else if let (Ok(representation), Some(trace), Some(history)) =
            (&result, &write.trace, &mut turns.mark)
            && let Some(id) = (trace.id)(representation.body())
        {
            history.takes(id);
        }
        Sent {
            result,
            upstream_status,
        }
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

    /// Has credentials judged anew whose secret was changed or that are gone, as
    /// `fingerprint_of` knows those that there are.
    pub fn settle(&self, fingerprint_of: impl Fn(&CredentialId) -> Option<u64>) {
        self.0.upstream.settle(fingerprint_of);
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

    /// Credentials that a 429 of the ERP has pausing, and for how long.
    #[must_use]
    pub fn paused_credentials(&self) -> Vec<(CredentialId, Duration)> {
        self.0.upstream.paused_credentials()
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

    /// Leave to leave a trace under the change's mark.
    async fn mark_turn(&self, permit: &Permit, write: &Write) -> Result<Option<MarkTurn>, Failure> {
        let Some(text) = write.trace.as_ref().and_then(|trace| trace.mark.clone()) else {
            return Ok(None);
        };
        let mark = Mark {
            tenant: permit.tenant().id().clone(),
            record: write.record,
            text,
        };
        let patience = self.upstream.longest_write();
        let turn = self.marks.turn(mark);
        let turn = self.clock.before(self.clock.instant() + patience, turn);
        turn.await.flatten().map(Some).ok_or(Failure::QueueFull {
            retry_after: self.upstream.patience(),
        })
    }

    /// The answer that a change would have had, from the trace that it left.
    async fn look_for(
        &self,
        permit: &Permit,
        trace: &Trace,
        attempt: &Attempt,
        history: Option<&mut marks::History>,
    ) -> Result<Option<Arc<Representation>>, ExchangeError> {
        let request = Request {
            clave: permit.tenant().clave(),
            credential: permit.credential(),
            target: &trace.target,
            party: &Party::alone(lane_of(permit)),
            abandoned: &CancellationToken::new(),
            trace: permit.trace(),
        };
        let answer = self.upstream.look(request).await?;
        let sighting = Sighting::of(attempt, history.as_deref(), self.clock.wall(), answer.date);
        let found = (trace.find)(&answer.body, &sighting)?.map(Arc::new);
        let result = if found.is_some() { "found" } else { "absent" };
        self.traces.get_or_create(&ResultLabel { result }).inc();
        if let (Some(found), Some(history)) = (&found, history)
            && let Some(id) = (trace.id)(found.body())
        {
            history.takes(id);
        }
        Ok(found)
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
            Some(error) if error.is_certain() => return,
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
            Some(error) if error.is_certain() => {
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

/// Keeps a change's answer for those who ask again.
async fn give_answer(claim: Option<Box<Claim>>, answer: &Representation) {
    if let Some(claim) = claim {
        claim.done(answer.body().clone()).await;
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
