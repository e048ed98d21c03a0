//! One request to the ERP: address, headers from an allow-list, a bounded answer.

use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::TryFutureExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::Registry as MetricRegistry,
};
use reqwest::redirect;

use crate::{
    clock::Clock,
    config::{self, secret::Secret, upstream::BaseUrl},
    telemetry::traces::{Context, Span},
    tenants::{Clave, TenantId},
};

use super::{
    Encoding, Failure, Payload, Request, Target,
    body::{ImageBody, Progress},
};

const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The most that is read of an answer: a page of 100 orders is well under 1 MiB.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The most that is read of a refusal, to find the fields that it names.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// Shorter than servers keep a connection, so that one which they are about to close isn't used.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A pause longer than this isn't believed: then one request tries.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Makes single requests. It follows no redirects (an `Api-key` would travel along),
/// knows no proxies of the environment and keeps no cookies.
pub(super) struct Client {
    http: reqwest::Client,
    base_url: BaseUrl,
    encoding: Encoding,
    clock: Clock,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    http_request_method: &'static str,
    http_response_status_code: u16,
}

/// Who a request says it is.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    /// The header `Api-key`.
    ApiKey(&'a Secret),
    /// A token, in `Authorization`.
    Bearer(&'a Secret),
}

/// A successful answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200 to 299.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
    /// When it was given, by the ERP's clock (RFC 9110 §6.6.1).
    pub date: Option<SystemTime>,
}

/// The client couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client can't start: {0}")]
pub struct ClientError(#[from] reqwest::Error);

impl Client {
    /// # Errors
    /// TLS can't be set up on this machine.
    pub(super) fn new(
        config: &config::upstream::Upstream,
        clock: Clock,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("llavero/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build()?;
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        metrics.register(
            "http_client_request_duration_seconds",
            "Requests to the ERP; status 0 where none came",
            durations.clone(),
        );
        let encoding = match config.image_encoding {
            config::upstream::ImageEncoding::Base64 => Encoding::Base64,
            config::upstream::ImageEncoding::DataUri => Encoding::DataUri,
        };
        Ok(Self {
            http,
            base_url: config.base_url.clone(),
            encoding,
            clock,
            durations,
        })
    }

    /// One request, whose whole answer must be here before `deadline`. A `GET` where there is no payload.
    pub(super) async fn attempt(
        &self,
        asked: Request<'_>,
        shown: Shown<'_>,
        payload: Option<&Payload>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let (method, label) = match payload {
            None => (Method::GET, "GET"),
            Some(Payload::Patch(_)) => (Method::PATCH, "PATCH"),
            Some(Payload::Image { .. }) => (Method::POST, "POST"),
        };
        let request = self
            .http
            .request(method, self.url(asked.clave, asked.target)?)
            .headers(headers(Some(shown))?);
        let mut sending = asked.trace.request("upstream");
        let (request, progress) = match payload {
            None => (request, None),
            Some(payload) => self.with_payload(request, payload, &sending.context()),
        };
        let tenant = asked.credential.id().tenant();
        let outcome = self.timed(request, tenant, label, deadline).await;
        // Whatever comes before its end ends it: else it could become whole after all, when nobody expects it any more.
        let is_whole = progress.is_none_or(|progress| progress.end());
        let outcome = match outcome {
            Ok(_) if !is_whole => Err(Failure::Early),
            Err(Failure::Broken | Failure::Timeout) if !is_whole => Err(Failure::Unsent),
            outcome => outcome,
        };
        describe(&mut sending, label, &outcome);
        drop(sending);
        outcome
    }

    /// A `POST` of JSON that says itself who it is.
    pub(super) async fn log_in(
        &self,
        clave: &Clave,
        tenant: &TenantId,
        target: &Target,
        body: Vec<u8>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let request = self
            .http
            .post(self.url(clave, target)?)
            .headers(headers(None)?)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        self.timed(request, tenant, "POST", deadline).await
    }

    fn url(&self, clave: &Clave, target: &Target) -> Result<url::Url, Failure> {
        let base = self.base_url.for_clave(clave.as_str());
        target.url(&base).ok_or(Failure::Address)
    }

    async fn timed(
        &self,
        request: reqwest::RequestBuilder,
        tenant: &TenantId,
        label: &'static str,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let started = self.clock.instant();
        let outcome = self
            .clock
            .before(deadline, exchange(request, self.clock.wall()))
            .await
            .unwrap_or(Err(Failure::Timeout));
        let took = self.clock.instant().duration_since(started);

        let status = match &outcome {
            Ok(answer) => answer.status,
            Err(failure) => failure.status().unwrap_or(0),
        };
        let labels = RequestLabels {
            http_request_method: label,
            http_response_status_code: status,
        };
        self.durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        tracing::debug!(
            tenant = tenant.as_str(),
            method = label,
            status,
            duration_ms = took.as_secs_f64() * 1e3,
            "upstream"
        );
        outcome
    }

    fn with_payload(
        &self,
        request: reqwest::RequestBuilder,
        payload: &Payload,
        trace: &Context,
    ) -> (reqwest::RequestBuilder, Option<Progress>) {
        let request = request.header(CONTENT_TYPE, "application/json");
        match payload {
            Payload::Patch(fields) => {
                let body = serde_json::to_vec(fields).unwrap_or_default();
                (request.body(body), None)
            }
            Payload::Image {
                titulo,
                proceso,
                media_type,
                bytes,
            } => {
                let body =
                    ImageBody::new(titulo, *proceso, media_type, bytes.clone(), self.encoding)
                        .traced(trace.clone());
                let progress = body.progress();
                (request.body(reqwest::Body::wrap(body)), Some(progress))
            }
        }
    }
}

/// Says what became of a request to the ERP (HTTP spans). Its address isn't told: the host names the account.
fn describe(span: &mut Span, method: &'static str, outcome: &Result<Answer, Failure>) {
    span.set("http.request.method", method);
    let status = match outcome {
        Ok(answer) => Some(answer.status),
        Err(failure) => failure.status(),
    };
    if let Some(status) = status {
        span.set("http.response.status_code", i64::from(status));
    }
    if let Err(failure) = outcome {
        span.fail(failure.as_str());
    }
}

/// Everything that is sent beside the body's type and length.
#[expect(
    clippy::disallowed_methods,
    reason = "the wire is what a key or token is for"
)]
fn headers(shown: Option<Shown<'_>>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let (name, value) = match shown {
        None => return Ok(headers),
        Some(Shown::ApiKey(key)) => (API_KEY, HeaderValue::from_str(key.expose())),
        Some(Shown::Bearer(token)) => {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            (AUTHORIZATION, value)
        }
    };
    let mut value = value.map_err(|_| Failure::Address)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

