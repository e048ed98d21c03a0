//! Conditional requests and cache directives (RFC 9110 §13, RFC 9111 §5.2.1).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, IF_MATCH},
    request::Parts,
};

/// Whether the caller wants an answer newer than any that is kept:
/// `Cache-Control: no-cache` or `max-age=0`.
#[derive(Debug, Clone, Copy)]
pub struct Revalidate(pub bool);

impl<S: Sync> FromRequestParts<S> for Revalidate {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(list(&parts.headers, &CACHE_CONTROL).any(
            |directive| {
                directive.eq_ignore_ascii_case("no-cache")
                    || directive.eq_ignore_ascii_case("max-age=0")
            },
        )))
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
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let present = parts.headers.contains_key(IF_MATCH);
        Ok(Self(present.then(|| {
            list(&parts.headers, &IF_MATCH).map(str::to_owned).collect()
        })))
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
