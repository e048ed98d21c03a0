//! A JSON object as a body.

use axum::extract::{FromRef, FromRequest, Request};
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::{
    caller::Permit,
    clock::Clock,
    i_json,
    in_flight::{Bodies, Share},
    problem::{Code, FieldError, Problem},
};

use super::{
    body::{self, Limit},
    digest::{Promised, of_request},
};

/// An order's fields are a few hundred bytes and its description a few thousand.
const MAX_BYTES: u64 = 256 * 1024;

/// An object of `application/json` or `application/merge-patch+json` (RFC 7396).
#[derive(Debug)]
pub struct JsonObject {
    /// Its members.
    pub fields: Map<String, Value>,
    /// The room that its body takes: to be held as long as anything that was made of it.
    pub share: Share,
}

impl<S> FromRequest<S> for JsonObject
where
    S: Sync,
    Clock: FromRef<S>,
    Bodies: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
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
        let Some(permit) = parts.extensions.get::<Permit>() else {
            return Err(Problem::of(Code::Internal)
                .caused_by("a change is mounted without its permit layer"));
        };
        let mut share = Bodies::from_ref(state).begin(permit.tenant().id());
        let mut promised = Promised::by(&parts.headers).map_err(|broken| of_request(&broken))?;
        let limit = Limit {
            bytes: MAX_BYTES,
            field: None,
        };
        let bytes = body::read(
            &parts.headers,
            body,
            limit,
            &mut share,
            &Clock::from_ref(state),
        )
        .await?;
        promised.update(&bytes);
        promised.check().map_err(|broken| of_request(&broken))?;
        if bytes.is_empty() {
            return Err(Problem::new(
                Code::MalformedBody,
                "The body is empty. Send a JSON object with the fields to change.",
            ));
        }
        match i_json::parse(&bytes) {
            Ok(Value::Object(object)) => Ok(Self {
                fields: object,
                share,
            }),
            Ok(_) => Err(Problem::new(
                Code::MalformedBody,
                "The body is JSON but not an object. Send an object with the fields to change.",
            )),
            Err(mistake) => Err(malformed(mistake)),
        }
    }
}

fn malformed(mistake: i_json::Error) -> Problem {
    let detail = match &mistake {
        i_json::Error::Syntax { .. } => format!("The body isn't valid JSON: {mistake}."),
        i_json::Error::NameTwice { .. } => {
            "An object of the body has the member that `errors` names more than once, and which one counts is anybody's guess. Send each once.".to_owned()
        }
        i_json::Error::TooDeep => {
            format!("The body can't be a change: {mistake}. Send an object with the fields to change.")
        }
    };
    let problem = Problem::new(Code::MalformedBody, detail);
    match mistake {
        i_json::Error::NameTwice { pointer } => problem.with_errors(vec![FieldError::at(
            pointer,
            "This member is there more than once; keep one.",
        )]),
        _ => problem,
    }
}
