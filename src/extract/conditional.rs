//! Conditional requests and cache directives (RFC 9110 §13, RFC 9111 §5.2.1).

use std::{convert::Infallible, time::Duration};

use axum::extract::FromRequestParts;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, IF_MATCH},
    request::Parts,
};

use crate::{
    exchange::Wanted,
    problem::{Code, FieldError, Problem},
};

/// What the caller takes from the cache (RFC 9111 §5.2.1). Other directives ask for
/// nothing that this cache does.
#[derive(Debug, Clone, Copy)]
pub struct CacheControl(pub Wanted);

impl<S: Sync> FromRequestParts<S> for CacheControl {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut wanted = Wanted::default();
        for directive in list(&parts.headers, &CACHE_CONTROL) {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            let max_age = match name.to_ascii_lowercase().as_str() {
                "no-cache" => Some(0),
                "max-age" => argument.trim_matches('"').parse().ok(),
                "only-if-cached" => {
                    wanted.only_if_cached = true;
                    None
                }
                _ => None,
            };
            if let Some(seconds) = max_age {
                let most = Duration::from_secs(seconds);
                wanted.max_age = Some(wanted.max_age.map_or(most, |other| other.min(most)));
            }
        }
        Ok(Self(wanted))
    }
}

/// The validators of `If-Match`; none where the field wasn't sent.
#[derive(Debug)]
pub struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// Whether the write depends on the record's present state.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a record with that strong validator may be changed (RFC 9110 §13.1.1).
    #[must_use]
    pub fn allows(&self, etag: &HeaderValue) -> bool {
        self.0.as_ref().is_none_or(|tags| {
            tags.iter()
                .any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
        })
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if !parts.headers.contains_key(IF_MATCH) {
            return Ok(Self(None));
        }
        let tags: Vec<String> = list(&parts.headers, &IF_MATCH).map(str::to_owned).collect();
        // A weak validator never matches here, so who sends one would be told for ever
        // that the record has changed.
        let is_strong = |tag: &String| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
        if tags.iter().all(|tag| tag == "*" || is_strong(tag)) {
            return Ok(Self(Some(tags)));
        }
        let detail = "Must be the `ETag` as it was sent, quotes included and without `W/`, or `*`. Something on the way may have changed it.";
        Err(Problem::of(Code::InvalidParameter)
            .with_errors(vec![FieldError::parameter("If-Match", detail)]))
    }
}

/// The members of a list-valued field; our validators hold no commas.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}
