//! What is mounted where, and the one layer stack.

use axum::{Router, middleware};
use tower::util::option_layer;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::AppState,
    layers::{
        access_log::{self, AccessLog},
        authenticate::{self, Authenticator},
        cache_headers, panics, problems, request_id, security_headers,
    },
    problem::{Code, Problem},
    resources,
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
pub fn public(state: AppState, access_log: AccessLog, allowed_origins: &[String]) -> Router {
    let authenticator = <Authenticator as axum::extract::FromRef<AppState>>::from_ref(&state);
    let (v1, _) = resources().split_for_parts();

    // The last line stands outermost.
    let v1 = v1
        // An unknown address below /v1 is refused behind authentication like a known one.
        .route("/v1/{*rest}", axum::routing::any(nothing_here))
        // Everything below /v1 is for a known caller; a permit needs one.
        .layer(middleware::from_fn_with_state(
            authenticator,
            authenticate::layer,
        ))
        // Renders what the exchange decided; a refused token's answer isn't to be stored either.
        .layer(middleware::from_fn(cache_headers::layer))
        .with_state(state);

    Router::new()
        .merge(v1)
        .merge(resources::reference::routes(&document()))
        .merge(resources::problems::routes())
        .fallback(nothing_here)
        // Inside the rendering of problems: a panic becomes one.
        .layer(panics::layer())
        // A preflight is answered here, without a token; errors get CORS headers too, or a
        // browser could not read them.
        .layer(option_layer(security_headers::cors(allowed_origins)))
        // Before CORS, which would answer it.
        .layer(middleware::from_fn(security_headers::plain_options))
        // Renders every failure above, the framework's own too; needs the request id.
        .layer(middleware::from_fn(problems::layer))
        // On every answer, preflights and errors included.
        .layer(middleware::from_fn(security_headers::layer))
        // Sees the finished answer of everything that can fail, refuse or panic.
        .layer(middleware::from_fn_with_state(
            access_log,
            access_log::layer,
        ))
        // Outermost, since the log's span names the request; it can't fail.
        .layer(middleware::from_fn(request_id::layer))
}

async fn nothing_here() -> Problem {
    Problem::new(
        Code::NotFound,
        "There is nothing at this address. `/docs` lists what there is.",
    )
}
