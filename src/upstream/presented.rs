//! What a request presents, and what instead once the ERP has refused that: the other key of
//! a pair, or a new session. Each request is sent twice at most.

use std::{sync::Arc, time::Instant};

use crate::tenants::{ActiveKey, Clave, Credential, KeySlot, LoginMode, Presented};

use super::{
    Answer, Failure, Lane, Parts, Payload, Request, Target,
    breaker::{Admission, Epoch},
    client::Shown,
    login::Entrance,
    places::Kind,
    queue::Turn,
    rotation,
    session::{Asked, Errand, Session, Slot},
};

/// One sending of a request, in its turn.
pub(super) struct Sending<'a> {
    pub(super) request: Request<'a>,
    pub(super) payload: Option<&'a Payload>,
    /// Of the breaker that let it pass.
    pub(super) epoch: Epoch,
    /// Its answer must be whole by then.
    pub(super) until: Instant,
    pub(super) identity: &'a Identity,
}

/// Who a request goes as, settled before it waits for its turn.
pub(super) enum Identity {
    /// Whichever key is active.
    ActiveKey,
    /// That key and no other: it is being tried.
    TriedKey(KeySlot),
    /// Whatever session there is by then.
    Session {
        slot: Arc<Slot>,
        /// Logins that had failed before.
        failures: u64,
    },
}

/// What is presented.
enum Presenting {
    Key { slot: KeySlot, seen: ActiveKey },
    Session(Arc<Session>),
}

/// Why there is nothing to present.
struct Absent {
    failure: Failure,
    /// The login that failed went out in our turn.
    is_ours: bool,
}

/// How a sending failed.
pub(super) enum SendError {
    /// Something was sent in this turn.
    Sent(Failure),
    /// Somebody else's login failed, or the refusal of one is still believed.
    NotSent(Failure),
}

impl Identity {
    /// The status of the refusal that is believed now: no turn is needed to be told.
    pub(super) fn refusal(&self) -> Option<u16> {
        match self {
            Self::Session { slot, .. } => slot.refusal(),
            Self::ActiveKey | Self::TriedKey(_) => None,
        }
    }
}

impl Parts {
    /// Who a request with that credential goes as.
    pub(super) fn identity(&self, credential: &Arc<Credential>) -> Identity {
        match self.sessions.of(credential) {
            Some(slot) => Identity::Session {
                failures: slot.failures(),
                slot,
            },
            None => Identity::ActiveKey,
        }
    }

    /// Sends with what the credential presents; where the ERP refuses that with 401, once more
    /// with what there is instead. A 401 did nothing, so a write is as good as a read.
    pub(super) async fn send(
        self: &Arc<Self>,
        sending: Sending<'_>,
        mut turn: Turn,
    ) -> Result<Answer, SendError> {
        let presenting = match self.presenting(&sending, &mut turn).await {
            Ok(presenting) => presenting,
            Err(Absent { failure, is_ours }) => {
                if is_ours {
                    self.tell(&sending, turn, Err(&failure));
                }
                self.note(&sending, Err(&failure));
                return Err(if is_ours {
                    SendError::Sent(failure)
                } else {
                    SendError::NotSent(failure)
                });
            }
        };
        turn.begin();
        let outcome = self.send_as(&sending, &presenting).await;
        let instead = match &outcome {
            Err(Failure::CredentialRejected(401)) => {
                self.instead_of(&sending, &presenting, &mut turn).await
            }
            _ => Ok(None),
        };
        let outcome = match instead {
            Ok(None) => outcome,
            Ok(Some(instead)) => {
                let outcome = self.send_as(&sending, &instead).await;
                take_over(sending.request.credential, &instead, without_body(&outcome));
                outcome
            }
            Err(Absent { failure, is_ours }) => {
                // The turn ends as what was sent in it last.
                let last = if is_ours {
                    Err(&failure)
                } else {
                    without_body(&outcome)
                };
                self.tell(&sending, turn, last);
                self.note(&sending, Err(&failure));
                return Err(SendError::Sent(failure));
            }
        };
        self.tell(&sending, turn, without_body(&outcome));
        self.note(&sending, without_body(&outcome));
        outcome.map_err(SendError::Sent)
    }

