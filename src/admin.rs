//! The admin port: probes, metrics, version. Never exposed publicly.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{FromRef, Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, VARY},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};

use crate::{
    exchange::Exchange,
    identity::{Identity, Standing},
    layers::{framing, host, panics, problems, request_id},
    problem::{Code, Problem},
    telemetry::exposition::{self, Format},
    tenants::{CredentialId, Registry},
    tls::Tls,
};

/// More credentials than this have no series of their own in the metric of paces.
const MOST_LABELS: usize = 1000;

/// Whether new requests should come here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Turns readiness off for good: the drain has begun.
    pub fn drain(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone, FromRef)]
struct AdminState {
    health: Health,
    identity: Identity,
    registry: Registry,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
}

struct Metrics {
    registry: MetricRegistry,
    cache_bytes: Gauge,
    upstream_pauses: Gauge,
    upstream_pace: Family<CredentialLabel, Gauge<f64, AtomicU64>>,
    /// Those that have a series.
    paced: Mutex<BTreeSet<CredentialLabel>>,
    ready: Gauge,
    exchange: Exchange,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct CredentialLabel {
    tenant: String,
    credential: String,
}

/// The admin port's routes.
pub fn router(
    health: Health,
    identity: Identity,
    registry: Registry,
    exchange: Exchange,
    tls: Option<Tls>,
    mut metrics: MetricRegistry,
) -> Router {
    let cache_bytes = Gauge::default();
    metrics.register(
        "llavero_cache_bytes",
        "Bytes that the cache holds",
        cache_bytes.clone(),
    );
    let upstream_pauses = Gauge::default();
    metrics.register(
        "llavero_upstream_pauses",
        "Credentials whose requests wait for the end of a pause that a 429 of the ERP began",
        upstream_pauses.clone(),
    );
    let upstream_pace = Family::default();
    metrics.register(
        "llavero_upstream_pace_seconds",
        "How far apart requests are held where the limit that was learnt from the ERP's 429s is nearly used; credentials that have one",
        upstream_pace.clone(),
    );
    let ready = Gauge::default();
    metrics.register(
        "llavero_ready",
        "Whether /readyz says that requests should come here",
        ready.clone(),
    );
    let metrics = Arc::new(Metrics {
        registry: metrics,
        cache_bytes,
        upstream_pauses,
        upstream_pace,
        paced: Mutex::default(),
        ready,
        exchange,
    });
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .route("/version", get(version))
        .fallback(nothing_here)
        .with_state(AdminState {
            health,
            identity,
            registry,
            metrics,
            tls,
        })
        .layer(panics::layer())
        .layer(middleware::from_fn(host::layer))
        .layer(middleware::from_fn(framing::layer))
        .layer(middleware::from_fn(problems::layer))
        .layer(middleware::from_fn(request_id::layer))
}

async fn readyz(
    State(health): State<Health>,
    State(identity): State<Identity>,
    State(registry): State<Registry>,
    State(metrics): State<Arc<Metrics>>,
    State(tls): State<Option<Tls>>,
    request: Request,
) -> Response {
    if health.is_draining() {
        return Problem::new(
            Code::Overloaded,
            "The gateway is draining: send requests elsewhere.",
        )
        .with_retry_after(Duration::from_secs(5))
        .into_response();
    }
    let query = request.uri().query().unwrap_or_default();
    let is_verbose = query
        .split('&')
        .any(|parameter| parameter.starts_with("verbose"));
    if !identity.has_keys() {
        let mut detail =
            String::from("No issuer's keys are here, so that every token would be refused.");
        if is_verbose {
            for standing in identity.standings() {
                let _ = write!(detail, " {}.", told(&standing));
            }
        }
        return Problem::new(Code::IdentityUnavailable, detail)
            .with_retry_after(Duration::from_secs(5))
            .into_response();
    }
    let mut body = String::from("ready\n");
    let tenants = registry.current();
    if is_verbose {
        let _ = writeln!(body, "tenants: {}", tenants.len());
        if let Some(unreadable) = registry.unreadable() {
            let since = httpdate::fmt_http_date(unreadable.since);
            let _ = writeln!(
                body,
                "tenants_dir: can't be read since {since} ({}); the tenants stay as they are",
                unreadable.cause
            );
        }
        let _ = writeln!(
            body,
            "tenant files with mistakes: {}",
            tenants.errors().len()
        );
        if let Some(tls) = tls {
            let standing = tls.standing();
            let ends = httpdate::fmt_http_date(standing.expires);
            let _ = writeln!(body, "certificate: ends {ends}");
            if let Some(mistake) = standing.mistake {
                let _ = writeln!(body, "- {mistake}\n  (the last good one is still shown)");
            }
        }
        for (tenant, state) in metrics.exchange.broken_tenants() {
            let _ = writeln!(body, "breaker of {tenant}: {}", state.as_str());
        }
        for refused in metrics.exchange.refused_credentials() {
            let (tenant, name) = (refused.id.tenant(), refused.id.name());
            let (status, seconds) = (refused.status, refused.lasting.as_secs());
            let _ = writeln!(
                body,
                "credential {name} of {tenant}: refused by the ERP with {status} for {seconds} s"
            );
        }
        for (credential, left) in metrics.exchange.paused_credentials() {
            let (tenant, name) = (credential.tenant(), credential.name());
            let seconds = left.as_secs_f64().ceil();
            let _ = writeln!(
                body,
                "credential {name} of {tenant}: pauses for {seconds} s, since the ERP limits the rate"
            );
        }
        for (credential, pace) in metrics.exchange.paces() {
            let (tenant, name) = (credential.tenant(), credential.name());
            let seconds = pace.as_secs_f64();
            let _ = writeln!(
                body,
                "credential {name} of {tenant}: a request each {seconds:.3} s where it asks much, since the ERP limited the rate"
            );
        }
        for standing in identity.standings() {
            let _ = writeln!(body, "{}", told(&standing));
        }
        for error in tenants.errors() {
            for mistake in &error.mistakes {
                let _ = writeln!(body, "- {mistake}");
            }
            if error.last_good_is_served {
                let _ = writeln!(body, "  (it is served as it was before)");
            }
        }
    }
    body.into_response()
}

/// An issuer whose keys are fetched, in a line.
fn told(standing: &Standing) -> String {
    let Standing {
        issuer,
        keys,
        confirmed,
        failing,
    } = standing;
    let at = |moment: SystemTime| httpdate::fmt_http_date(moment);
    let mut line = format!("keys of {issuer}: {keys}");
    if let Some(confirmed) = confirmed {
        let _ = write!(line, ", last fetched {}", at(*confirmed));
    }
    if let Some((since, cause)) = failing {
        let _ = write!(line, ", failing since {} ({cause})", at(*since));
    }
    line
}

async fn render_metrics(
    State(health): State<Health>,
    State(identity): State<Identity>,
    State(metrics): State<Arc<Metrics>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ready = !health.is_draining() && identity.has_keys();
    metrics.ready.set(ready.into());
    let bytes = i64::try_from(metrics.exchange.cached_bytes()).unwrap_or(i64::MAX);
    metrics.cache_bytes.set(bytes);
    let pauses = metrics.exchange.paused_credentials().len();
    let pauses = i64::try_from(pauses).unwrap_or(i64::MAX);
    metrics.upstream_pauses.set(pauses);
    metrics.show_paces();
    let format = Format::accepted(headers.get(ACCEPT));
    let text = exposition::render(&metrics.registry, format)
        .map_err(|_| Problem::of(Code::Internal).caused_by("the metrics can't be encoded"))?;
    let head = [
        (CONTENT_TYPE, format.content_type()),
        (VARY, HeaderValue::from_static("accept")),
    ];
    Ok((head, text).into_response())
}

impl Metrics {
    /// A series for each credential that is held to a pace, and none for others.
    fn show_paces(&self) {
        let mut shown = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = BTreeSet::new();
        for (credential, pace) in self.exchange.paces().into_iter().take(MOST_LABELS) {
            let label = CredentialLabel::of(&credential);
            let gauge = self.upstream_pace.get_or_create(&label);
            gauge.set(pace.as_secs_f64());
            drop(gauge);
            labels.insert(label);
        }
        for gone in shown.difference(&labels) {
            self.upstream_pace.remove(gone);
        }
        *shown = labels;
    }
}

impl CredentialLabel {
    fn of(credential: &CredentialId) -> Self {
        Self {
            tenant: credential.tenant().to_string(),
            credential: credential.name().to_string(),
        }
    }
}

async fn nothing_here() -> Problem {
    Problem::new(
        Code::NotFound,
        "There is nothing at this address. This port has /livez, /readyz, /metrics and /version; the API is on the other.",
    )
}

async fn version() -> impl IntoResponse {
    let body = serde_json::json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
    });
    (
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body.to_string(),
    )
}
