//! The way of spans to the collector: a bounded queue, and one task that sends what is in it
//! (OTLP/HTTP). Whoever ends a span never waits; what there is no room for is dropped and counted.
//!
//! The SDK's own processor blocks a thread, for which reqwest needs a second client, and tells nobody what it drops.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use prost::Message as _;
use reqwest::redirect;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

use super::{Settings, environment::Collector};

/// So often is a batch sent at most, where the collector says that it may be sent again.
const ATTEMPTS: u32 = 4;
/// Before the second attempt, and twice as long before each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// A collector that asks for a longer pause isn't waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often an operator is told of lost spans at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// An operator who tries a collector waits no longer.
const LONGEST_TRIAL: Duration = Duration::from_secs(10);
/// What is read of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The client for the collector can't start.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for traces can't start: {0}")]
pub struct StartError(#[from] reqwest::Error);

/// Spans by what became of them.
#[derive(Clone)]
pub(super) struct Counts {
    exported: Counter,
    /// For which there was no room.
    dropped: Counter,
    /// Which the collector didn't take.
    failed: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Counts {
    pub(super) fn new(metrics: &mut MetricRegistry) -> Self {
        let results = Family::<ResultLabel, Counter>::default();
        metrics.register(
            "llavero_trace_spans",
            "Spans of traces by what became of them",
            results.clone(),
        );
        let count = |result| results.get_or_create_owned(&ResultLabel { result });
        Self {
            exported: count("exported"),
            dropped: count("dropped"),
            failed: count("failed"),
        }
    }
}

/// Where spans go when they end.
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    dropped: Counter,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans to the collector.
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    http: reqwest::Client,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    counts: Counts,
    clock: Clock,
    told: Told,
}

/// What the operator knows of what was lost.
#[derive(Default)]
struct Told {
    last: Option<Instant>,
    /// How many were lost by then.
    lost: u64,
    is_failing: bool,
}

/// Why a batch wasn't taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no connection")]
    Connect,
    #[error("no whole answer in time")]
    Timeout,
    #[error("the connection broke")]
    Broken,
    #[error("it answered {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("it took only a part")]
    Part(u64),
}

/// The two ends of the way.
pub(super) fn queue(
    collector: Collector,
    counts: Counts,
    clock: Clock,
) -> Result<(Queue, Exporter), StartError> {
    let http = client()?;
    let (sender, spans) = mpsc::channel(collector.batches.queue);
    let queue = Queue {
        sender,
        dropped: counts.dropped.clone(),
    };
    let exporter = Exporter {
        spans,
        http,
        resource: ResourceAttributesWithSchema::from(&collector.resource),
        collector,
        counts,
        clock,
        told: Told::default(),
    };
    Ok((queue, exporter))
}

fn client() -> Result<reqwest::Client, StartError> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("llavero/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .build()?;
    Ok(client)
}

/// Sends the collector of those settings an export of nothing; none where there is no collector.
///
/// # Errors
/// What is wrong and what to do, without address, headers or answer.
pub async fn try_collector(settings: &Settings, clock: &Clock) -> Option<Result<(), String>> {
    let collector = settings.collector.as_ref()?;
    let http = match client() {
        Ok(http) => http,
        Err(error) => return Some(Err(error.to_string())),
    };
    let nothing = ExportTraceServiceRequest::default().encode_to_vec();
    let timeout = collector.timeout.min(LONGEST_TRIAL);
    let sent = send(&http, collector, clock, timeout, nothing.into()).await;
    Some(sent.map_err(|refused| format!("{refused}; {}", refused.advice())))
}

async fn send(
    http: &reqwest::Client,
    collector: &Collector,
    clock: &Clock,
    timeout: Duration,
    body: Bytes,
) -> Result<(), Refused> {
    let until = clock.instant() + timeout;
    let request = http
        .post(collector.endpoint.clone())
        .headers(collector.headers.clone())
        .header(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        )
        .body(body);
    let answer = clock.before(until, exchange(request)).await;
    answer.unwrap_or(Err(Refused::Timeout))
}

impl Exporter {
    /// Sends until `stop`, and then what has ended by then, without trying anything again.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(batch) = self.next(&stop).await {
            let count = batch.len() as u64;
            let outcome = self.export(batch, &stop).await;
            let lost = match outcome {
                Ok(()) => 0,
                Err(Refused::Part(rejected)) => rejected.min(count),
                Err(_) => count,
            };
            self.counts.exported.inc_by(count - lost);
            self.counts.failed.inc_by(lost);
            self.tell(outcome.err());
        }
    }

    /// The next batch; none once all is sent and `stop` has been said.
    async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<SpanData>> {
        let most = self.collector.batches.size;
        let mut batch = Vec::new();
        let first = tokio::select! {
            biased;
            first = self.spans.recv() => first?,
            () = stop.cancelled() => return None,
        };
        batch.push(first);
        let full = self.clock.instant() + self.collector.batches.delay;
        while batch.len() < most {
            let left = most - batch.len();
            let more = self
                .clock
                .before(full, self.spans.recv_many(&mut batch, left));
            let more = tokio::select! {
                biased;
                more = more => more,
                () = stop.cancelled() => None,
            };
            // It is time, or nothing more can come.
            if more.is_none_or(|more| more == 0) {
                break;
            }
        }
        Some(batch)
    }

    async fn export(&self, batch: Vec<SpanData>, stop: &CancellationToken) -> Result<(), Refused> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let body = Bytes::from(request.encode_to_vec());
        let mut attempt = 1;
        loop {
            let refused = match self.send(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            let pause = refused.pause(attempt);
            let Some(pause) = pause.filter(|_| attempt < ATTEMPTS && !stop.is_cancelled()) else {
                return Err(refused);
            };
            tokio::select! {
                () = self.clock.sleep_until(self.clock.instant() + pause) => {}
                () = stop.cancelled() => {}
            }
            attempt += 1;
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), Refused> {
        let timeout = self.collector.timeout;
        send(&self.http, &self.collector, &self.clock, timeout, body).await
    }

    /// Tells the operator of what is lost, now and then.
    fn tell(&mut self, refused: Option<Refused>) {
        let lost = self.counts.dropped.get() + self.counts.failed.get();
        let now = self.clock.instant();
        match (self.told.next(now, lost, refused.is_some()), refused) {
            (Some(News::Lost(spans)), Some(cause)) => tracing::warn!(
                %cause,
                spans,
                "the collector doesn't take traces: spans are lost; look at it and at OTEL_EXPORTER_OTLP_ENDPOINT"
            ),
            (Some(News::Lost(spans)), None) => tracing::warn!(
                spans,
                "spans ended faster than the collector took them: some are lost; sample fewer, or raise OTEL_BSP_MAX_QUEUE_SIZE"
            ),
            (Some(News::TakesAgain), _) => tracing::info!("the collector takes traces again"),
            (None, _) => {}
        }
    }
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// So many spans since the last line.
    Lost(u64),
    TakesAgain,
}

