//! Every inner failure as a problem: one exhaustive `match` each, so that a new
//! failure can't be forgotten.

use std::time::Duration;

use http::HeaderValue;

use crate::{
    caller::Denied,
    exchange::{ExchangeError, Unfit},
    idempotency::Repeated,
    identity::{InvalidToken, Refused},
    images, in_flight,
    limits::{Refusal, Whose},
    upstream::Failure,
};

use super::{Code, FieldError, Problem};

/// When it is surely known what became of a write.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// When to come back where nobody said.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

impl From<InvalidToken> for Problem {
    fn from(invalid: InvalidToken) -> Self {
        // The words are ours and hold no quotes or controls (RFC 6750 §3).
        let description = invalid.to_string().replace('"', "'");
        let challenge = format!(
            r#"Bearer realm="llavero", error="invalid_token", error_description="{description}""#
        );
        let challenge = HeaderValue::try_from(challenge)
            .unwrap_or(HeaderValue::from_static(r#"Bearer error="invalid_token""#));
        let detail = format!(
            "The request was refused because {invalid}. {}",
            Code::InvalidToken.remedy()
        );
        Self::new(Code::InvalidToken, detail)
            .with_challenge(challenge)
            .caused_by(invalid)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(invalid) => invalid.into(),
            Refused::Unavailable { retry_after } => Self::of(Code::IdentityUnavailable)
                .with_retry_after(retry_after)
                .caused_by(refused),
        }
    }
}

impl From<in_flight::Full> for Problem {
    fn from(full: in_flight::Full) -> Self {
        Self::new(
            Code::Overloaded,
            "So many photos are being uploaded that there is no room for one more. Nothing was sent to the ERP. Wait for `Retry-After` and send it again.",
        )
        .with_retry_after(DEFAULT_RETRY_AFTER)
        .caused_by(full)
    }
}

impl From<in_flight::Crowded> for Problem {
    fn from(crowded: in_flight::Crowded) -> Self {
        Self::new(
            Code::Overloaded,
            "So many large bodies are being sent that there is no room for more of this one. Nothing was sent to the ERP. Wait for `Retry-After` and send it again.",
        )
        .with_retry_after(DEFAULT_RETRY_AFTER)
        .caused_by(crowded)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::TenantNotAllowed => Self::new(
                Code::TenantNotAllowed,
                "Your token doesn't allow this tenant, or there is none of that name. `GET /v1/me` lists the tenants that it allows.",
            ),
            Denied::TenantRequired => Self::of(Code::TenantRequired),
            Denied::InsufficientScope(scope) => {
                let challenge = format!(
                    r#"Bearer realm="llavero", error="insufficient_scope", scope="{scope}""#
                );
                let detail = format!(
                    "This operation needs the scope `{scope}`, which your token doesn't have for this tenant. Ask for a token that has it."
                );
                let problem = Self::new(Code::InsufficientScope, detail);
                match HeaderValue::try_from(challenge) {
                    Ok(challenge) => problem.with_challenge(challenge),
                    Err(_) => problem,
                }
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let per = in_words(refusal.limit.per.as_secs());
        let (requests, burst) = (refusal.limit.requests, refusal.limit.burst);
        let allowed = format!("{requests} requests in {per}, {burst} of them at once");
        let detail = match refusal.whose {
            Whose::User => format!(
                "You asked more than one user may: {allowed}. Nothing was done. Wait for `Retry-After`, then go on more slowly; `RateLimit` says how much is left."
            ),
            Whose::Tenant => format!(
                "All users of your company together asked more than they may: {allowed}. Nothing was done. Wait for `Retry-After`; `RateLimit` says how much is left for you and for all."
            ),
            Whose::Failures => format!(
                "Too many requests came from your address without a token that is accepted; it may send {allowed}. The token of this one wasn't looked at. Wait for `Retry-After`, and get a new token from your identity provider."
            ),
        };
        Self::new(Code::RateLimited, detail)
            .with_retry_after(refusal.retry_after)
            .caused_by(refusal)
    }
}

/// Whole seconds in the largest unit that they are whole in.
fn in_words(seconds: u64) -> String {
    let (number, unit) = match seconds {
        _ if seconds > 0 && seconds.is_multiple_of(3600) => (seconds / 3600, "hour"),
        _ if seconds > 0 && seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    match number {
        1 => format!("a {unit}").replace("a hour", "an hour"),
        _ => format!("{number} {unit}s"),
    }
}

impl From<Repeated> for Problem {
    fn from(repeated: Repeated) -> Self {
        let cause = repeated.to_string();
        let problem = match repeated {
            Repeated::Running { retry_after } => {
                Self::of(Code::IdempotencyConflict).with_retry_after(retry_after)
            }
            Repeated::Mismatch => {
                Self::of(Code::IdempotencyMismatch).with_errors(vec![FieldError::parameter(
                    "Idempotency-Key",
                    "Was used for this order with other content, which is under way still or whose answer is kept.",
                )])
            }
            Repeated::Store(_) => Self::of(Code::Overloaded).with_retry_after(DEFAULT_RETRY_AFTER),
        };
        problem.caused_by(cause)
    }
}

impl From<ExchangeError> for Problem {
    fn from(error: ExchangeError) -> Self {
        let cause = error.to_string();
        let problem = match error {
            ExchangeError::Upstream(failure) => Self::from(failure),
            ExchangeError::Unfit(Unfit::Mismatch) => Self::new(
                Code::UpstreamMismatch,
                "The ERP answered with another record than the one asked for, so the answer was thrown away. Check the id; after a write, read the record before you try again.",
            ),
            ExchangeError::Unfit(Unfit::Unreadable) => Self::new(
                Code::UpstreamError,
                "The ERP answered with something that can't be read. Try again later; after a write, read the record first: the change may have been made.",
            ),
            ExchangeError::Changed => Self::of(Code::PreconditionFailed),
            ExchangeError::Occupied { retry_after } => Self::new(
                Code::Overloaded,
                "Another change to this order, or another photo with the same `titulo`, is being sent to the ERP, and they go one after the other. Nothing was sent. Wait for `Retry-After` and send it again, or give photos titles of their own.",
            )
            .with_retry_after(retry_after),
            ExchangeError::Unsettled { retry_after } => Self::new(
                Code::IdempotencyConflict,
                "An earlier attempt of this request went to the ERP, no answer came, and it has left no trace there yet. It may still be made, so nothing was sent. Wait for `Retry-After` and send the same request again, with the same `Idempotency-Key` if it had one.",
            )
            .with_retry_after(retry_after),
            ExchangeError::Unseen(error) => {
                let soonest = match &*error {
                    ExchangeError::Upstream(failure) => failure.retry_after(),
                    _ => None,
                };
                // What the ERP has against being asked, it doesn't have against the request.
                let code = match Self::from(*error).code {
                    code if code.status().is_server_error() => code,
                    _ => Code::IdempotencyConflict,
                };
                Self::new(
                    code,
                    "An earlier attempt of this request went to the ERP and no answer came. Now the ERP can't be asked what became of it, so nothing was sent: it may have been made. Wait for `Retry-After` and send the same request again, with the same `Idempotency-Key` if it had one.",
                )
                .with_retry_after(soonest.unwrap_or_default().max(SETTLED_AFTER))
            }
            ExchangeError::NotCached => Self::of(Code::NotCached),
            ExchangeError::Interrupted => Self::of(Code::Internal),
        };
        problem.caused_by(cause)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::QueueFull { retry_after } => Self::new(
                Code::Overloaded,
                "All requests that may run at once for this tenant are waiting for the ERP, which is slow or asked too much. Nothing was sent. Wait for `Retry-After` and try again.",
            )
            .with_retry_after(retry_after),
            Failure::Connect => Self::new(
                Code::UpstreamError,
                "The ERP can't be reached, so nothing was sent to it. Try again later.",
            ),
            Failure::Broken => Self::new(
                Code::UpstreamError,
                "The connection to the ERP broke before its answer was complete. Try again; after a write, read the record first: the change may have been made.",
            ),
            Failure::Early => Self::new(
                Code::UpstreamError,
                "The ERP said that it had the photo before all of it was sent, which can't be true. Send it again; Llavero looks first whether it is there.",
            ),
            Failure::Unsent => Self::new(
                Code::UpstreamError,
                "The connection to the ERP broke, or the time was up, before the whole photo was sent, so the ERP can't have taken it. Send it again.",
            ),
            Failure::Timeout => Self::new(
                Code::UpstreamTimeout,
                "The ERP didn't answer in time. Try again later; after a write, read the record first: the change may have been made.",
            ),
            Failure::Paused { retry_after } => {
                Self::of(Code::UpstreamRateLimited).with_retry_after(retry_after)
            }
            Failure::RateLimited { retry_after } => Self::of(Code::UpstreamRateLimited)
                .with_retry_after(retry_after.unwrap_or(DEFAULT_RETRY_AFTER)),
            Failure::CredentialRejected(_) => Self::of(Code::UpstreamCredentialRejected),
            Failure::Login(failure) => match *failure {
                Failure::Connect | Failure::Address => Self::from(*failure),
                Failure::Timeout => Self::new(
                    Code::UpstreamTimeout,
                    "The ERP took too long to log the gateway in, so your request wasn't sent to it. Try again later.",
                ),
                _ => Self::new(
                    Code::UpstreamError,
                    "The ERP failed to log the gateway in, so your request wasn't sent to it. Try again later; if it goes on, tell the operator the `X-Request-Id`.",
                ),
            },
            Failure::LoginUnreadable => Self::new(
                Code::UpstreamError,
                "The ERP's answer to the gateway's login can't be read, so your request wasn't sent to it. Try again later; if it goes on, tell the operator the `X-Request-Id`.",
            ),
            Failure::NotFound => Self::new(
                Code::NotFound,
                "The ERP has no such record, or this tenant's credential can't see it. Check the id.",
            ),
            Failure::Rejected { .. } => Self::new(
                Code::UpstreamValidation,
                "The ERP refused the request and named no field of it that this gateway knows. Nothing was changed. Check the values; with a `cursor`, start again from the first page; if it goes on, tell the operator the `X-Request-Id`.",
            ),
            Failure::TooLarge => Self::new(
                Code::PayloadTooLarge,
                "The ERP refused the body as too large. Send a smaller photo.",
            ),
            Failure::Status(400..=407 | 409..=499) => Self::new(
                Code::UpstreamError,
                "The ERP refused this request in a way that the gateway doesn't know. Nothing was changed. Tell the operator the `X-Request-Id`.",
            ),
            Failure::Status(_) => Self::new(
                Code::UpstreamError,
                "The ERP failed to answer this request. Try again later; after a write, read the record first: the change may have been made.",
            ),
            Failure::Oversized { .. } => Self::new(
                Code::UpstreamError,
                "The ERP's answer is too large to be passed on. Ask for less, for example with a smaller `limit`.",
            ),
            Failure::Unavailable { retry_after } => {
                Self::new(
                    Code::UpstreamUnavailable,
                    "The ERP has failed several times in a row, so it isn't asked until it answers a trial. Nothing was changed. Wait for `Retry-After` and try again.",
                )
                .with_retry_after(retry_after)
            }
            Failure::Abandoned | Failure::Address => Self::of(Code::Internal),
        }
    }
}

impl Problem {
    /// The code under which a caller is told of that error.
    #[must_use]
    pub fn code_of(error: &ExchangeError) -> &'static str {
        Self::from(error.clone()).code().as_str()
    }

