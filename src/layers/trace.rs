//! The span of each request. It stands outside the access log, whose lines name the trace, and
//! inside the request's id, which the span carries; it can't fail.
//!
//! Attributes are OpenTelemetry's HTTP conventions without what a caller types: no `url.path`, no
//! query, no header, since a token may stand in any of them.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::Version;
use opentelemetry::KeyValue;

use crate::{
    exchange::Verdict,
    problem::Problem,
    telemetry::traces::{Context, Span, Tracer},
};

use super::{access_log::method_label, authenticate::AnsweredFor, request_id::RequestId};

/// Begins the span, and hands on where in the trace the request is, as a [`Context`].
pub async fn layer(State(tracer): State<Tracer>, mut request: Request, next: Next) -> Response {
    if !tracer.is_on() {
        let context = Tracer::caller(request.headers());
        if context.trace_id().is_some() {
            request.extensions_mut().insert(context);
        }
        return next.run(request).await;
    }
    let mut serving = Serving {
        span: tracer.receive(request.headers(), || described(&request)),
        is_answered: false,
    };
    request.extensions_mut().insert(serving.span.context());
    let response = next.run(request).await;
    serving.answered(&response);
    response
}

/// The context of a request, in its extensions.
pub(super) fn context(request: &Request) -> Context {
    let context = request.extensions().get::<Context>();
    context.cloned().unwrap_or_default()
}

fn described(request: &Request) -> (String, Vec<KeyValue>) {
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>();
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("network.protocol.version", version(request.version())),
    ];
    if let Some(RequestId(id)) = request.extensions().get() {
        attributes.push(KeyValue::new("llavero.request_id", id.clone()));
    }
    // The conventions' name for a method that isn't known.
    let verb = if method == "_OTHER" { "HTTP" } else { method };
    let name = match route {
        Some(route) => {
            let route = route.as_str();
            attributes.push(KeyValue::new("http.route", route.to_owned()));
            format!("{verb} {route}")
        }
        None => verb.to_owned(),
    };
    (name, attributes)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// A request that is being served. Dropped without an answer, its client has left.
struct Serving {
    span: Span,
    is_answered: bool,
}

impl Serving {
    fn answered(&mut self, response: &Response) {
        self.is_answered = true;
        let status = response.status();
        self.span
            .set("http.response.status_code", i64::from(status.as_u16()));
        let extensions = response.extensions();
        if let Some(AnsweredFor(tenant)) = extensions.get() {
            self.span.set("llavero.tenant", tenant.as_str().to_owned());
        }
        if let Some(verdict) = extensions.get::<Verdict>() {
            self.span.set("llavero.cache.result", verdict.as_str());
        }
        let Some(problem) = extensions.get::<Problem>() else {
            return;
        };
        let code = problem.code().as_str();
        self.span.set("llavero.problem.code", code);
        // A 4xx is the caller's error, not the server's (HTTP spans, Status).
        if status.is_server_error() {
            self.span.fail(code);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_answered {
            self.span.set("error.type", "client-left");
        }
    }
}