impl Told {
    /// What to tell after a batch, where so many spans are lost by now.
    fn next(&mut self, now: Instant, lost: u64, is_failing: bool) -> Option<News> {
        let is_due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= TOLD_EVERY);
        let was_failing = std::mem::replace(&mut self.is_failing, is_failing);
        if lost > self.lost && is_due {
            let spans = lost - self.lost;
            self.last = Some(now);
            self.lost = lost;
            Some(News::Lost(spans))
        } else {
            (was_failing && !is_failing).then_some(News::TakesAgain)
        }
    }
}

impl Refused {
    fn advice(&self) -> &'static str {
        match self {
            Self::Connect => {
                "see that it runs, that its host and port are right, and with https that this machine trusts its certificate"
            }
            Self::Timeout => "see what holds it up, or raise OTEL_EXPORTER_OTLP_TIMEOUT",
            Self::Broken => {
                "see that its port is that of OTLP over HTTP, usually 4318: 4317 is gRPC's"
            }
            Self::Status(status, _) => match status.as_u16() {
                300..=399 => "name the address itself: redirects aren't followed",
                401 | 403 => "see what it wants in OTEL_EXPORTER_OTLP_HEADERS",
                404 | 405 => {
                    "it takes no traces at that path: OTEL_EXPORTER_OTLP_ENDPOINT has /v1/traces added, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it is"
                }
                415 => "it must take OTLP in protobuf",
                _ => "see its log",
            },
            Self::Part(_) => "see its log",
        }
    }

    /// How long to wait before it is sent again, where it may be (OTLP/HTTP, Failures).
    fn pause(&self, attempt: u32) -> Option<Duration> {
        let backoff = BACKOFF * (1 << (attempt - 1).min(4));
        match self {
            Self::Connect | Self::Timeout | Self::Broken => Some(backoff),
            Self::Status(status, asked) => {
                let again = matches!(status.as_u16(), 429 | 502 | 503 | 504);
                let pause = asked.unwrap_or(backoff);
                (again && pause <= LONGEST_PAUSE).then_some(pause)
            }
            Self::Part(_) => None,
        }
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<(), Refused> {
    let mut response = request.send().await.map_err(|error| {
        if error.is_connect() {
            Refused::Connect
        } else {
            Refused::Broken
        }
    })?;
    let status = response.status();
    if !status.is_success() {
        return Err(Refused::Status(status, retry_after(response.headers())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Refused::Broken)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(());
        }
        body.extend_from_slice(&chunk);
    }
    // An answer that can't be read says nothing against the 200.
    let answer = ExportTraceServiceResponse::decode(&body[..]).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
    match u64::try_from(rejected) {
        Ok(rejected) if rejected > 0 => Err(Refused::Part(rejected)),
        _ => Ok(()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_told_of_losses_once_a_minute_at_most() {
        let start = Clock::manual().instant();
        let mut told = Told::default();
        let mut after = |seconds, lost, is_failing| {
            told.next(start + Duration::from_secs(seconds), lost, is_failing)
        };
        assert_eq!(after(0, 0, false), None);
        assert_eq!(after(1, 5, true), Some(News::Lost(5)));
        for second in 2..61 {
            assert_eq!(after(second, 5 + second, true), None);
        }
        assert_eq!(after(61, 70, true), Some(News::Lost(65)));
        assert_eq!(after(62, 70, false), Some(News::TakesAgain));
        assert_eq!(after(63, 70, false), None);
    }

    #[test]
    fn only_what_the_protocol_says_is_sent_again() {
        let answered = |status, after: Option<u64>| {
            let status = StatusCode::from_u16(status).expect("good");
            Refused::Status(status, after.map(Duration::from_secs)).pause(1)
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(answered(status, None), Some(BACKOFF));
            assert_eq!(answered(status, Some(7)), Some(Duration::from_secs(7)));
            assert_eq!(answered(status, Some(31)), None, "nobody waits so long");
        }
        for status in [301, 400, 401, 404, 500, 501] {
            assert_eq!(answered(status, None), None);
        }
        assert_eq!(Refused::Connect.pause(3), Some(4 * BACKOFF));
        assert_eq!(Refused::Part(1).pause(1), None);
    }
}