    /// Comes to have what would be presented, and sends nothing else.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        sending: &Sending<'_>,
        mut turn: Turn,
    ) -> Result<(), Failure> {
        let outcome = self.presenting(sending, &mut turn).await;
        outcome.map(|_| ()).map_err(|absent| absent.failure)
    }

    async fn send_as(
        &self,
        sending: &Sending<'_>,
        presenting: &Presenting,
    ) -> Result<Answer, Failure> {
        let credential = sending.request.credential;
        let shown = match (presenting, credential.presented()) {
            (Presenting::Key { slot, .. }, Presented::ApiKey(keys)) => {
                Shown::ApiKey(keys.key(*slot).ok_or(Failure::Address)?)
            }
            (Presenting::Session(session), _) => match session.mode() {
                LoginMode::Jwt => Shown::Bearer(session.secret()),
                LoginMode::ApiKey => Shown::ApiKey(session.secret()),
            },
            (Presenting::Key { .. }, Presented::Login(_)) => return Err(Failure::Address),
        };
        let outcome = self
            .client
            .attempt(sending.request, shown, sending.payload, sending.until)
            .await;
        if let (Presenting::Session(session), Identity::Session { slot, .. }, true) = (
            presenting,
            sending.identity,
            is_accepted(without_body(&outcome)),
        ) {
            slot.prove(session);
        }
        outcome
    }

    /// What to present first.
    async fn presenting(
        self: &Arc<Self>,
        sending: &Sending<'_>,
        turn: &mut Turn,
    ) -> Result<Presenting, Absent> {
        match (sending.identity, sending.request.credential.presented()) {
            (Identity::Session { slot, failures }, _) => self
                .session(sending, slot, *failures, turn)
                .await
                .map(Presenting::Session),
            (Identity::ActiveKey, Presented::ApiKey(keys)) => {
                let seen = keys.active();
                let slot = seen.slot;
                Ok(Presenting::Key { slot, seen })
            }
            (Identity::TriedKey(slot), Presented::ApiKey(keys)) => Ok(Presenting::Key {
                slot: *slot,
                seen: keys.active(),
            }),
            (Identity::ActiveKey | Identity::TriedKey(_), Presented::Login(_)) => Err(Absent {
                failure: Failure::Address,
                is_ours: false,
            }),
        }
    }

    /// What to present after a 401, if anything.
    async fn instead_of(
        self: &Arc<Self>,
        sending: &Sending<'_>,
        refused: &Presenting,
        turn: &mut Turn,
    ) -> Result<Option<Presenting>, Absent> {
        match (sending.identity, refused) {
            (Identity::ActiveKey, Presenting::Key { slot, seen }) => {
                let (slot, seen) = (slot.other(), *seen);
                let has_other = match sending.request.credential.presented() {
                    Presented::ApiKey(keys) => keys.key(slot).is_some(),
                    Presented::Login(_) => false,
                };
                Ok(has_other.then_some(Presenting::Key { slot, seen }))
            }
            (Identity::Session { slot, failures }, Presenting::Session(session)) => {
                if !slot.refuse(session) {
                    return Ok(None);
                }
                let instead = self.session(sending, slot, *failures, turn).await?;
                Ok(Some(Presenting::Session(instead)))
            }
            _ => Ok(None),
        }
    }

    /// A session: the one that there is, somebody's who is at it, or our own login, in our turn.
    async fn session(
        self: &Arc<Self>,
        sending: &Sending<'_>,
        slot: &Arc<Slot>,
        failures: u64,
        turn: &mut Turn,
    ) -> Result<Arc<Session>, Absent> {
        let (pending, is_ours) = match slot.ask(failures) {
            Asked::Have { session, is_due } => {
                if is_due {
                    self.refresh_ahead(sending.request, slot.clone(), session.clone());
                }
                return Ok(session);
            }
            Asked::Failed(failure) => {
                let is_ours = false;
                return Err(Absent { failure, is_ours });
            }
            Asked::Wait(pending) => (pending, false),
            Asked::Begin(errand) => {
                turn.begin();
                let pending = errand.pending();
                let (clave, credential) = (
                    sending.request.clave.clone(),
                    sending.request.credential.clone(),
                );
                // An upload may take long; the login before it may not.
                let until = (self.clock.instant() + self.timeouts.answer).min(sending.until);
                let parts = self.clone();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "whoever waits for it is waited for; it ends by its own timeout"
                )]
                tokio::spawn(async move { parts.run(errand, &clave, &credential, until).await });
                (pending, true)
            }
        };
        let mut waiting = sending.request.trace.child("login");
        let outcome = self.clock.before(sending.until, pending.outcome()).await;
        let outcome = match outcome {
            Some(Some(outcome)) => outcome,
            Some(None) => Err(Failure::Login(Box::new(Failure::Broken))),
            None => Err(Failure::Login(Box::new(Failure::Timeout))),
        };
        outcome.map_err(|failure| {
            waiting.fail(failure.as_str());
            Absent { failure, is_ours }
        })
    }

    /// Logs in or refreshes, and tells those who wait.
    async fn run(
        &self,
        errand: Errand,
        clave: &Clave,
        credential: &Credential,
        until: Instant,
    ) -> Result<Arc<Session>, Failure> {
        let Presented::Login(login) = credential.presented() else {
            return errand.end(Err(Failure::Address));
        };
        let entrance = Entrance {
            client: &self.client,
            clock: &self.clock,
            clave,
            id: credential.id(),
            until,
        };
        let granted = self.logins.renew(entrance, login, errand.refresh()).await;
        if let Err(failure) = &granted {
            tracing::warn!(
                tenant = credential.id().tenant().as_str(),
                credential = &**credential.id().name(),
                cause = %failure,
                "the login at the ERP failed"
            );
        }
        errand.end(granted)
    }

    /// Refreshes a session before it ends, in a turn like any request; until that is done
    /// it goes on being used.
    fn refresh_ahead(
        self: &Arc<Self>,
        request: Request<'_>,
        slot: Arc<Slot>,
        session: Arc<Session>,
    ) {
        let parts = self.clone();
        let (clave, credential) = (request.clave.clone(), request.credential.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "it answers nobody, and ends by its own timeout"
        )]
        tokio::spawn(async move {
            let id = credential.id();
            // Where the ERP fails, its trial comes first.
            let Admission::Pass(epoch) = parts.tenants.admit(id.tenant(), || false) else {
                return;
            };
            let queue = parts.queues.of(id);
            let until = parts.clock.instant() + parts.timeouts.queue;
            let Ok(mut turn) = queue.turn(Lane::Refresh, Kind::Brief, until).await else {
                return;
            };
            let Some(errand) = slot.begin_ahead(&session) else {
                return;
            };
            turn.begin();
            let until = parts.clock.instant() + parts.timeouts.answer;
            let outcome = parts.run(errand, &clave, &credential, until).await;
            let outcome = outcome.as_ref().map(|_| ());
            parts.tell_of(&credential, &Target::cheapest(), epoch, turn, outcome);
        });
    }

    /// Tells breaker and pace what came of a turn.
    fn tell(&self, sending: &Sending<'_>, turn: Turn, outcome: Result<(), &Failure>) {
        let Request {
            credential, target, ..
        } = sending.request;
        self.tell_of(credential, target, sending.epoch, turn, outcome);
    }

    fn tell_of(
        &self,
        credential: &Credential,
        target: &Target,
        epoch: Epoch,
        turn: Turn,
        outcome: Result<(), &Failure>,
    ) {
        // The breaker first: whoever has the next turn asks it.
        let id = credential.id();
        if self.tenants.judge(id, target, epoch, outcome) {
            self.queues.refuse_all(id.tenant());
        }
        match outcome {
            Err(Failure::RateLimited { retry_after }) => {
                tracing::warn!(
                    tenant = id.tenant().as_str(),
                    credential = &**id.name(),
                    retry_after_s = retry_after.map(|it| it.as_secs()),
                    "the ERP limits the rate: everybody on this credential waits"
                );
                turn.refused(*retry_after);
            }
            Err(failure) if failure.is_outage() => turn.failed(),
            Ok(()) | Err(_) => turn.accepted(),
        }
    }

    /// Notes for operators whether the ERP takes the credential.
    fn note(&self, sending: &Sending<'_>, outcome: Result<(), &Failure>) {
        // A key that is being tried isn't what the credential lives on.
        if matches!(sending.identity, Identity::TriedKey(_)) {
            return;
        }
        let credential = sending.request.credential;
        if let Err(Failure::CredentialRejected(status)) = outcome {
            self.health.refused(credential, *status);
        } else if is_accepted(outcome) {
            self.health.accepted(credential.id());
        }
    }
}

/// A key that was accepted instead takes over.
fn take_over(credential: &Credential, instead: &Presenting, outcome: Result<(), &Failure>) {
    if let (Presenting::Key { seen, .. }, Presented::ApiKey(keys)) =
        (instead, credential.presented())
        && is_accepted(outcome)
        && keys.switch(*seen)
    {
        rotation::tell_takeover(credential);
    }
}

fn without_body(outcome: &Result<Answer, Failure>) -> Result<(), &Failure> {
    outcome.as_ref().map(|_| ())
}

/// Whether an answer shows that the ERP knew who asked.
fn is_accepted(outcome: Result<(), &Failure>) -> bool {
    matches!(
        outcome,
        Ok(()) | Err(Failure::NotFound | Failure::Rejected { .. } | Failure::TooLarge)
    )
}
