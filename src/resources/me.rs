//! `GET /v1/me`: who the token is.

use std::sync::Arc;

use axum::response::IntoResponse;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::AppState,
    caller::Caller,
    extract::{NoParameters, Query},
    problem::Problem,
};

use super::reference::CallerProblems;

/// This resource's routes, below `/v1`.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(me))
}

/// Who the token is and what it allows.
#[derive(Serialize, ToSchema)]
struct Me {
    /// `iss` of the token.
    #[schema(value_type = String, example = "https://id.example.com/")]
    issuer: Arc<str>,
    /// `sub` of the token.
    #[schema(value_type = String, example = "ana")]
    sub: Arc<str>,
    /// When the token expires.
    #[schema(format = DateTime, example = "2026-01-27T15:00:00Z")]
    expires: String,
    /// The tenants that it allows and that exist here.
    #[schema(example = json!(["carper"]))]
    tenants: Vec<String>,
    /// The tenant that requests with these headers act for; null where `Llavero-Tenant` must choose.
    #[schema(example = "carper")]
    tenant: Option<String>,
    /// What it may do for that tenant.
    #[schema(example = json!(["ordenes:read", "ordenes:write", "imagenes:write"]))]
    scopes: Vec<&'static str>,
}

/// Who am I?
///
/// Says who the token is, which tenants it allows, which one is chosen, and its scopes. Any valid token may ask.
#[utoipa::path(
    get,
    path = "/v1/me",
    operation_id = "quien_soy",
    tag = "me",
    params(("Llavero-Tenant" = Option<String>, Header, description = "Chooses among the tenants that the token allows.")),
    responses((status = 200, description = "Who the token is.", body = Me), CallerProblems)
)]
async fn me(_: Query<NoParameters>, caller: Caller) -> Result<impl IntoResponse, Problem> {
    let expires = OffsetDateTime::from_unix_timestamp(caller.claims().expires_at())
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default();
    Ok(axum::Json(Me {
        issuer: caller.claims().issuer().clone(),
        sub: caller.claims().subject().clone(),
        expires,
        tenants: caller.allowed().iter().map(ToString::to_string).collect(),
        tenant: caller.tenant().map(ToString::to_string),
        scopes: caller.scopes().iter().map(|scope| scope.as_str()).collect(),
    }))
}
