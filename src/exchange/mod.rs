//! One read or write of the ERP under a [`Permit`]: `read.rs` and `write.rs` are the rules, the others their parts.
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
mod read;
mod records;
mod trace;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio_util::task::TaskTracker;

use crate::{
    cache::{Cache, Generation},
    caller::Permit,
    clock::Clock,
    tenants::{CredentialId, TenantId},
    upstream::{BreakerState, CursorKey, Lane, RefusedCredential, Upstream},
    watchlist::Watchlist,
};

pub use answer::{ExchangeError, Fetched, Served, Unfit, Verdict, Why};
pub use freshness::{Age, Standing, Windows};
pub use generation::Subject;
pub use read::{Read, Wanted};
pub use trace::{Sighting, Trace};
pub use write::{Condition, Write, Written};

use collapse::Flights;
use generation::Generations;
use marks::Marks;
use read::{Flight, Landed};
use records::Records;

/// The stable name under which a caller is told of an error; audit records have it.
pub type CodeOf = fn(&ExchangeError) -> &'static str;

/// How long answers of each class may be served, from `cache.*`.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of [`FreshnessClass::List`](crate::operation::FreshnessClass::List).
    pub list: Windows,
    /// Of [`FreshnessClass::Detail`](crate::operation::FreshnessClass::Detail).
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
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

    /// Credentials whose requests are held to a limit of the ERP that was learnt, and how far apart.
    #[must_use]
    pub fn paces(&self) -> Vec<(CredentialId, Duration)> {
        self.0.upstream.paces()
    }

    /// Tenants whose ERP fails.
    #[must_use]
    pub fn broken_tenants(&self) -> Vec<(TenantId, BreakerState)> {
        self.0.upstream.broken()
    }
}

impl Parts {
    fn generation_of(&self, permit: &Permit, subject: Subject) -> Generation {
        self.generations.current(permit.tenant().id(), subject)
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }
}

/// Those who wait for the ERP take turns by caller.
fn lane_of(permit: &Permit) -> Lane {
    Lane::Caller {
        issuer: permit.claims().issuer().clone(),
        subject: permit.claims().subject().clone(),
    }
}
