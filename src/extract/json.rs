//! A JSON object as a body.

use axum::extract::{FromRequest, Request};
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::problem::{Code, Problem};

use super::body::{self, Limit};

/// An order's fields are a few hundred bytes and its description a few thousand.
const MAX_BYTES: u64 = 256 * 1024;

/// An object of `application/json` or `application/merge-patch+json` (RFC 7396).
#[derive(Debug)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok()?.parse::<mime::Mime>().ok());
        let accepted = media_type.is_some_and(|it| {
            matches!(
                it.essence_str(),
                "application/json" | "application/merge-patch+json"
            ) && it
                .get_param("charset")
                .is_none_or(|charset| charset == "utf-8")
        });
        if !accepted {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "This operation takes `Content-Type: application/json` or `application/merge-patch+json`, in UTF-8.",
            ));
        }
        let (parts, body) = request.into_parts();
        let limit = Limit {
            bytes: MAX_BYTES,
            field: None,
        };
        let bytes = body::read(&parts.headers, body, limit).await?;
        if bytes.is_empty() {
            return Err(Problem::new(
                Code::MalformedBody,
                "The body is empty. Send a JSON object with the fields to change.",
            ));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(Problem::new(
                Code::MalformedBody,
                "The body is JSON but not an object. Send an object with the fields to change.",
            )),
            Err(error) => Err(Problem::new(
                Code::MalformedBody,
                format!(
                    "The body isn't valid JSON: the mistake is at line {}, column {}.",
                    error.line(),
                    error.column()
                ),
            )),
        }
    }
}
