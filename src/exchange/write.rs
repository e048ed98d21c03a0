//! The write: what it waits for, whether it was made already, and what becomes of it. It runs to its end once it has
//! begun.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    cache::Representation,
    caller::Permit,
    idempotency::{Attempt, Claim},
    telemetry::audit::{self, Outcome, Taken},
    tenants::TenantId,
    upstream::{Failure, Party, Payload, Request, Target},
};

use super::{
    Exchange, ExchangeError, Parts, Read, ResultLabel, Sighting, Subject, Trace, Unfit,
    generation::Change,
    lane_of,
    marks::{self, Mark, MarkTurn},
    records::RecordTurn,
    trace,
};

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

impl Write {
    /// Which of the ERP's files a photo became, by the answer to its upload.
    fn archivo(&self, answer: &Representation) -> Option<u64> {
        self.image.as_ref()?;
        self.trace
            .as_ref()
            .and_then(|trace| (trace.id)(answer.body()))
    }
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

/// What a change holds until its answer is here.
struct Turns {
    #[expect(dead_code, reason = "held for its drop")]
    record: Option<RecordTurn>,
    mark: Option<MarkTurn>,
    /// How long it waited for them.
    waited: Duration,
}

/// How a change goes on once its turn has come.
enum Beginning {
    /// It is sent.
    Send(Turns),
    /// An earlier attempt had made it.
    WasMade {
        answer: Arc<Representation>,
        /// As its trace says, which was looked for.
        is_found: bool,
        turns: Turns,
    },
}

/// What came of sending a change.
struct Sent {
    result: Result<Arc<Representation>, ExchangeError>,
    upstream_status: Option<u16>,
    /// Whether its trace was looked for and says that it was made.
    is_found: bool,
}

impl Exchange {
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
    ) -> Result<Written, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit> + Send + 'static,
    {
        let this = self.clone();
        let record = permit
            .trail()
            .take_over(write.record.1, write.image.as_ref());
        let task = async move {
            this.write_to_its_end(&permit, write, record, translate)
                .await
        };
        let task = self
            .0
            .tasks
            .spawn(task.instrument(tracing::Span::current()));
        task.await.unwrap_or(Err(ExchangeError::Interrupted))
    }

    async fn write_to_its_end<T>(
        &self,
        permit: &Permit,
        mut write: Write,
        mut record: Taken,
        translate: T,
    ) -> Result<Written, ExchangeError>
    where
        T: FnOnce(&[u8]) -> Result<Representation, Unfit>,
    {
        let parts = &self.0;
        let tenant = permit.tenant().id();
        let mut claim = write.claim.take();
        let mut turns = match self.begin(permit, &mut write, claim.as_deref()).await {
            Ok(Beginning::Send(turns)) => turns,
            Ok(Beginning::WasMade {
                answer: representation,
                is_found,
                turns,
            }) => {
                parts.drop_changed(tenant, write.record, None);
                give_answer(claim, &representation).await;
                // Whoever is next finds that.
                drop(turns);
                record.is_archivo(write.archivo(&representation));
                if is_found {
                    record.was_found();
                }
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
                record.end(Outcome::Refused, Some((parts.code_of)(&error)), None);
                return Err(error);
            }
        };
        let now = parts.clock.wall();
        if let Some(claim) = &mut claim {
            claim.sends(now);
        }
        let sent = self.send(permit, &write, &mut turns, now, translate).await;
        let error = sent.result.as_ref().err();
        parts.drop_changed(tenant, write.record, error);
        match (&sent.result, claim) {
            (Ok(representation), claim) => give_answer(claim, representation).await,
            (Err(error), Some(claim)) if error.is_certain() => claim.not_done().await,
            (Err(_), Some(claim)) => claim.undecided().await,
            (Err(_), None) => {}
        }
        if let (Ok(_), Some(image)) = (&sent.result, &write.image) {
            parts.uploaded.inc_by(image.bytes as u64);
        }
        if let Ok(representation) = &sent.result {
            record.is_archivo(write.archivo(representation));
        }
        if sent.is_found {
            record.was_found();
        }
        parts.tell(record, error, sent.upstream_status);
        drop(turns);
        Ok(Written {
            representation: sent.result?,
            is_replayed: false,
        })
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
        let mut turns = parts.turns(permit, write, condition.is_some()).await?;
        if let (Some(claim), Some(trace)) = (claim, &write.trace)
            && let Some(earlier) = claim.earlier()
        {
            if let Some(answer) = claim.made_by_another().await {
                return Ok(Beginning::WasMade {
                    answer: Arc::new(Representation::new(answer.to_vec())),
                    is_found: false,
                    turns,
                });
            }
            let found = parts
                .look_for(permit, trace, earlier, turns.mark.as_deref_mut())
                .await;
            match found {
                Ok(Some(answer)) => {
                    return Ok(Beginning::WasMade {
                        answer,
                        is_found: true,
                        turns,
                    });
                }
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
            waited: turns.waited,
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
        let mut is_found = false;
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
                is_found = true;
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
            is_found,
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
}

impl Parts {
    /// All that a change has to wait for here, within the time that it has for its turn at the ERP too: who waits so long
    /// that none is left is told so.
    async fn turns(
        &self,
        permit: &Permit,
        write: &Write,
        alone: bool,
    ) -> Result<Turns, ExchangeError> {
        let begun = self.clock.instant();
        let patience = self.upstream.patience();
        let both = async {
            let record = self.record_turn(permit, write, alone).await?;
            let mark = self.mark_turn(permit, write).await?;
            Some((record, mark))
        };
        let both = self.clock.before(begun + patience, both).await.flatten();
        let (record, mark) = both.ok_or(ExchangeError::Occupied {
            retry_after: patience,
        })?;
        Ok(Turns {
            record,
            mark,
            waited: self.clock.instant().saturating_duration_since(begun),
        })
    }

    /// Leave to change the record; none is needed for a photo, which overwrites nothing that
    /// a condition looked at. Nothing where too many wait for it.
    async fn record_turn(
        &self,
        permit: &Permit,
        write: &Write,
        alone: bool,
    ) -> Option<Option<RecordTurn>> {
        if matches!(write.payload, Payload::Image { .. }) {
            return Some(None);
        }
        let record = (permit.tenant().id().clone(), write.record.1);
        self.records.turn(record, alone).await.map(Some)
    }

    /// Leave to leave a trace under the change's mark. Nothing where too many wait for it.
    async fn mark_turn(&self, permit: &Permit, write: &Write) -> Option<Option<MarkTurn>> {
        let Some(text) = write.trace.as_ref().and_then(|trace| trace.mark.clone()) else {
            return Some(None);
        };
        let mark = Mark {
            tenant: permit.tenant().id().clone(),
            record: write.record,
            text,
        };
        self.marks.turn(mark).await.map(Some)
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
            waited: Duration::ZERO,
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
}

/// Keeps a change's answer for those who ask again.
async fn give_answer(claim: Option<Box<Claim>>, answer: &Representation) {
    if let Some(claim) = claim {
        claim.done(answer.body().clone()).await;
    }
}