    /// The problem of a write, with the fields that the ERP refused under the names
    /// of our own schema. `fields` pairs the ERP's names with ours; others stay unsaid.
    #[must_use]
    pub fn of_write(error: ExchangeError, fields: &[(&str, &str)]) -> Self {
        let refused: Vec<FieldError> = match &error {
            ExchangeError::Upstream(Failure::Rejected {
                fields: refused, ..
            }) => fields
                .iter()
                .filter(|(theirs, _)| refused.iter().any(|name| name == theirs))
                .map(|(_, ours)| FieldError::body(ours, "The ERP refused this value."))
                .collect(),
            _ => Vec::new(),
        };
        // What a read can do about it is no help here.
        let detail = match &error {
            ExchangeError::Upstream(Failure::Rejected { .. }) => Some(
                "The ERP refused the request and named no field of it that this gateway knows. Nothing was changed. Check the values; if it goes on, tell the operator the `X-Request-Id`.",
            ),
            ExchangeError::Upstream(Failure::RateLimited { .. } | Failure::Paused { .. }) => Some(
                "The ERP limits how much this tenant may ask. Nothing was changed. Wait for `Retry-After` and send it again.",
            ),
            _ => None,
        };
        let mut problem = Self::from(error);
        if let Some(detail) = detail {
            problem.detail = detail.into();
        }
        if refused.is_empty() {
            return problem;
        }
        let named = Self::of(Code::UpstreamValidation).with_errors(refused);
        match problem.cause() {
            Some(cause) => named.caused_by(cause),
            None => named,
        }
    }

