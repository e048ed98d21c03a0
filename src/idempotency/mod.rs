//! What is asked once is done once, however often it is sent: the `Idempotency-Key` of a
//! caller (IETF draft-ietf-httpapi-idempotency-key-header), and equal photos without one.
//!
//! A [`Once`] says what makes two requests the same one. [`Idempotency::begin`] gives the first of them a [`Claim`], which
//! goes with the change to its end and says what became of it; later ones get its answer, or learn that it runs still or
//! that it was something else. Where nobody knows what became of a change, the next one gets a claim that says so
//! ([`Claim::earlier`]), and has to look at the ERP first.

mod claim;
mod key;
mod memory;
mod slot;
mod store;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

pub use claim::Claim;
pub use key::{IdempotencyKey, InvalidKey};
pub use memory::Memory;
pub use slot::{Asked, Fingerprint, Holder, Slot};
pub use store::{Attempt, Found, Record, State, Store, StoreError};

/// What a caller is told to wait for a change that runs: uploads to the ERP take seconds.
const RUNNING_RETRY: Duration = Duration::from_secs(2);

/// Sees to it that what is asked once is done once. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    clock: Clock,
    tasks: TaskTracker,
    lease: Duration,
    results: Family<ResultLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// What is to be done once.
#[derive(Debug)]
pub struct Once {
    /// Where it is kept.
    pub slot: Slot,
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// How long its answer is kept. Zero: not at all, and only an attempt in doubt is known to others.
    pub keep: Duration,
    /// By which its trace at the ERP is known, such as a photo's title.
    pub mark: String,
    /// Whether an equal one that runs is waited for; else its caller is told.
    pub joins: bool,
    /// Where its outcome is kept as well, as that of what was asked, and for how long. While it runs, it has that too,
    /// unless another does.
    pub also: Option<(Slot, Fingerprint, Duration)>,
    /// How others that ask for the same learn of it, whatever their keys are.
    pub shared: Option<Shared>,
}

/// What requests for the same tell each other, so that what one of them may have done isn't done again by another: an
/// app that begins anew has a new key.
#[derive(Debug)]
pub struct Shared {
    /// [`Slot::of_doubt`]: the attempt of which nobody knows what became.
    pub doubt: Slot,
    /// [`Slot::of_attempts`]: that such an attempt was made after all, for whoever sent it.
    pub attempts: Slot,
    /// How long either is kept: as long as any of them may come back.
    pub keep: Duration,
}

/// How a change begins.
pub enum Begun {
    /// It is the first, or the first since one whose outcome nobody knows.
    First(Box<Claim>),
    /// It was made before, with that answer.
    Done(Bytes),
}

/// Why a change can't begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Repeated {
    /// The same one runs.
    #[error("the same request is still running")]
    Running {
        /// When it may be over.
        retry_after: Duration,
    },
    /// Another one was made under that key.
    #[error("the key was used for other content")]
    Mismatch,
    /// Nobody can say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Idempotency {
    /// Over that store. `lease` is longer than any change takes, `tasks` is what the drain waits for.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        lease: Duration,
        clock: Clock,
        tasks: TaskTracker,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let results = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_idempotency_requests",
            "Writes that are to happen once, by whether they were the first",
            results.clone(),
        );
        // Every series is there from the start, so that a first event is an increase.
        for result in ["first", "replayed", "running", "mismatch", "doubtful"] {
            let _ = results.get_or_create(&ResultLabel { result });
        }
        Self(Arc::new(Parts {
            store,
            clock,
            tasks,
            lease,
            results,
        }))
    }

    /// Begins a change, or finds that it was made.
    ///
    /// # Errors
    /// It runs, was another, or nobody can say.
    pub async fn begin(&self, once: Once) -> Result<Begun, Repeated> {
        let parts = &self.0;
        loop {
            let now = parts.clock.wall();
            let found = parts
                .store
                .begin(
                    &once.slot,
                    once.fingerprint,
                    &once.mark,
                    now,
                    now + parts.lease,
                )
                .await?;
            let earlier = match found {
                Found::Nothing => parts.doubt_of_others(&once, now).await?,
                Found::Doubtful(attempt) => match parts.made(&once, &attempt, now).await? {
                    None => Some(attempt),
                    Some(answer) => {
                        let record = once.record(State::Done(answer.clone()), now);
                        parts.settle(&once.slot, record).await;
                        parts.count("replayed");
                        return Ok(Begun::Done(answer));
                    }
                },
                Found::Done(answer) => {
                    parts.count("replayed");
                    return Ok(Begun::Done(answer));
                }
                Found::Mismatch => {
                    parts.count("mismatch");
                    return Err(Repeated::Mismatch);
                }
                Found::Running if once.joins => {
                    parts.store.changed(&once.slot).await;
                    continue;
                }
                Found::Running => {
                    parts.count("running");
                    return Err(Repeated::Running {
                        retry_after: RUNNING_RETRY,
                    });
                }
            };
            parts.count(if earlier.is_some() {
                "doubtful"
            } else {
                "first"
            });
            // Where that fails, dropping the claim gives its slot back.
            let mut claim = Claim::new(parts.clone(), once, earlier);
            claim.take_also(now).await?;
            return Ok(Begun::First(Box::new(claim)));
        }
    }
}

impl Once {
    /// Kept from now on.
    fn record(&self, state: State, now: SystemTime) -> Record {
        Record {
            fingerprint: self.fingerprint,
            state,
            until: now + self.keep,
        }
    }
}

impl Parts {
    /// The answer of that attempt, where another request found that it was made, or made it.
    async fn made(
        &self,
        once: &Once,
        attempt: &Attempt,
        now: SystemTime,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(shared) = &once.shared else {
            return Ok(None);
        };
        let slot = shared.attempts.of_attempt(attempt);
        Ok(match self.store.peek(&slot, now).await? {
            Some(State::Done(answer)) => Some(answer),
            _ => None,
        })
    }

    /// An attempt for the same under another key, or none, that may have been made.
    async fn doubt_of_others(
        &self,
        once: &Once,
        now: SystemTime,
    ) -> Result<Option<Attempt>, StoreError> {
        let Some(shared) = &once.shared else {
            return Ok(None);
        };
        let Some(State::Doubtful(attempt)) = self.store.peek(&shared.doubt, now).await? else {
            return Ok(None);
        };
        let is_known = self.made(once, &attempt, now).await?.is_some();
        Ok((!is_known).then_some(attempt))
    }

    fn count(&self, result: &'static str) {
        self.results.get_or_create(&ResultLabel { result }).inc();
    }

    /// Keeps that, or empties the slot where there is no time for which it would be kept.
    async fn settle(&self, slot: &Slot, record: Record) {
        if record.until <= self.clock.wall() {
            return self.release(slot).await;
        }
        if let Err(error) = self.store.settle(slot, record).await {
            tracing::error!(%error, "what became of a write can't be kept: sent again, it may be made twice");
        }
    }

    async fn release(&self, slot: &Slot) {
        if let Err(error) = self.store.release(slot).await {
            tracing::error!(%error, "a write that wasn't made can't be released: sent again, it has to wait");
        }
    }
}
