//! Renders what `exchange` decided: `Cache-Status` (RFC 9211), `Age`, `ETag`,
//! `Cache-Control`, `Vary`, `Link`, and 304 for a validator that still holds. Nobody
//! else writes these fields.

use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, VARY},
};

use crate::exchange::{Fetched, Served, Verdict, Why};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// A browser keeps the answer but asks each time: a write must show at once, and
/// this gateway's cache answers quickly.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");
const NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");
const VARIES: HeaderValue = HeaderValue::from_static("Authorization, Llavero-Tenant");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl IntoResponse for Served {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.representation.body().clone()));
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response.extensions_mut().insert(self);
        response
    }
}

/// Renders the fields of every answer below `/v1`.
pub async fn layer(request: Request, next: Next) -> Response {
    let conditional = matches!(*request.method(), Method::GET | Method::HEAD)
        .then(|| {
            request
                .headers()
                .get_all(IF_NONE_MATCH)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    let mut response = next.run(request).await;
    let served = response.extensions_mut().remove::<Served>();
    response.headers_mut().append(VARY, VARIES);
    let Some(served) = served else {
        response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        return response;
    };
    let etag = served.representation.etag();
    if conditional.iter().any(|field| holds(field, etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.extensions_mut().insert(served.verdict);
    // Whoever looks through what goes out needn't look twice through what stays the same.
    response
        .extensions_mut()
        .insert(served.representation.clone());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, REVALIDATE);
    headers.insert(ETAG, etag.clone());
    headers.insert(AGE, HeaderValue::from(served.age.age.as_secs()));
    if let Some(link) = served.representation.link() {
        headers.insert(LINK, link.clone());
    }
    if let Ok(status) = HeaderValue::try_from(cache_status(&served)) {
        headers.insert(CACHE_STATUS, status);
    }
    response
}

fn cache_status(served: &Served) -> String {
    let left = served.age.seconds_left();
    match served.verdict {
        Verdict::Hit => format!("llavero; hit; ttl={left}"),
        Verdict::StaleWhileRevalidate => {
            format!("llavero; hit; ttl={left}; detail=stale-while-revalidate")
        }
        // A write may have made it stale before its time.
        Verdict::StaleIfError => {
            format!("llavero; hit; ttl={}; detail=stale-if-error", left.min(0))
        }
        Verdict::Forwarded(why, fetched) => {
            let why = match why {
                Why::UriMiss => "uri-miss",
                Why::Request => "request",
                Why::Stale => "stale",
            };
            let fetched = match fetched {
                Fetched::Stored => "; stored",
                Fetched::Collapsed => "; collapsed",
                Fetched::NotStored => "",
            };
            format!("llavero; fwd={why}{fetched}")
        }
    }
}

/// Whether an `If-None-Match` names the validator, by weak comparison (RFC 9110 §13.1.2).
fn holds(field: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(field), Ok(etag)) = (field.to_str(), etag.to_str()) else {
        return false;
    };
    field
        .split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
