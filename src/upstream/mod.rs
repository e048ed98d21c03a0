//! The ERP as a client sees it: addresses, credentials on the wire, bounded
//! answers, failures in our own words. What an answer means is the resources' business.
//!
//! This file is the whole rule of a request: the tenant's breaker lets it pass, the
//! credential's queue gives it a turn at the credential's pace, it is sent, both are told
//! what came of it, and where it may be sent again it is. `docs/upstream.md` has the
//! same in words and pictures.

mod body;
mod breaker;
mod client;
mod cursor;
mod failure;
mod fair;
mod pace;
mod paging;
mod queue;
mod retry;
mod target;
mod tenants;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry as MetricRegistry,
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config,
    tenants::{Clave, Credential, TenantId},
};

pub use body::{Encoding, Payload};
pub use breaker::BreakerState;
pub use client::{Answer, ClientError};
pub use cursor::{CursorKey, InvalidCursor};
pub use failure::Failure;
pub use paging::{Page, PageLinks, Unsealable};
pub use queue::{Joining, Lane, Party};
pub use retry::Jitter;
pub use target::Target;

use breaker::{Admission, Epoch, TRIAL_RETRY};
use client::Client;
use queue::{Queues, Turn};
use retry::{Effect, MAX_ATTEMPTS, Reason};
use tenants::Tenants;

/// How long a trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to every tenant's ERP. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Parts>);

struct Parts {
    client: Client,
    queues: Queues,
    tenants: Tenants,
    timeouts: Timeouts,
    clock: Clock,
    jitter: Jitter,
    waits: Histogram,
    retries: Family<RetryLabel, Counter>,
}

#[derive(Clone, Copy)]
struct Timeouts {
    queue: Duration,
    answer: Duration,
    upload: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabel {
    reason: &'static str,
}

/// What is sent, and for whom.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Whose ERP.
    pub clave: &'a Clave,
    /// As whom.
    pub credential: &'a Arc<Credential>,
    /// Where it goes.
    pub target: &'a Target,
    /// Who waits for it.
    pub party: &'a Party,
    /// Cancelled when nobody wants the answer any more: then it gives its place up. What
    /// was sent already goes on.
    pub abandoned: &'a CancellationToken,
}

/// How long a request may take.
#[derive(Clone, Copy)]
struct Deadlines {
    /// It must have its turn by then.
    turn: Instant,
    /// Its answer must be whole so long after.
    answer: Duration,
    /// All must be over by then, retries included.
    end: Instant,
}

/// How one attempt failed.
enum Attempted {
    /// Before anything was sent.
    NotSent(Failure),
    /// After.
    Sent(Failure),
}

impl Upstream {
    /// The way there for that configuration.
    ///
    /// # Errors
    /// TLS can't be set up on this machine.
    pub fn new(
        config: &config::upstream::Upstream,
        clock: Clock,
        jitter: Jitter,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, ClientError> {
        let waits = client::histogram();
        metrics.register(
            "llavero_upstream_wait_seconds",
            "How long requests waited for their turn",
            waits.clone(),
        );
        let retries = Family::default();
        metrics.register(
            "llavero_upstream_retries",
            "Requests that were sent again",
            retries.clone(),
        );
        Ok(Self(Arc::new(Parts {
            client: Client::new(config, clock.clone(), metrics)?,
            queues: Queues::new(
                config.max_concurrency,
                clock.clone(),
                jitter.clone(),
                metrics,
            ),
            tenants: Tenants::new(clock.clone(), jitter.clone(), metrics),
            timeouts: Timeouts {
                queue: config.queue_timeout,
                answer: config.timeout,
                upload: config.upload_timeout,
            },
            clock,
            jitter,
            waits,
            retries,
        })))
    }

    /// The body of a `GET`.
    ///
    /// # Errors
    /// Any answer but 2xx, or none.
    pub async fn get(&self, request: Request<'_>) -> Result<Bytes, Failure> {
        Ok(self.request(request, None).await?.body)
    }

    /// Sends a change.
    ///
    /// # Errors
    /// Any answer but 2xx, or none; [`Failure::is_certain`] says whether it may have been made.
    pub async fn send(&self, request: Request<'_>, payload: &Payload) -> Result<Answer, Failure> {
        self.request(request, Some(payload)).await
    }

    /// How long a request waits for its turn at most.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.0.timeouts.queue
    }

    /// Tenants whose breaker isn't closed.
    #[must_use]
    pub fn broken(&self) -> Vec<(TenantId, BreakerState)> {
        self.0.tenants.broken()
    }

