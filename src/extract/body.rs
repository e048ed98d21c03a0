//! Reading a body within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};

use crate::{
    clock::Clock,
    problem::{Code, FieldError, Problem},
};

use super::pace::{Cut, Paced, Patience};

/// For a body that is read whole: some hundred bytes, mostly in one piece.
const PATIENCE: Patience = Patience {
    min_rate: 0,
    idle: Duration::from_secs(30),
};

/// How long such a body may take.
const WHOLE: Duration = Duration::from_secs(60);

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
        let problem = match self.field {
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
        };
        let what = self.field.unwrap_or("the body");
        problem.caused_by(format_args!("{what} has more than {bytes} bytes"))
    }
}

/// The length that a request promises for its body.
pub(super) fn promised(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body, refused early where its length is promised.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: Limit<'_>,
    clock: &Clock,
) -> Result<Bytes, Problem> {
    if promised(headers).is_some_and(|length| length > limit.bytes) {
        return Err(limit.exceeded());
    }
    let until = clock.instant() + WHOLE;
    let gathered = gather(Paced::new(body, PATIENCE, clock), limit);
    let in_time = clock.before(until, gathered).await;
    in_time.unwrap_or_else(|| Err(Cut::TooLong(WHOLE).into()))
}

async fn gather(mut body: Paced<'_>, limit: Limit<'_>) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    while let Some(data) = body.next().await? {
        if (bytes.len() + data.len()) as u64 > limit.bytes {
            return Err(limit.exceeded());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}
