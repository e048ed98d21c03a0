//! Errors as callers see them: RFC 9457 problem details in words that we wrote.
//!
//! A [`Problem`] carries no request id and no body yet: it travels as a
//! response extension until the `problems` layer, which knows the request,
//! renders it. The cause goes to the access log, never into the answer.

mod catalog;
mod example;
mod from;

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;
use utoipa::ToSchema;

pub use catalog::Code;
pub use example::Asked;

/// How many wrong fields are told at most: no form has so many.
pub const MOST_ERRORS: usize = 25;

/// One failure, ready to be told.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// One field or parameter that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where in the JSON body, as a JSON Pointer (RFC 6901); of a form, `/` and the name of a field, or `/parts/` and the
    /// number of a part, from 1, whose name can't be read. Empty where it is the body as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/status")]
    pointer: Option<String>,
    /// Which parameter of the address, or which header.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// What is wrong with it and what would be right.
    detail: Cow<'static, str>,
}

impl FieldError {
    /// A member of the body; `field` is its name.
    #[must_use]
    pub fn body(field: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        let escaped = field.replace('~', "~0").replace('/', "~1");
        Self::at(format!("/{escaped}"), detail)
    }

    /// Any place of the body, as a JSON Pointer.
    #[must_use]
    pub fn at(pointer: String, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            pointer: Some(pointer),
            parameter: None,
            detail: detail.into(),
        }
    }

    /// Whether both are of the same field.
    #[must_use]
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        (&self.pointer, &self.parameter) == (&other.pointer, &other.parameter)
    }

    /// A query or path parameter, or a header.
    #[must_use]
    pub fn parameter(name: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            pointer: None,
            parameter: Some(name.into()),
            detail: detail.into(),
        }
    }
}

/// The members of `application/problem+json` (RFC 9457 §3.1), plus `code` and `errors`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDetails<'a> {
    /// Where the code is explained, relative to this gateway.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    kind: String,
    /// The same for every occurrence of the code.
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened this time, and what to do next.
    detail: &'a str,
    /// `urn:uuid:` and the request id, as in `X-Request-Id`.
    instance: String,
    /// The stable name to switch on.
    #[schema(schema_with = code_schema)]
    code: &'a str,
    /// One entry for each wrong field or parameter.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
}

fn code_schema() -> utoipa::openapi::schema::Schema {
    utoipa::openapi::schema::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some(Code::ALL.iter().map(|code| code.as_str())))
        .description(Some("The stable name to switch on."))
        .build()
        .into()
}

impl Problem {
    /// A problem of that code; `detail` says what happened and what to do, in our words.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            cause: None,
        }
    }

    /// A problem whose remedy in the catalog says all that there is to say.
    #[must_use]
    pub fn of(code: Code) -> Self {
        Self::new(code, code.remedy())
    }

    /// Names the fields or parameters that are wrong: the first of them, since a caller may
    /// send any number.
    #[must_use]
    pub fn with_errors(mut self, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MOST_ERRORS);
        self.errors = errors;
        self
    }

    /// Names other fields that are wrong as well.
    #[must_use]
    pub fn and_errors(mut self, more: Vec<FieldError>) -> Self {
        if !more.is_empty() {
            self.detail
                .to_mut()
                .push_str(" It isn't the only field that is wrong: `errors` has them all.");
            self.errors.extend(more);
            self.errors.truncate(MOST_ERRORS);
        }
        self
    }

    /// When to try again: rounded up to whole seconds, at least 1 (RFC 9110 §10.2.3).
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.headers
            .push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
        self
    }

    /// The challenge of a 401 or 403 (RFC 6750 §3).
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.headers.push((WWW_AUTHENTICATE, challenge));
        self
    }

    /// The methods that a 405 offers instead.
    #[must_use]
    pub fn with_allow(mut self, allow: HeaderValue) -> Self {
        self.headers.push((ALLOW, allow));
        self
    }

    /// What the operator's log should say of it. Never shown to the caller; never
    /// built from a body, an address or a secret.
    #[must_use]
    pub fn caused_by(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Its stable name.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the log says of it.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Status, headers and the JSON body for that request id.
    #[must_use]
    pub fn render(&self, request_id: &str) -> (HeaderMap, Vec<u8>) {
        let details = ProblemDetails {
            kind: format!("/problems/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            instance: format!("urn:uuid:{request_id}"),
            code: self.code.as_str(),
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        (self.headers.iter().cloned().collect(), body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
