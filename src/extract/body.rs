//! Reading a body within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::problem::{Code, Problem};

/// How long a sender may be silent.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Refuses a body that says beforehand that it is too large.
pub(super) fn check_promise(headers: &HeaderMap, limit: u64, what: &str) -> Result<(), Problem> {
    let promised = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if promised.is_some_and(|length| length > limit) {
        Err(too_large(limit, what))
    } else {
        Ok(())
    }
}

pub(super) fn too_large(limit: u64, what: &str) -> Problem {
    Problem::new(
        Code::PayloadTooLarge,
        format!("{what} may have at most {limit} bytes. Send less."),
    )
}

pub(super) fn incomplete() -> Problem {
    Problem::new(
        Code::MalformedBody,
        "The body ended or stalled before it was complete. Send the request again.",
    )
}

/// The whole body, at most `limit` bytes.
pub(super) async fn read(mut body: Body, limit: usize, what: &str) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_| incomplete())?;
        let Some(frame) = frame else {
            return Ok(bytes.freeze());
        };
        let Ok(data) = frame.map_err(|_| incomplete())?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit as u64, what));
        }
        bytes.extend_from_slice(&data);
    }
}
