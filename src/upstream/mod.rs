//! The ERP as a client sees it: addresses, credentials on the wire, bounded
//! answers, failures in our own words. What an answer means is the resources' business.
//!
//! This file is the whole rule of a request: the tenant's breaker lets it pass, the
//! credential's queue gives it a turn at the credential's pace, it is sent as who the credential
//! is (`presented.rs`), both are told what came of it, and where it may be sent again it is. `docs/upstream.md` has the
//! same in words and pictures.

mod agenda;
mod body;
mod breaker;
mod client;
mod cursor;
mod failure;
mod health;
mod login;
mod pace;
mod paging;
mod places;
mod presented;
mod queue;
mod recovery;
mod retry;
mod rotation;
mod session;
mod target;
mod tenants;
mod trial;

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

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config,
    telemetry::traces::Context,
    tenants::{Clave, Credential, CredentialId, KeySlot, Presented, TenantId},
    watchlist::Watchlist,
};

pub use body::{Encoding, Payload};
pub use breaker::BreakerState;
pub use client::{Answer, ClientError};
pub use cursor::{CursorKey, InvalidCursor};
pub use failure::Failure;
pub use health::RefusedCredential;
pub use paging::{Page, PageLinks, Unsealable};
pub use queue::{Joining, Lane, Party};
pub use retry::Jitter;
pub use target::Target;
use trial::Trial;

use breaker::{Admission, Epoch, TRIAL_RETRY};
use client::Client;
use cursor::CursorSeed;
use health::Health;
use login::Logins;
use places::Kind;
use presented::{Identity, SendError, Sending};
use queue::Queues;
use retry::{Effect, MAX_ATTEMPTS, Reason};
use session::Sessions;
use tenants::Tenants;

/// How long a trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for the trial that is under way: most decide in less.
const TRIAL_WAIT: Duration = Duration::from_secs(1);

/// The way to every tenant's ERP. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Parts>);

