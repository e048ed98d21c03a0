//! What writes that are made once have in common.

use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    app::AppState,
    caller::Permit,
    exchange::{Exchange, Written},
    extract::Keyed,
    idempotency::{Asked, Begun, Claim, Idempotency, Once},
    problem::Problem,
    telemetry::audit::{Image, Outcome},
};

/// Says that an earlier request did what this one asked for, and this is its answer.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How long an equal photo without a key is the same upload (`images.dedupe_window`).
#[derive(Debug, Clone, Copy)]
pub struct DedupeWindow(pub Duration);

/// What a write that is made once needs.
#[derive(FromRequestParts)]
#[from_request(state(AppState))]
pub(super) struct Writing {
    /// The caller's key.
    pub(super) key: Keyed,
    /// The way to the ERP.
    #[from_request(via(State))]
    pub(super) exchange: Exchange,
    /// What was asked before.
    #[from_request(via(State))]
    pub(super) idempotency: Idempotency,
    /// How long an equal photo is the same upload.
    #[from_request(via(State))]
    pub(super) window: DedupeWindow,
}

/// Who asks for what.
pub(super) fn asked(permit: &Permit, record: u64) -> Asked<'_> {
    Asked {
        credential: permit.credential_id(),
        clave: permit.tenant().clave(),
        issuer: permit.claims().issuer(),
        subject: permit.claims().subject(),
        operation: permit.operation().name,
        record,
    }
}

/// How a write begins.
pub(super) enum Start {
    /// It is to be sent; without a claim where nothing tells it from another.
    Send(Option<Box<Claim>>),
    /// It was made before.
    Made(Answer),
}

/// The body of a write's answer.
pub(super) struct Answer {
    pub(super) body: Bytes,
    is_replayed: bool,
}

/// Begins a write, or finds the answer of the one that it repeats, and leaves the record of that. `archivo_of` knows from
/// an answer which of the ERP's files a photo became.
pub(super) async fn start(
    idempotency: &Idempotency,
    permit: &Permit,
    record: u64,
    once: Option<Once>,
    image: Option<&Image>,
    archivo_of: fn(&[u8]) -> Option<u64>,
) -> Result<Start, Problem> {
    let Some(once) = once else {
        return Ok(Start::Send(None));
    };
    // A request that is refused here has an image as well, and its record says which.
    permit.trail().shows(image);
    match idempotency.begin(once).await? {
        Begun::First(claim) => Ok(Start::Send(Some(claim))),
        Begun::Done(body) => {
            let mut taken = permit.trail().take_over(record, image);
            taken.is_archivo(archivo_of(&body));
            taken.end(Outcome::Replayed, None, None);
            Ok(Start::Made(Answer {
                body,
                is_replayed: true,
            }))
        }
    }
}

impl Answer {
    /// Marks the answer of a write that was made before.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        if self.is_replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
    }
}

impl From<Written> for Answer {
    fn from(written: Written) -> Self {
        Self {
            body: written.representation.body().clone(),
            is_replayed: written.is_replayed,
        }
    }
}
