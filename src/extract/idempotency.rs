//! The header `Idempotency-Key`.

use axum::extract::FromRequestParts;
use http::{HeaderName, request::Parts};

use crate::{
    idempotency::IdempotencyKey,
    problem::{Code, FieldError, Problem},
};

/// The header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The caller's key for this request; none where it sent none.
#[derive(Debug)]
pub struct Keyed(pub Option<IdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for Keyed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).into_iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        match (IdempotencyKey::read(value.as_bytes()), values.next()) {
            (Ok(key), None) => Ok(Self(Some(key))),
            _ => {
                let detail = "Must be sent once, with 1 to 255 visible ASCII characters, bare or in double quotes: a UUID is best. Use the same for each try of one request.";
                Err(Problem::of(Code::InvalidParameter)
                    .with_errors(vec![FieldError::parameter("Idempotency-Key", detail)]))
            }
        }
    }
}