    async fn request(
        &self,
        request: Request<'_>,
        payload: Option<&Payload>,
    ) -> Result<Answer, Failure> {
        let parts = &self.0;
        let tenant = request.credential.id().tenant();
        let effect = payload.map_or(Effect::Read, |_| Effect::Write);
        let deadlines = parts.deadlines(payload);
        parts.tenants.deposit(tenant);
        let mut failed: Option<Failure> = None;
        let mut again: Option<Reason> = None;
        for attempt in 1.. {
            let outcome = self.attempt(request, payload, deadlines).await;
            if let (Some(reason), Ok(_) | Err(Attempted::Sent(_))) = (again, &outcome) {
                let reason = reason.as_str();
                parts.retries.get_or_create(&RetryLabel { reason }).inc();
            }
            let failure = match outcome {
                Ok(answer) => return Ok(answer),
                // That there was no second turn says less than why one was wanted.
                Err(Attempted::NotSent(failure)) => return Err(failed.unwrap_or(failure)),
                Err(Attempted::Sent(failure)) => failure,
            };
            let Some(reason) = retry::reason(effect, &failure) else {
                return Err(failure);
            };
            if attempt >= MAX_ATTEMPTS {
                return Err(failure);
            }
            // After a 429 the queue's pause is the backoff, and one at a time is sent. Once it
            // costs nothing, since the pause is what the ERP asked for.
            let is_free = reason == Reason::RateLimited && attempt == 1;
            if !is_free && !parts.tenants.withdraw(tenant) {
                return Err(failure);
            }
            if reason != Reason::RateLimited {
                let wait = parts.jitter.of(retry::backoff(attempt));
                let again_at = parts.clock.instant() + wait;
                if again_at >= deadlines.end {
                    return Err(failure);
                }
                parts.clock.sleep_until(again_at).await;
                failed = Some(failure);
            }
            again = Some(reason);
        }
        Err(failed.unwrap_or(Failure::Timeout))
    }

    /// Waits for a turn and sends once.
    async fn attempt(
        &self,
        request: Request<'_>,
        payload: Option<&Payload>,
        deadlines: Deadlines,
    ) -> Result<Answer, Attempted> {
        let parts = &self.0;
        self.admit(request).map_err(Attempted::NotSent)?;
        let queue = parts.queues.of(request.credential.id());
        let queued = parts.clock.instant();
        let turn = tokio::select! {
            turn = request.party.turn(&queue, deadlines.turn) => turn,
            () = request.abandoned.cancelled() => Err(Failure::Abandoned),
        };
        let waited = parts.clock.instant().saturating_duration_since(queued);
        parts.waits.observe(waited.as_secs_f64());
        // The breaker may have opened meanwhile, and then that is why there is no turn.
        let epoch = self.admit(request).map_err(Attempted::NotSent)?;
        let turn = turn.map_err(Attempted::NotSent)?;
        let until = (parts.clock.instant() + deadlines.answer).min(deadlines.end);
        parts
            .send(request, payload, turn, epoch, until)
            .await
            .map_err(Attempted::Sent)
    }

    /// Asks the breaker; where it is time for its trial, begins that.
    fn admit(&self, request: Request<'_>) -> Result<Epoch, Failure> {
        // A credential that pauses can't try: another's request will.
        let id = request.credential.id();
        let can_try = || self.0.queues.of(id).is_ready();
        let retry_after = match self.0.tenants.admit(id.tenant(), can_try) {
            Admission::Pass(epoch) => return Ok(epoch),
            Admission::Refuse(retry_after) => retry_after,
            Admission::Trial(epoch) => {
                self.begin_trial(request, epoch);
                TRIAL_RETRY
            }
        };
        Err(Failure::Unavailable { retry_after })
    }

    /// One cheap `GET`, which decides whether the breaker closes.
    fn begin_trial(&self, request: Request<'_>, epoch: Epoch) {
        let parts = self.0.clone();
        let (clave, credential) = (request.clave.clone(), request.credential.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "it answers nobody, and ends by its own timeout"
        )]
        tokio::spawn(async move {
            let until = parts.clock.instant() + TRIAL_TIMEOUT;
            let queue = parts.queues.of(credential.id());
            match queue.turn(Lane::Trial, until).await {
                Ok(turn) => {
                    queue.begin_gently();
                    let trial = Request {
                        clave: &clave,
                        credential: &credential,
                        target: &Target::cheapest(),
                        party: &Party::alone(Lane::Trial),
                        abandoned: &CancellationToken::new(),
                    };
                    let _ = parts.send(trial, None, turn, epoch, until).await;
                }
                Err(_) => parts
                    .tenants
                    .trial_was_not_sent(credential.id().tenant(), epoch),
            }
        });
    }
}

impl Parts {
    fn deadlines(&self, payload: Option<&Payload>) -> Deadlines {
        let turn = self.clock.instant() + self.timeouts.queue;
        let answer = match payload {
            Some(Payload::Image { .. }) => self.timeouts.upload,
            Some(Payload::Patch(_)) | None => self.timeouts.answer,
        };
        Deadlines {
            turn,
            answer,
            end: turn + answer,
        }
    }

    /// Sends once, and tells pace and breaker what came of it.
    async fn send(
        &self,
        request: Request<'_>,
        payload: Option<&Payload>,
        mut turn: Turn,
        epoch: Epoch,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let Request {
            clave,
            credential,
            target,
            ..
        } = request;
        turn.begin();
        let outcome = self
            .client
            .attempt(clave, credential, target, payload, until)
            .await;
        // The breaker first: whoever has the next turn asks it.
        let tenant = credential.id().tenant();
        if self.tenants.judge(tenant, target, epoch, &outcome) {
            self.queues.refuse_all(tenant);
        }
        match &outcome {
            Err(Failure::RateLimited { retry_after }) => {
                tracing::warn!(
                    tenant = tenant.as_str(),
                    credential = &**credential.id().name(),
                    retry_after_s = retry_after.map(|it| it.as_secs()),
                    "the ERP limits the rate: everybody on this credential waits"
                );
                turn.refused(*retry_after);
            }
            Err(failure) if failure.is_outage() => turn.failed(),
            Ok(_) | Err(_) => turn.accepted(),
        }
        outcome
    }
}