    /// The problem of a write that is known again when it is sent again. Where nobody knows what became of it, its
    /// caller is to send it again.
    #[must_use]
    pub fn of_repeatable_write(error: ExchangeError, fields: &[(&str, &str)]) -> Self {
        if error.is_certain() {
            return Self::of_write(error, fields);
        }
        let problem = Self::from(error);
        let repeated = Self::new(
            problem.code,
            "The ERP's answer doesn't say, or didn't come to say, whether this was done. Send the same request again, with the same `Idempotency-Key` if it had one: the ERP is asked what became of it before anything is sent to it again.",
        )
        .with_retry_after(SETTLED_AFTER);
        match problem.cause() {
            Some(cause) => repeated.caused_by(cause),
            None => repeated,
        }
    }

    /// The problem of a list: a collection that the ERP doesn't have is no mistake of the caller's.
    #[must_use]
    pub fn of_list(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Upstream(Failure::NotFound) => Self::new(
                Code::UpstreamError,
                "The ERP has nothing at the address of this list. Tell the operator to check `upstream.base_url` and the tenant's `clave`; with a `cursor`, start again from the first page.",
            )
            .caused_by(error),
            error => Self::from(error),
        }
    }

    /// The problem of an image that isn't taken, under the rules that it broke.
    #[must_use]
    pub fn of_image(unusable: images::Unusable, rules: &images::Rules) -> Self {
        let formats: Vec<&str> = rules.formats.iter().map(|format| format.name()).collect();
        let formats = formats.join(", ");
        let (code, detail) = match unusable {
            images::Unusable::Empty => (
                Code::InvalidImage,
                "The part `imagen` is empty: attach the photo's file.".to_owned(),
            ),
            images::Unusable::Format(name) => {
                let remedy = match name {
                    "heic" | "heif" => {
                        " iPhones write it: set the camera to \"Most Compatible\" or let the app make a JPEG of it; the operator may allow heic, too."
                    }
                    _ => "",
                };
                (
                    Code::UnsupportedMediaType,
                    format!(
                        "The part `imagen` is an image of a format that isn't taken here: {name}. Send one of: {formats}.{remedy}"
                    ),
                )
            }
            images::Unusable::NotAnImage(what) => {
                let but = what.map(|what| format!(" but {what}")).unwrap_or_default();
                (
                    Code::InvalidImage,
                    format!(
                        "The part `imagen` isn't an image{but}, whatever its name says. Send one of: {formats}."
                    ),
                )
            }
            images::Unusable::Damaged => (
                Code::InvalidImage,
                "The part `imagen` is incomplete or damaged. Take or export the photo again."
                    .to_owned(),
            ),
            images::Unusable::Chunk(kind) => (
                Code::InvalidImage,
                format!(
                    "The part `imagen` is damaged: its chunk {} isn't what was written, as its CRC tells. Send the file again; if that happens every time, take or export the photo again.",
                    kind.escape_ascii()
                ),
            ),
            images::Unusable::TooManyPixels(pixels) => (
                Code::InvalidImage,
                format!(
                    "The part `imagen` has {pixels} pixels (width × height); the limit is {}. Send it smaller.",
                    rules.max_pixels
                ),
            ),
            images::Unusable::Polyglot => (
                Code::InvalidImage,
                "The part `imagen` is an image with something else in it: a page, a script, a document, an archive or what no camera writes, in its metadata or behind its end. Send the photo as the camera made it."
                    .to_owned(),
            ),
        };
        Self::new(code, detail.clone())
            .with_errors(vec![FieldError::body("imagen", detail)])
            .caused_by(unusable)
    }
}
