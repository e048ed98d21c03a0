//! Headers that keep browsers careful, and CORS for the origins that may call.

use std::time::Duration;

use axum::{extract::Request, middleware::Next, response::Response};
use http::{
    HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_REQUEST_METHOD, AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY,
        CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION, REFERRER_POLICY, RETRY_AFTER,
        VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{authenticate::LLAVERO_TENANT, request_id::X_REQUEST_ID};

const NOTHING_LOADS: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Sets what the answer doesn't set itself.
pub async fn layer(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(NOTHING_LOADS);
    response
}

/// Lets a plain `OPTIONS` through to the routes, which know whether there is anything at
/// the address: only a browser's preflight names the method that it asks for (Fetch §3.3.2).
pub async fn plain_options(mut request: Request, next: Next) -> Response {
    let names_a_method = request
        .headers()
        .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if *request.method() == Method::OPTIONS && !names_a_method {
        // The CORS layer answers whatever is called OPTIONS.
        if let Ok(other) = Method::from_bytes(b"PLAIN-OPTIONS") {
            *request.method_mut() = other;
        }
    }
    next.run(request).await
}

/// CORS for exactly those origins; none where there are none.
pub fn cors(allowed_origins: &[String]) -> Option<CorsLayer> {
    if allowed_origins.is_empty() {
        return None;
    }
    let origins = allowed_origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok());
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            CACHE_CONTROL,
            IF_MATCH,
            IF_NONE_MATCH,
            LLAVERO_TENANT,
            X_REQUEST_ID,
            HeaderName::from_static("content-digest"),
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("repr-digest"),
            HeaderName::from_static("traceparent"),
        ])
        .expose_headers([
            X_REQUEST_ID,
            AGE,
            ETAG,
            LINK,
            LOCATION,
            RETRY_AFTER,
            VARY,
            WWW_AUTHENTICATE,
            HeaderName::from_static("cache-status"),
            HeaderName::from_static("idempotent-replayed"),
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
            HeaderName::from_static("server-timing"),
        ])
        .max_age(Duration::from_secs(3600));
    Some(layer)
}
