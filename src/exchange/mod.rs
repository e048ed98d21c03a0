//! One read or write of the ERP under a [`Permit`]: the whole rule in a page.
//!
//! A read is answered from the cache while it is fresh and of its subject's
//! present generation. Otherwise it joins the one fetch for equal requests, whose
//! answer is translated, validated and kept as it is served. A write runs to its
//! end once it has begun, moves the order's and the lists' generations on for
//! every credential of the tenant, and leaves one audit record.

mod collapse;
mod freshness;
mod generation;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{
    cache::{self, Cache, Entry, Representation},
    caller::Permit,
    clock::Clock,
    operation::{Effect, FreshnessClass},
    telemetry::audit::{self, Outcome},
    upstream::{Failure, Payload, Target, Upstream},
};

pub use freshness::Fresh;
pub use generation::Subject;

use collapse::{Flights, Role};
use generation::Generations;

/// How long answers of each class stay fresh, from `cache.ttl`.
#[derive(Debug, Clone, Copy)]
pub struct TimeToLive {
    /// For [`FreshnessClass::List`].
    pub list: Duration,
    /// For [`FreshnessClass::Detail`].
    pub detail: Duration,
}

/// The way to the ERP and back. Cheap to clone.
#[derive(Clone)]
pub struct Exchange(Arc<Parts>);

struct Parts {
    cache: Cache,
    upstream: Upstream,
    ttl: TimeToLive,
    clock: Clock,
    tasks: TaskTracker,
    generations: Generations,
    flights: Flights<Flight, Result<Entry, ExchangeError>>,
    results: Family<ResultLabel, Counter>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where it is at the ERP.
    pub target: Target,
    /// What it is about.
    pub subject: Subject,
    /// Whether the caller wants an answer newer than any kept (`Cache-Control: no-cache`).
    pub revalidate: bool,
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
}

/// A read's answer.
#[derive(Debug, Clone)]
pub struct Served {
    /// The bytes and their validator.
    pub representation: Arc<Representation>,
    /// How they were come by.
    pub verdict: Verdict,
    /// How old they are and how long they stay fresh.
    pub fresh: Fresh,
}

/// How the cache handled a read (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Served from the cache.
    Hit,
    /// Nothing fresh was kept.
    Miss,
    /// Another request's fetch answered this one too.
    Collapsed,
    /// The caller asked to go to the ERP.
    Requested,
    /// What was kept had grown stale.
    Stale,
}

impl Verdict {
    /// Its word in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Requested => "requested",
            Self::Stale => "stale",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Equal requests that may share a fetch. One that began in an earlier generation,
/// or that wasn't asked to revalidate, isn't equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    key: cache::Key,
    generation: u64,
    revalidate: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The ERP or the way to it failed.
    #[error(transparent)]
    Upstream(#[from] Failure),
    /// It answered something that can't be used.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The task that fetched it ended without an outcome.
    #[error("the task was torn down before it had an outcome")]
    Interrupted,
}

/// Why an answer of the ERP can't be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not the JSON that the vendor's page promises.
    #[error("the answer isn't of the documented form")]
    Unreadable,
    /// Another record than the one asked for.
    #[error("the answer is another record")]
    Mismatch,
}

