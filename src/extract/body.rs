//! Reading a body within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::problem::{Code, FieldError, Problem};

/// How long a sender may be silent.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body that is read whole may take.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What may be so large at most, in words for the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit<'a> {
    /// In bytes.
    pub bytes: u64,
    /// The form field that it is of; none for the body as a whole.
    pub field: Option<&'a str>,
}

impl Limit<'_> {
    pub(super) fn exceeded(self) -> Problem {
        const MIB: u64 = 1 << 20;
        let bytes = self.bytes;
        let size = match bytes {
            _ if bytes >= MIB && bytes.is_multiple_of(MIB) => {
                format!("{} MiB ({bytes} bytes)", bytes / MIB)
            }
            _ if bytes.is_multiple_of(1024) => format!("{} KiB ({bytes} bytes)", bytes / 1024),
            _ => format!("{bytes} bytes"),
        };
        match self.field {
            None => Problem::new(
                Code::PayloadTooLarge,
                format!("The body may have at most {size}. Send less."),
            ),
            Some(field) => {
                let detail =
                    format!("The part `{field}` may have at most {size}. Send it smaller.");
                let error = FieldError::body(field, detail.clone());
                Problem::new(Code::PayloadTooLarge, detail).with_errors(vec![error])
            }
        }
    }
}

/// The length that a request promises for its body.
pub(super) fn promised(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn incomplete() -> Problem {
    Problem::new(
        Code::MalformedBody,
        "The body ended or stalled before it was complete. Send the request again; if that happens every time, let your HTTP client write `Content-Type` and its `boundary` itself.",
    )
}

/// The whole body, refused early where its length is promised.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: Limit<'_>,
) -> Result<Bytes, Problem> {
    if promised(headers).is_some_and(|length| length > limit.bytes) {
        return Err(limit.exceeded());
    }
    timeout(WHOLE_TIMEOUT, gather(&mut body, limit))
        .await
        .unwrap_or_else(|_| Err(incomplete()))
}

async fn gather(body: &mut Body, limit: Limit<'_>) -> Result<Bytes, Problem> {
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
        if (bytes.len() + data.len()) as u64 > limit.bytes {
            return Err(limit.exceeded());
        }
        bytes.extend_from_slice(&data);
    }
}
