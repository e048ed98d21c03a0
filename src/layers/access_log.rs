//! One line, one measurement and one `Server-Timing` for each request, whatever
//! becomes of it. It stands outside everything that can fail, and inside the
//! request id, which its span carries.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderName, HeaderValue};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family},
    registry::Registry as MetricRegistry,
};
use tracing::{Instrument as _, Span, field};

use crate::{
    clock::Clock,
    exchange::Verdict,
    problem::{Code, Problem},
    telemetry::traces::Context,
};

use super::{audit, client_address::ClientAddress, request_id::RequestId, trace};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// The route of a request that no route matched: the address itself may hold
/// anything, a token included, and is never logged.
const NO_ROUTE: &str = "-";

/// What the layer needs.
#[derive(Clone)]
pub struct AccessLog {
    clock: Clock,
    durations: Family<RequestLabels, Durations, fn() -> Durations>,
    problems: Family<ProblemLabel, Counter>,
}

type Durations = HistogramWithExemplars<TraceLabel>;

/// Where an exemplar can be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    http_route: String,
    http_request_method: &'static str,
    http_response_status_code: u16,
}

impl AccessLog {
    /// Declares the metrics.
    #[must_use]
    pub fn new(clock: Clock, metrics: &mut MetricRegistry) -> Self {
        let durations =
            Family::<RequestLabels, Durations, fn() -> Durations>::new_with_constructor(|| {
                // The buckets that the OpenTelemetry HTTP conventions advise.
                let bounds = [
                    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
                ];
                Durations::new(bounds.into_iter())
            });
        metrics.register(
            "http_server_request_duration_seconds",
            "Requests to the public API",
            durations.clone(),
        );
        let problems = Family::<ProblemLabel, Counter>::default();
        metrics.register(
            "llavero_problems",
            "Answers that tell of a problem, by its code",
            problems.clone(),
        );
        // Every series is there from the start, so that a first event is an increase.
        for code in Code::ALL {
            let code = code.as_str();
            let _ = problems.get_or_create(&ProblemLabel { code });
        }
        Self {
            clock,
            durations,
            problems,
        }
    }
}

/// The span that the other layers add what they learn to. Its level lets it stand beside
/// the lines of any level.
fn span(request_id: &str, trace: &Context, orden: Option<u64>) -> Span {
    tracing::error_span!(
        "request",
        request_id,
        trace_id = trace.trace_id().map(field::display),
        span_id = trace.span_id().map(field::display),
        issuer = field::Empty,
        tenant = field::Empty,
        credential = field::Empty,
        sub = field::Empty,
        orden,
        received_bytes = field::Empty
    )
}

/// Logs and measures.
pub async fn layer(State(log): State<AccessLog>, request: Request, next: Next) -> Response {
    let started = log.clock.instant();
    let method = method_label(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let orden = audit::id_in(&route, request.uri().path());
    let trace = trace::context(&request);
    let span = request
        .extensions()
        .get::<RequestId>()
        .map_or_else(Span::none, |id| span(&id.0, &trace, orden));

    let client = request.extensions().get::<ClientAddress>();
    let mut line = Line {
        log,
        client: client.map(|client| client.0),
        span: span.clone(),
        trace,
        method,
        route,
        started,
        answered: false,
    };
    let mut response = next.run(request).instrument(span).await;
    let took = line.write(Some(&response));
    let timing = format!("total;dur={:.1}", took.as_secs_f64() * 1e3);
    if let Ok(timing) = HeaderValue::from_str(&timing) {
        response.headers_mut().insert(SERVER_TIMING, timing);
    }
    response
}

/// The line of one request. Dropped unwritten, it is that of a client who left or
/// was cut before the answer.
struct Line {
    log: AccessLog,
    client: Option<IpAddr>,
    span: Span,
    trace: Context,
    method: &'static str,
    route: String,
    started: Instant,
    answered: bool,
}

/// What proxies log for a client who closed the connection; never sent.
const CLIENT_CLOSED: u16 = 499;

impl Line {
    fn write(&mut self, response: Option<&Response>) -> Duration {
        self.answered = true;
        let took = self.log.clock.instant().duration_since(self.started);
        let (method, route) = (self.method, std::mem::take(&mut self.route));
        let status = response.map_or(CLIENT_CLOSED, |response| response.status().as_u16());
        let problem = response.and_then(|response| response.extensions().get::<Problem>());
        let verdict = response.and_then(|response| response.extensions().get::<Verdict>());
        let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        let told = problem.map(|problem| problem.code().as_str());
        let code = match response {
            Some(_) => told,
            None => Some(audit::CLIENT_LEFT),
        };
        let cause = problem.and_then(Problem::cause);
        let cache = verdict.map(|verdict| verdict.as_str());
        let client = self.client.map(field::display);
        self.span.in_scope(|| {
            // A level is fixed where a line is written.
            // Who wants nothing but a kept answer expects that there may be none.
            if status >= 500 && problem.is_none_or(|it| it.code() != Code::NotCached) {
                tracing::warn!(
                    client,
                    method,
                    route,
                    status,
                    duration_ms,
                    code,
                    cause,
                    cache,
                    "request"
                );
            } else {
                tracing::info!(
                    client,
                    method,
                    route,
                    status,
                    duration_ms,
                    code,
                    cause,
                    cache,
                    "request"
                );
            }
        });
        let labels = RequestLabels {
            http_route: route,
            http_request_method: method,
            http_response_status_code: status,
        };
        let exemplar = self.trace.recorded().map(|trace_id| TraceLabel {
            trace_id: trace_id.to_string(),
        });
        let durations = self.log.durations.get_or_create(&labels);
        durations.observe(took.as_secs_f64(), exemplar, None);
        if let Some(code) = told {
            self.log
                .problems
                .get_or_create(&ProblemLabel { code })
                .inc();
        }
        took
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.answered {
            self.write(None);
        }
    }
}

/// A bounded set of methods: a caller can make up others without end.
pub(super) fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}