impl Exchange {
    /// An exchange over those parts; `tasks` is what the drain waits for.
    #[must_use]
    pub fn new(
        cache: Cache,
        upstream: Upstream,
        ttl: TimeToLive,
        clock: Clock,
        tasks: TaskTracker,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let results = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_cache_requests",
            "Reads by how the cache handled them",
            results.clone(),
        );
        Self(Arc::new(Parts {
            cache,
            upstream,
            ttl,
            clock,
            tasks,
            generations: Generations::default(),
            flights: Flights::default(),
            results,
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
        let ttl = parts.ttl_of(permit);
        let key = cache::Key::new(permit.credential_id(), read.target.canonical());
        let generation = parts
            .generations
            .current(permit.tenant().id(), read.subject);

        let mut verdict = Verdict::Requested;
        if !read.revalidate {
            verdict = Verdict::Miss;
            if let Some(entry) = parts.cache.get(&key).await {
                match parts.fresh(&entry, generation, ttl) {
                    Some(fresh) => return Ok(parts.served(entry, Verdict::Hit, fresh)),
                    None => verdict = Verdict::Stale,
                }
            }
        }
        let flight = Flight {
            key,
            generation,
            revalidate: read.revalidate,
        };
        let fetch = {
            let (this, permit, flight) = (self.0.clone(), permit.clone(), flight.clone());
            let span = tracing::Span::current();
            move || {
                this.fetch(permit, read.target, flight, ttl, translate)
                    .instrument(span)
            }
        };
        let (outcome, role) = parts.flights.join(flight, &parts.tasks, fetch).await;
        let entry = outcome.ok_or(ExchangeError::Interrupted)??;
        let fresh =
            freshness::judge(entry.stored_at, parts.clock.instant(), ttl).unwrap_or(Fresh {
                age: Duration::ZERO,
                remaining: Duration::ZERO,
            });
        let verdict = if role == Role::Follower {
            Verdict::Collapsed
        } else {
            verdict
        };
        Ok(parts.served(entry, verdict, fresh))
    }

    /// Sends a change and gives back the answer's translation. From here on the
    /// change runs to its end, whether or not the caller stays.
    ///
    /// # Errors
    /// What the ERP or the way to it did, or what `translate` found.
    pub async fn write<T>(
        &self,
        permit: Permit,
        write: Write,
        translate: T,
    ) -> Result<Arc<Representation>, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let parts = self.0.clone();
        let task = async move {
            let Write {
                target,
                payload,
                record: (kind, id),
                image,
            } = write;
            let tenant = permit.tenant();
            let answer = parts
                .upstream
                .send(tenant.clave(), permit.credential(), &target, payload)
                .await;
            parts
                .generations
                .advance(tenant.id(), Subject::Record(kind, id));
            parts.generations.advance(tenant.id(), Subject::Lists(kind));
            let upstream_status = match &answer {
                Ok(answer) => Some(answer.status),
                Err(failure) => failure.status(),
            };
            let result = answer
                .map_err(ExchangeError::from)
                .and_then(|answer| Ok(Arc::new(translate(&answer.body)?)));
            let outcome = match &result {
                Ok(_) => Outcome::Done,
                Err(ExchangeError::Upstream(failure)) if failure.is_certain() => Outcome::Refused,
                Err(_) => Outcome::Unknown,
            };
            audit::write(&permit, id, outcome, upstream_status, image.as_ref());
            result
        };
        let task = self
            .0
            .tasks
            .spawn(task.instrument(tracing::Span::current()));
        task.await.unwrap_or(Err(ExchangeError::Interrupted))
    }

    /// How many bytes the cache holds.
    pub async fn cached_bytes(&self) -> u64 {
        self.0.cache.bytes().await
    }
}

impl Parts {
    async fn fetch<T>(
        self: Arc<Self>,
        permit: Permit,
        target: Target,
        flight: Flight,
        ttl: Duration,
        translate: T,
    ) -> Result<Entry, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit>,
    {
        let Flight {
            key,
            generation,
            revalidate,
        } = flight;
        // Another fetch may have landed between this request's look and its flight.
        if !revalidate
            && let Some(entry) = self.cache.get(&key).await
            && self.fresh(&entry, generation, ttl).is_some()
        {
            return Ok(entry);
        }
        let body: Bytes = self
            .upstream
            .get(permit.tenant().clave(), permit.credential(), &target)
            .await?;
        let representation = Arc::new(translate(&body)?);
        let entry = Entry {
            representation,
            stored_at: self.clock.instant(),
            generation,
        };
        if !ttl.is_zero() {
            self.cache.insert(key, entry.clone()).await;
        }
        Ok(entry)
    }

    fn ttl_of(&self, permit: &Permit) -> Duration {
        match permit.operation().effect {
            Effect::Read(FreshnessClass::List) => self.ttl.list,
            Effect::Read(FreshnessClass::Detail) => self.ttl.detail,
            Effect::Write => Duration::ZERO,
        }
    }

    fn fresh(&self, entry: &Entry, generation: u64, ttl: Duration) -> Option<Fresh> {
        (entry.generation == generation)
            .then(|| freshness::judge(entry.stored_at, self.clock.instant(), ttl))
            .flatten()
    }

    fn served(&self, entry: Entry, verdict: Verdict, fresh: Fresh) -> Served {
        self.results
            .get_or_create(&ResultLabel {
                result: verdict.as_str(),
            })
            .inc();
        Served {
            representation: entry.representation,
            verdict,
            fresh,
        }
    }
}