async fn exchange(request: reqwest::RequestBuilder, now: SystemTime) -> Result<Answer, Failure> {
    let response = request
        .send()
        .map_err(|error| {
            if error.is_connect() {
                Failure::Connect
            } else {
                Failure::Broken
            }
        })
        .await?;
    let status = response.status();
    // A part of an answer (206) is none: nothing was asked for in parts.
    if status.is_success() && status != StatusCode::PARTIAL_CONTENT {
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let body = read(response, MAX_ANSWER_BYTES).await?;
        return Ok(Answer {
            status: status.as_u16(),
            body,
            date,
        });
    }
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::CredentialRejected(status.as_u16())
        }
        StatusCode::NOT_FOUND => Failure::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Failure::RateLimited {
            retry_after: retry_after(response.headers(), now),
        },
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            let body = read(response, MAX_REFUSAL_BYTES).await.unwrap_or_default();
            Failure::Rejected {
                status: status.as_u16(),
                fields: refused_fields(&body),
            }
        }
        StatusCode::PAYLOAD_TOO_LARGE => Failure::TooLarge,
        status => Failure::Status(status.as_u16()),
    })
}

async fn read(mut response: reqwest::Response, limit: usize) -> Result<Bytes, Failure> {
    let promised = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    if promised > limit {
        return Err(Failure::Oversized { limit });
    }
    let mut body = BytesMut::with_capacity(promised);
    while let Some(chunk) = response.chunk().await.map_err(|_| Failure::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::Oversized { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// `Retry-After` as seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(after.min(MAX_RETRY_AFTER))
}

/// The fields of a refusal, `{"campo": ["mensaje"]}`; the messages stay here.
fn refused_fields(body: &[u8]) -> Vec<String> {
    const MAX_FIELDS: usize = 50;
    match serde_json::from_slice(body) {
        Ok(serde_json::Value::Object(fields)) => fields
            .into_iter()
            .map(|(name, _)| name)
            .take(MAX_FIELDS)
            .collect(),
        _ => Vec::new(),
    }
}

/// The buckets that the OpenTelemetry HTTP conventions advise, in seconds.
pub(super) fn histogram() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ])
}
