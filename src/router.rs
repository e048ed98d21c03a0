//! What is mounted where, and the one layer stack.

use axum::{Router, middleware};
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use tower::util::option_layer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::AppState,
    layers::{
        access_log::{self, AccessLog},
        audit::{self, Auditor},
        authenticate::{self, Authenticator},
        cache_headers,
        client_address::{self, TrustedProxies},
        framing, host,
        leak_guard::{self, LeakGuard},
        panics, problems, rate_limit, request_id, security_headers, trace,
    },
    problem::{Code, Problem},
    resources,
    telemetry::traces::Tracer,
};

/// The resources, with their part of the reference document.
fn resources() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(<resources::reference::Document as utoipa::OpenApi>::openapi())
        .merge(resources::me::routes())
        .merge(resources::ordenes::routes())
}

/// The reference document of everything that is mounted.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    resources::reference::complete(resources().into_openapi())
}

/// The public API.
pub fn public(
    state: AppState,
    tracer: Tracer,
    access_log: AccessLog,
    leak_guard: LeakGuard,
    trusted_proxies: TrustedProxies,
    allowed_origins: &[String],
) -> Router {
    let document = document();
    let limits = state.limits.clone();
    let (log, clock) = (state.audit.clone(), state.clock.clone());
    let auditor = Auditor::new(log, clock, limits.clone(), &document);
    let authenticator = <Authenticator as axum::extract::FromRef<AppState>>::from_ref(&state);
    let (v1, _) = resources().split_for_parts();

    // The last line stands outermost.
    let v1 = v1
        // An unknown address below /v1 is refused behind authentication like a known one.
        .route("/v1/{*rest}", axum::routing::any(nothing_here))
        // Lets callers within the limits through, before anything is read or looked up.
        .layer(middleware::from_fn_with_state(limits, rate_limit::layer))
        // Everything below /v1 is for a known caller; the limits let nobody else through.
        .layer(middleware::from_fn_with_state(
            authenticator,
            authenticate::layer,
        ))
        // Sees what everything inside refuses, and leaves the record of a write that goes no further.
        .layer(middleware::from_fn_with_state(auditor, audit::layer))
        // Renders what the exchange decided; a refused token's answer isn't to be stored either.
        .layer(middleware::from_fn(cache_headers::layer))
        // Sees all that has to do with a tenant: nothing of its keys goes further.
        .layer(middleware::from_fn_with_state(
            leak_guard,
            leak_guard::layer,
        ))
        .with_state(state);

    Router::new()
        .merge(v1)
        .merge(resources::reference::routes(&document))
        .merge(resources::problems::routes())
        .fallback(nothing_here)
        // Inside the rendering of problems: a panic becomes one.
        .layer(panics::layer())
        // A preflight is answered here, without a token; errors get CORS headers too, or a
        // browser could not read them.
        .layer(option_layer(security_headers::cors(allowed_origins)))
        // Before CORS, which would answer it.
        .layer(middleware::from_fn(security_headers::plain_options))
        // Before anything is answered: what is no request of HTTP's is refused whatever it asks for.
        .layer(middleware::from_fn(host::layer))
        .layer(middleware::from_fn(framing::layer))
        // Renders every failure above, the framework's own too; needs the request id.
        .layer(middleware::from_fn(problems::layer))
        // On every answer, preflights and errors included.
        .layer(middleware::from_fn(security_headers::layer))
        // Sees the finished answer of everything that can fail, refuse or panic.
        .layer(middleware::from_fn_with_state(
            access_log,
            access_log::layer,
        ))
        // Before the log, whose lines name the trace; it can't fail.
        .layer(middleware::from_fn_with_state(tracer, trace::layer))
        // Before the log, whose line has the address; it can't fail.
        .layer(middleware::from_fn_with_state(
            trusted_proxies,
            client_address::layer,
        ))
        // What shows a request, shows no token.
        .layer(SetSensitiveRequestHeadersLayer::new([
            AUTHORIZATION,
            PROXY_AUTHORIZATION,
            COOKIE,
        ]))
        // Outermost, since the log's span names the request; it can't fail.
        .layer(middleware::from_fn(request_id::layer))
}

async fn nothing_here() -> Problem {
    Problem::new(
        Code::NotFound,
        "There is nothing at this address. `/docs` lists what there is.",
    )
}
