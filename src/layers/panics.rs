//! A panic in a handler becomes a 500 that says nothing but the request id. The
//! log has the place; the message may hold anything and is thrown away.

use std::any::Any;

use axum::response::{IntoResponse as _, Response};
use tower_http::catch_panic::CatchPanicLayer;

use crate::problem::{Code, Problem};

/// Catches panics.
#[must_use]
pub fn layer() -> CatchPanicLayer<fn(Box<dyn Any + Send>) -> Response> {
    CatchPanicLayer::custom(|_| {
        Problem::of(Code::Internal)
            .caused_by("a handler panicked")
            .into_response()
    })
}
