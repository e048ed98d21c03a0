//! What one request attempts, from its arrival to its record.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{clock::Clock, tenants::CredentialId};

use super::{
    log::AuditLog,
    record::{Image, Outcome, Record},
};

/// The trail of one request. Cheap to clone; all clones are one trail.
#[derive(Clone)]
pub struct Trail(Arc<Parts>);

struct Parts {
    log: AuditLog,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    draft: Record,
    is_write: bool,
    /// The layer's record was left, or the write has the trail.
    ended: bool,
}

/// What a request attempts, as far as its address and method tell.
#[derive(Debug)]
pub struct Attempt {
    /// Its id.
    pub request_id: Arc<str>,
    /// Where it comes from.
    pub client: IpAddr,
    /// The operation that is at that address for that method.
    pub operation: Option<Arc<str>>,
    /// The order that the address names.
    pub orden: Option<u64>,
    /// Whether that operation changes the ERP's data.
    pub is_write: bool,
}

impl Trail {
    /// The trail of a request that has just come in.
    #[must_use]
    pub fn open(log: &AuditLog, clock: &Clock, attempt: Attempt) -> Self {
        let draft = Record {
            time: clock.wall(),
            target: "audit",
            request_id: attempt.request_id,
            client: attempt.client,
            issuer: None,
            sub: None,
            tenant: None,
            credential: None,
            operation: attempt.operation,
            orden: attempt.orden,
            proceso: None,
            outcome: Outcome::Unknown,
            code: None,
            upstream_status: None,
            found: false,
            archivo: None,
            received_sha256: None,
            image_sha256: None,
            image_bytes: None,
        };
        Self(Arc::new(Parts {
            log: log.clone(),
            clock: clock.clone(),
            state: Mutex::new(State {
                draft,
                is_write: attempt.is_write,
                ended: false,
            }),
        }))
    }

    /// Whose verified token it is and, where that is clear, for which tenant and as whom at
    /// the ERP.
    pub fn identify(
        &self,
        issuer: &Arc<str>,
        subject: &Arc<str>,
        credential: Option<&CredentialId>,
    ) {
        let draft = &mut self.lock().draft;
        draft.issuer = Some(issuer.clone());
        draft.sub = Some(subject.clone());
        draft.tenant = credential.map(|credential| credential.tenant().clone());
        draft.credential = credential.cloned();
    }

    /// Which operation it is, for certain.
    pub fn is_for(&self, operation: &str, is_write: bool) {
        let mut state = self.lock();
        state.is_write = is_write;
        if state.draft.operation.as_deref() != Some(operation) {
            state.draft.operation = Some(operation.into());
        }
    }

    /// Whether it changes the ERP's data.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.lock().is_write
    }

    /// Whether a token said who it is.
    #[must_use]
    pub fn is_identified(&self) -> bool {
        self.lock().draft.issuer.is_some()
    }

    /// Which image it sends, for whatever record is left of it.
    pub fn shows(&self, image: Option<&Image>) {
        self.lock().draft.show(image);
    }

    /// From here on a change of that order is on its way to the ERP, and the record is the
    /// business of who holds what this gives back. Each change gets a record of its own.
    pub fn take_over(&self, orden: u64, image: Option<&Image>) -> Taken {
        let mut state = self.lock();
        state.ended = true;
        let mut record = state.draft.clone();
        record.orden = Some(orden);
        record.show(image);
        Taken {
            log: self.0.log.clone(),
            clock: self.0.clock.clone(),
            record: Some(record),
        }
    }

    /// Leaves the record, unless a change has taken the trail over or one was left.
    pub fn leave(&self, outcome: Outcome, code: Option<&'static str>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        let mut record = state.draft.clone();
        drop(state);
        record.time = self.0.clock.wall();
        record.outcome = outcome;
        record.code = code;
        self.0.log.write(record);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trail")
    }
}

/// The record of a change that is on its way. Dropped unsaid, as by a panic, it is
/// [`Outcome::Unknown`].
#[must_use]
pub struct Taken {
    log: AuditLog,
    clock: Clock,
    record: Option<Record>,
}

impl Taken {
    /// Which of the ERP's files the photo became.
    pub fn is_archivo(&mut self, id: Option<u64>) {
        if let Some(record) = &mut self.record {
            record.archivo = id;
        }
    }

    /// The outcome was learnt by looking at the order.
    pub fn was_found(&mut self) {
        if let Some(record) = &mut self.record {
            record.found = true;
        }
    }

    /// Leaves the record. `code` is the problem that the caller is told.
    pub fn end(
        mut self,
        outcome: Outcome,
        code: Option<&'static str>,
        upstream_status: Option<u16>,
    ) {
        self.leave(outcome, code, upstream_status);
    }

    fn leave(&mut self, outcome: Outcome, code: Option<&'static str>, status: Option<u16>) {
        if let Some(mut record) = self.record.take() {
            record.time = self.clock.wall();
            record.outcome = outcome;
            record.code = code;
            record.upstream_status = status;
            self.log.write(record);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.leave(Outcome::Unknown, None, None);
    }
}