struct Parts {
    client: Client,
    queues: Queues,
    tenants: Tenants,
    sessions: Sessions,
    logins: Logins,
    health: Health,
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
    /// How much of `upstream.queue_timeout` its caller has waited already, for something else.
    pub waited: Duration,
    /// Where in a trace it is made. Nothing of that goes to the ERP.
    pub trace: &'a Context,
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
    /// Before anything was sent, and there is nothing to be tried again.
    NotSent(Failure),
    /// A login that it waited for failed.
    NotLoggedIn(Failure),
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
        watchlist: Watchlist,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, ClientError> {
        let waits = client::histogram();
        metrics.register(
            "llavero_upstream_wait_seconds",
            "How long requests waited for their turn",
            waits.clone(),
        );
        let retries = Family::<RetryLabel, Counter>::default();
        metrics.register(
            "llavero_upstream_retries",
            "Requests that were sent again",
            retries.clone(),
        );
        // Every series is there from the start, so that a first event is an increase.
        for reason in Reason::ALL {
            let reason = reason.as_str();
            let _ = retries.get_or_create(&RetryLabel { reason });
        }
        Ok(Self(Arc::new(Parts {
            client: Client::new(config, clock.clone(), metrics)?,
            queues: Queues::new(
                config.max_concurrency,
                clock.clone(),
                jitter.clone(),
                metrics,
            ),
            tenants: Tenants::new(clock.clone(), jitter.clone(), metrics),
            sessions: Sessions::new(clock.clone(), watchlist),
            logins: Logins::new(metrics),
            health: Health::new(clock.clone(), jitter.clone(), metrics),
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
        Ok(self.request(request, None, None).await?.body)
    }

    /// The body of a cheap `GET`: with that key of a pair, whichever is active, and where the ERP refuses it nothing else
    /// is tried; or as any request is sent.
    ///
    /// # Errors
    /// Any answer but 2xx, or none.
    pub async fn probe(
        &self,
        clave: &Clave,
        credential: &Arc<Credential>,
        key: Option<KeySlot>,
    ) -> Result<Bytes, Failure> {
        let trial = Trial::new();
        let request = trial.request(clave, credential);
        Ok(self.request(request, None, key).await?.body)
    }

    /// Sees to it that a credential that logs in has a session; others need none.
    ///
    /// # Errors
    /// [`Failure::CredentialRejected`] where the ERP refuses the login, or why there is no answer.
    pub async fn log_in(&self, clave: &Clave, credential: &Arc<Credential>) -> Result<(), Failure> {
        let trial = Trial::new();
        let request = trial.request(clave, credential);
        let identity = self.0.identity(credential);
        let until = self.0.clock.instant() + self.0.timeouts.answer;
        let epoch = self.admit(request)?;
        let turn = request
            .party
            .turn(&self.0.queues.of(credential.id()), Kind::Brief, until)
            .await?;
        let sending = Sending {
            request,
            payload: None,
            epoch,
            until,
            identity: &identity,
        };
        self.0.prepare(&sending, turn).await
    }

    /// The answer to a `GET`, with the time that it was given.
    ///
    /// # Errors
    /// Any answer but 2xx, or none.
    pub async fn look(&self, request: Request<'_>) -> Result<Answer, Failure> {
        self.request(request, None, None).await
    }

    /// Sends a change.
    ///
    /// # Errors
    /// Any answer but 2xx, or none; [`Failure::is_certain`] says whether it may have been made.
    pub async fn send(&self, request: Request<'_>, payload: &Payload) -> Result<Answer, Failure> {
        self.request(request, Some(payload), None).await
    }

    /// Seals and opens the cursors of that credential. The first time it may take a fifth of a second
    /// where they are sealed under a password.
    pub async fn cursor_key(&self, credential: &Arc<Credential>) -> Option<CursorKey> {
        let slot = match credential.presented() {
            Presented::ApiKey(keys) => return CursorKey::of_keys(credential.id(), keys),
            Presented::Login(_) => self.0.sessions.of(credential)?,
        };
        let derive = || {
            let credential = credential.clone();
            let derived = tokio::task::spawn_blocking(move || match credential.presented() {
                Presented::Login(login) => Some(CursorSeed::of_login(credential.id(), login)),
                Presented::ApiKey(_) => None,
            });
            async { derived.await.ok().flatten() }
        };
        let seed = slot.cursor_seed(derive).await?;
        CursorKey::of_seed(credential.id(), &seed)
    }

    /// How long a request waits for its turn at most.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.0.timeouts.queue
    }

    /// How long a change takes at most, its turn included.
    #[must_use]
    pub fn longest_write(&self) -> Duration {
        let Timeouts {
            queue,
            answer,
            upload,
        } = self.0.timeouts;
        queue + answer.max(upload)
    }

    /// Tenants whose breaker isn't closed.
    #[must_use]
    pub fn broken(&self) -> Vec<(TenantId, BreakerState)> {
        self.0.tenants.broken()
    }

    /// Credentials that the ERP refuses.
    #[must_use]
    pub fn refused_credentials(&self) -> Vec<RefusedCredential> {
        self.0.health.all_refused()
    }

    /// Credentials whose requests wait for a pause to end that a 429 began, and for how long.
    #[must_use]
    pub fn paused_credentials(&self) -> Vec<(CredentialId, Duration)> {
        self.0.queues.paused()
    }

    /// Credentials whose requests are held to a limit that 429s have shown, and how far apart where it is nearly used.
    #[must_use]
    pub fn paces(&self) -> Vec<(CredentialId, Duration)> {
        self.0.queues.paces()
    }

    /// Drops all that is known of a tenant that is no more: sessions, queues, breaker, metrics.
    pub fn forget(&self, tenant: &TenantId) {
        let parts = &self.0;
        parts.sessions.forget(tenant);
        parts.queues.forget(tenant);
        parts.tenants.forget(tenant);
        parts.health.forget(tenant);
    }

    async fn request(
        &self,
        request: Request<'_>,
        payload: Option<&Payload>,
        key: Option<KeySlot>,
    ) -> Result<Answer, Failure> {
        let parts = &self.0;
        let tenant = request.credential.id().tenant();
        let effect = payload.map_or(Effect::Read, |_| Effect::Write);
        let deadlines = parts.deadlines(payload, request.waited);
        parts.tenants.deposit(tenant);
        let mut failed: Option<Failure> = None;
        let mut again: Option<Reason> = None;
        for attempt in 1.. {
            let identity = match key {
                Some(key) => Identity::TriedKey(key),
                None => parts.identity(request.credential),
            };
            let outcome = self.attempt(request, payload, deadlines, &identity).await;
            if let (Some(reason), Ok(_) | Err(Attempted::Sent(_))) = (again, &outcome) {
                let reason = reason.as_str();
                parts.retries.get_or_create(&RetryLabel { reason }).inc();
            }
            let failure = match outcome {
                Ok(answer) => return Ok(answer),
                // That there was no second turn says less than why one was wanted.
                Err(Attempted::NotSent(failure)) => return Err(failed.unwrap_or(failure)),
                Err(Attempted::NotLoggedIn(failure) | Attempted::Sent(failure)) => failure,
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
        identity: &Identity,
    ) -> Result<Answer, Attempted> {
        let parts = &self.0;
        if let Some(status) = identity.refusal() {
            // A refresh that nobody waited for may have been what was refused.
            parts.health.refused(request.credential, status);
            let failure = Failure::CredentialRejected(status);
            return Err(Attempted::NotSent(failure));
        }
        let admitted = self.admit_after_trial(request, deadlines.turn).await;
        admitted.map_err(Attempted::NotSent)?;
        let queue = parts.queues.of(request.credential.id());
        let kind = match payload {
            Some(Payload::Image { .. }) => Kind::Upload,
            Some(Payload::Patch(_)) | None => Kind::Brief,
        };
        let queued = parts.clock.instant();
        let mut waiting = request.trace.child("queue");
        let turn = tokio::select! {
            turn = request.party.turn(&queue, kind, deadlines.turn) => turn,
            () = request.abandoned.cancelled() => Err(Failure::Abandoned),
        };
        if let Err(failure) = &turn {
            waiting.fail(failure.as_str());
        }
        drop(waiting);
        let waited = parts.clock.instant().saturating_duration_since(queued);
        parts.waits.observe(waited.as_secs_f64());
        // The breaker may have opened meanwhile, and then that is why there is no turn.
        let epoch = self.admit(request).map_err(Attempted::NotSent)?;
        let turn = turn.map_err(Attempted::NotSent)?;
        let until = (parts.clock.instant() + deadlines.answer).min(deadlines.end);
        let sending = Sending {
            request,
            payload,
            epoch,
            until,
            identity,
        };
        let outcome = parts.send(sending, turn).await;
        outcome.map_err(|error| match error {
            SendError::Sent(failure) => Attempted::Sent(failure),
            SendError::NotSent(failure) => Attempted::NotLoggedIn(failure),
        })
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
                let (clave, credential) = (request.clave.clone(), request.credential.clone());
                // It says itself what came of it.
                drop(self.begin_trial(clave, credential, epoch));
                TRIAL_RETRY
            }
        };
        Err(Failure::Unavailable { retry_after })
    }

    /// The same, and where a trial is under way, what it has decided. It holds no turn while it
    /// waits: the trial needs one.
    async fn admit_after_trial(
        &self,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Epoch, Failure> {
        let refused = match self.admit(request) {
            Ok(epoch) => return Ok(epoch),
            Err(refused) => refused,
        };
        let parts = &self.0;
        let Some(trial) = parts.tenants.trial(request.credential.id().tenant()) else {
            return Err(refused);
        };
        let until = (parts.clock.instant() + TRIAL_WAIT).min(deadline);
        tokio::select! {
            _ = parts.clock.before(until, trial) => self.admit(request),
            () = request.abandoned.cancelled() => Err(Failure::Abandoned),
        }
    }

    /// One cheap `GET`, which decides whether the breaker closes.
    fn begin_trial(
        &self,
        clave: Clave,
        credential: Arc<Credential>,
        epoch: Epoch,
    ) -> JoinHandle<()> {
        let parts = self.0.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it answers nobody, and ends by its own timeout"
        )]
        tokio::spawn(async move {
            let until = parts.clock.instant() + TRIAL_TIMEOUT;
            let queue = parts.queues.of(credential.id());
            match queue.turn(Lane::Trial, Kind::Brief, until).await {
                Ok(turn) => {
                    queue.begin_gently();
                    let trial = Trial::new();
                    let sending = Sending {
                        request: trial.request(&clave, &credential),
                        payload: None,
                        epoch,
                        until,
                        identity: &parts.identity(&credential),
                    };
                    if let Err(SendError::NotSent(_)) = parts.send(sending, turn).await {
                        let tenant = credential.id().tenant();
                        parts.tenants.trial_was_not_sent(tenant, epoch);
                    }
                }
                Err(_) => parts
                    .tenants
                    .trial_was_not_sent(credential.id().tenant(), epoch),
            }
        })
    }
}

impl Parts {
    fn deadlines(&self, payload: Option<&Payload>, waited: Duration) -> Deadlines {
        let turn = self.clock.instant() + self.timeouts.queue.saturating_sub(waited);
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
}
