//! What is asked once is done once, however often it is sent: the `Idempotency-Key` of a
//! caller (IETF draft-ietf-httpapi-idempotency-key-header), and equal photos without one.
//!
//! A [`Once`] says what makes two requests the same one. [`Idempotency::begin`] gives the first of
//! them a [`Claim`], which goes with the change to its end and says what became of it; later ones
//! get its answer, or learn that it runs still or that it was something else. Where nobody knows what became of
//! a change, the next one gets a claim that says so ([`Claim::earlier`]), and has to look at the ERP first.

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

pub use key::{IdempotencyKey, InvalidKey};
pub use memory::Memory;
pub use slot::{Asked, Fingerprint, Slot};
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
    /// How long its answer is kept.
    pub keep: Duration,
    /// By which its trace at the ERP is known, such as a photo's title.
    pub mark: String,
    /// Whether an equal one that runs is waited for; else its caller is told.
    pub joins: bool,
    /// Where its outcome is kept as well, as that of what was asked, and for how long.
    pub also: Option<(Slot, Fingerprint, Duration)>,
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
                Found::Nothing => None,
                Found::Doubtful(attempt) => Some(attempt),
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
            // The same content may be in doubt under another key, or none.
            let earlier = match (earlier, &once.also) {
                (None, Some((slot, ..))) => parts.store.doubt(slot, now).await?,
                (earlier, _) => earlier,
            };
            parts.count(if earlier.is_some() {
                "doubtful"
            } else {
                "first"
            });
            return Ok(Begun::First(Box::new(Claim {
                parts: parts.clone(),
                once,
                earlier,
                sent: None,
                is_settled: false,
            })));
        }
    }
}

impl Parts {
    fn count(&self, result: &'static str) {
        self.results.get_or_create(&ResultLabel { result }).inc();
    }

    async fn settle(&self, slot: &Slot, record: Record) {
        if let Err(error) = self.store.settle(slot, record).await {
            tracing::error!(%error, "what became of a write can't be kept: sent again, it may be made twice");
        }
    }
}

/// Leave to make a change that nobody else makes meanwhile. Dropped unsaid, as by a panic,
/// its outcome is unknown if it was sent.
#[must_use]
pub struct Claim {
    parts: Arc<Parts>,
    once: Once,
    earlier: Option<Attempt>,
    sent: Option<SystemTime>,
    is_settled: bool,
}

impl Claim {
    /// The attempt before this one, if nobody knows what became of it.
    #[must_use]
    pub fn earlier(&self) -> Option<&Attempt> {
        self.earlier.as_ref()
    }

    /// By which its trace at the ERP is known: that of the attempt before, where there was one.
    #[must_use]
    pub fn mark(&self) -> &str {
        self.earlier
            .as_ref()
            .map_or(&self.once.mark, |earlier| &earlier.mark)
    }

    /// It is sent, then and no sooner.
    pub fn sends(&mut self, at: SystemTime) {
        self.sent = Some(at);
    }

    /// It was made, with that answer.
    pub async fn done(mut self, answer: Bytes) {
        self.is_settled = true;
        let now = self.parts.clock.wall();
        if let Some((slot, fingerprint, keep)) = &self.once.also {
            let record = Record {
                fingerprint: *fingerprint,
                state: State::Done(answer.clone()),
                until: now + *keep,
            };
            self.parts.settle(slot, record).await;
        }
        let record = self.record(State::Done(answer), now + self.once.keep);
        self.parts.settle(&self.once.slot, record).await;
    }

    /// It certainly wasn't made: the next one is the first.
    pub async fn not_done(mut self) {
        self.is_settled = true;
        self.parts.release(&self.once.slot).await;
    }

    /// Nobody knows whether it was made; where it wasn't sent, nothing more is known than before.
    pub async fn undecided(mut self) {
        self.is_settled = true;
        self.unsaid().keep().await;
    }

    fn record(&self, state: State, until: SystemTime) -> Record {
        Record {
            fingerprint: self.once.fingerprint,
            state,
            until,
        }
    }

    /// What is known where nothing was said.
    fn unsaid(&self) -> Unsaid {
        let now = self.parts.clock.wall();
        let attempt = match self.sent {
            Some(sent) => Some(Attempt {
                sent,
                ended: now,
                mark: self.mark().to_owned(),
            }),
            None => self.earlier.clone(),
        };
        let doubt = |fingerprint, keep| Record {
            fingerprint,
            state: State::Doubtful(attempt.clone().unwrap_or_else(|| Attempt {
                sent: now,
                ended: now,
                mark: String::new(),
            })),
            until: now + keep,
        };
        let also = self.once.also.as_ref().filter(|_| attempt.is_some());
        Unsaid {
            parts: self.parts.clone(),
            slot: self.once.slot.clone(),
            record: attempt
                .is_some()
                .then(|| doubt(self.once.fingerprint, self.once.keep)),
            also: also.map(|(slot, fingerprint, keep)| (slot.clone(), doubt(*fingerprint, *keep))),
        }
    }
}

/// What is kept of a claim that said nothing.
struct Unsaid {
    parts: Arc<Parts>,
    slot: Slot,
    /// None where it may simply begin anew.
    record: Option<Record>,
    also: Option<(Slot, Record)>,
}

impl Unsaid {
    async fn keep(self) {
        let Self {
            parts,
            slot,
            record,
            also,
        } = self;
        match record {
            Some(record) => parts.settle(&slot, record).await,
            None => parts.release(&slot).await,
        }
        if let Some((slot, record)) = also {
            parts.settle(&slot, record).await;
        }
    }
}

impl Parts {
    async fn release(&self, slot: &Slot) {
        if let Err(error) = self.store.release(slot).await {
            tracing::error!(%error, "a write that wasn't made can't be released: sent again, it has to wait");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_settled {
            let tasks = self.parts.tasks.clone();
            tasks.spawn(self.unsaid().keep());
        }
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Claim").field(&self.once).finish()
    }
}
