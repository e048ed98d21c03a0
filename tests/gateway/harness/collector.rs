//! A collector of traces: takes OTLP over HTTP, and searches whatever comes in for planted secrets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use reqwest::StatusCode;
use tokio::{net::TcpListener, sync::Notify};

use super::leaks;

/// What the collector does with spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    #[default]
    Takes,
    /// Answers with that status.
    Answers(u16),
    /// Reads, and never answers.
    Hangs,
}

#[derive(Clone, Default)]
pub struct Collector(Arc<Inner>);

#[derive(Default)]
struct Inner {
    endpoint: String,
    received: Mutex<Received>,
    taken: Notify,
}

#[derive(Default)]
struct Received {
    mood: Mood,
    requests: usize,
    headers: Vec<HeaderMap>,
    bodies: Vec<Bytes>,
    spans: Vec<Span>,
    resources: Vec<Vec<KeyValue>>,
    leaks: Vec<String>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self(Arc::new(Inner {
            endpoint,
            ..Inner::default()
        }));
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    pub fn is(&self, mood: Mood) {
        self.0.received.lock().unwrap().mood = mood;
    }

    /// How often spans were sent, whatever became of them.
    pub fn requests(&self) -> usize {
        self.0.received.lock().unwrap().requests
    }

    pub fn headers(&self) -> Vec<HeaderMap> {
        self.0.received.lock().unwrap().headers.clone()
    }

    /// The spans that were taken. None of what was sent may hold a secret.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.0.received.lock().unwrap();
        assert!(
            received.leaks.is_empty(),
            "traces give away {:?}",
            received.leaks
        );
        received.spans.clone()
    }

    /// What the spans' resources say.
    pub fn resources(&self) -> Vec<BTreeMap<String, String>> {
        let received = self.0.received.lock().unwrap();
        received.resources.iter().map(|it| attributes(it)).collect()
    }

    /// Whether a text stands in anything that was sent.
    pub fn was_told(&self, text: &str) -> bool {
        let received = self.0.received.lock().unwrap();
        let found = |body: &Bytes| memchr::memmem::find(body, text.as_bytes()).is_some();
        received.bodies.iter().any(found)
    }

    /// All spans of the trace that a request belongs to, once its own has come and so many with it.
    pub async fn trace_of(&self, request_id: &str, count: usize) -> Trace {
        let begun = Instant::now();
        loop {
            let taken = self.0.taken.notified();
            let spans = self.spans();
            let own = spans.iter().find(|span| {
                attributes(&span.attributes)
                    .get("llavero.request_id")
                    .map(String::as_str)
                    == Some(request_id)
            });
            let trace: Vec<_> = own.map_or_else(Vec::new, |own| {
                let of_it = spans.iter().filter(|span| span.trace_id == own.trace_id);
                of_it.cloned().collect()
            });
            if trace.len() >= count {
                return Trace(trace);
            }
            let left = Duration::from_secs(30).saturating_sub(begun.elapsed());
            assert!(
                tokio::time::timeout(left, taken).await.is_ok(),
                "{count} spans of {request_id} don't come in: {:?}",
                Trace(trace).tree()
            );
        }
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mood = {
        let mut received = collector.0.received.lock().unwrap();
        received.requests += 1;
        received.leaks.extend(leaks::found_in(&body));
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        received.bodies.push(body);
        received.headers.push(headers);
        if received.mood == Mood::Takes {
            for of_resource in request.resource_spans {
                received
                    .resources
                    .push(of_resource.resource.unwrap().attributes);
                let scopes = of_resource.scope_spans.into_iter();
                received.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        }
        received.mood
    };
    collector.0.taken.notify_waiters();
    match mood {
        Mood::Takes => StatusCode::OK,
        Mood::Answers(status) => StatusCode::from_u16(status).unwrap(),
        Mood::Hangs => std::future::pending().await,
    }
}

/// Spans of one trace.
#[derive(Debug)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// The names, each below its parent's: `GET /v1/me > auth`, sorted.
    pub fn tree(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.0.iter().map(|span| self.path(span)).collect();
        lines.sort();
        lines
    }

    fn path(&self, span: &Span) -> String {
        let parent = self.0.iter().find(|it| it.span_id == span.parent_span_id);
        match parent {
            Some(parent) => format!("{} > {}", self.path(parent), span.name),
            None => span.name.clone(),
        }
    }

    /// The one span of that name; `server` is the request's own.
    #[track_caller]
    pub fn span(&self, name: &str) -> &Span {
        let is_it = |span: &&Span| match name {
            "server" => span.kind == SpanKind::Server as i32,
            name => span.name == name,
        };
        let found: Vec<_> = self.0.iter().filter(is_it).collect();
        let [span] = found[..] else {
            panic!("one span {name} in {:?}", self.tree())
        };
        span
    }

    /// What it says.
    #[track_caller]
    pub fn said(&self, name: &str) -> BTreeMap<String, String> {
        attributes(&self.span(name).attributes)
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let told = attributes.iter().map(|attribute| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.clone());
        let value = match value {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    });
    told.collect()
}

/// In hex, as `traceparent` has it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
