//! Reading a body within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};

use crate::{
    clock::Clock,
    in_flight::Share,
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

/// Most bodies need no more.
const LEAST_CAPACITY: usize = 1024;

/// What may be so large at most, in words for the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit<'a> {
    /// In bytes.
    pub bytes: u64,
    /// The form field that it is of; none for the body as a whole.
    pub field: Option<&'a str>,
}

/// A size in the largest unit that it is whole in.
pub(super) fn in_words(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        _ if bytes >= MIB && bytes.is_multiple_of(MIB) => {
            format!("{} MiB ({bytes} bytes)", bytes / MIB)
        }
        _ if bytes.is_multiple_of(1024) => format!("{} KiB ({bytes} bytes)", bytes / 1024),
        _ => format!("{bytes} bytes"),
    }
}

impl Limit<'_> {
    pub(super) fn exceeded(self) -> Problem {
        let bytes = self.bytes;
        let size = in_words(bytes);
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

/// The whole body, refused early where its length is promised, and where there is no room for more of it as it comes.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: Limit<'_>,
    share: &mut Share,
    clock: &Clock,
) -> Result<Bytes, Problem> {
    if promised(headers).is_some_and(|length| length > limit.bytes) {
        return Err(limit.exceeded());
    }
    let until = clock.instant() + WHOLE;
    let gathered = gather(Paced::new(body, PATIENCE, clock), limit, share);
    let in_time = clock.before(until, gathered).await;
    in_time.unwrap_or_else(|| Err(Cut::TooLong(WHOLE).into()))
}

async fn gather(
    mut body: Paced<'_>,
    limit: Limit<'_>,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let mut bytes = Vec::new();
    while let Some(data) = body.next().await? {
        let length = bytes.len() + data.len();
        if length as u64 > limit.bytes {
            return Err(limit.exceeded());
        }
        if length > bytes.capacity() {
            // As a vector grows, and none of what it takes is uncounted.
            let capacity = length.next_power_of_two().max(LEAST_CAPACITY);
            share.grow(capacity as u64)?;
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}
