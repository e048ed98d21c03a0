//! The side door `/_sim/`: what a test says and asks. It needs no credential and isn't written into the journal.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::paging::Query;
use crate::reply::Reply;
use crate::seed::{TenantSeed, UserChange};
use crate::state::{Shared, Tenant};

const HELP: &str = "\
Simulated Admintotal ERP

  GET    /_sim/                                this page
  GET    /_sim/requests[?clave=CLAVE]          what the ERP received, oldest first
  DELETE /_sim/requests                        forget it
  PUT    /_sim/tenants/CLAVE                   make a tenant: {\"users\": [{\"username\", \"password\", \"api_key\",
                                               \"visible_orders\"?: [ID]}], \"orders\": 20, \"first_id\"?: 1,
                                               \"access_seconds\"?: 300, \"refresh_seconds\"?: 86400,
                                               \"token_form\"?: \"jwt\" | \"opaque\",
                                               \"rotate_refresh\"?: false}
  PUT    /_sim/tenants/CLAVE/users/USERNAME    change a user: {\"password\"?, \"api_key\"?}
  DELETE /_sim/tenants/CLAVE/tokens            make every token that was given out good no more
  GET    /_sim/tenants/CLAVE/faults            what is going wrong
  PUT    /_sim/tenants/CLAVE/faults            make it go wrong: {\"status\": {\"code\": 503, \"times\": 2}}
  DELETE /_sim/tenants/CLAVE/faults            make it well
  DELETE /_sim/tenants/CLAVE/held              let those go that the fault hold keeps waiting
  GET    /_sim/tenants/CLAVE/imagenes/ID       the bytes of an uploaded image

Faults, all at once in one object:
  delay: MILLISECONDS                          hold, hang, html, garbage, truncate, wrong_record, expired_tokens,
  redirect: ADDRESS                            odd_data, accept_then_hang: true
  paging: \"limit_offset\" | \"page\" | \"cursor\"
  status: {\"code\", \"retry_after\"?: \"5\", \"times\"?}
  rate_limit: {\"per_minute\", \"retry_after\"?: false}
  only: {\"method\"?, \"path_contains\"?}          which requests are hit; all if left out

The ERP itself is at /CLAVE/api/v2/, or at /api/v2/ of a host CLAVE.*
";

type Sim = State<Arc<Shared>>;

pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/_sim", get(help))
        .route("/_sim/", get(help))
        .route("/_sim/requests", get(requests).delete(forget_requests))
        .route("/_sim/tenants/{clave}", axum::routing::put(make_tenant))
        .route(
            "/_sim/tenants/{clave}/faults",
            get(faults).put(set_faults).delete(clear_faults),
        )
        .route("/_sim/tenants/{clave}/held", axum::routing::delete(let_go))
        .route(
            "/_sim/tenants/{clave}/users/{username}",
            axum::routing::put(change_user),
        )
        .route(
            "/_sim/tenants/{clave}/tokens",
            axum::routing::delete(revoke_tokens),
        )
        .route("/_sim/tenants/{clave}/imagenes/{archivo_id}", get(imagen))
        .route("/_sim/{*rest}", axum::routing::any(unknown))
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(shared)
}

async fn help() -> Reply {
    Reply::text(HELP)
}

async fn unknown() -> Reply {
    refusal(StatusCode::NOT_FOUND, "there is no such page: see /_sim/")
}

async fn requests(State(shared): Sim, RawQuery(query): RawQuery) -> Reply {
    let query = Query::parse(query.as_deref());
    let clave = query.get("clave");
    let mut received = shared.journal().list();
    received.retain(|request| clave.is_none() || request.clave.as_deref() == clave);
    Reply::json(StatusCode::OK, &json!(received))
}

async fn forget_requests(State(shared): Sim) -> Reply {
    shared.journal().clear();
    done()
}

async fn make_tenant(
    State(shared): Sim,
    Path(clave): Path<String>,
    body: Bytes,
) -> Result<Reply, Reply> {
    let mut seed: TenantSeed = parsed(&body)?;
    let is_label = !clave.is_empty()
        && clave.len() <= 63
        && clave
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_label {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "a clave is one DNS label: a-z, 0-9 and hyphens, at most 63",
        ));
    }
    if !seed.clave.is_empty() && seed.clave != clave {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "the body's clave isn't the path's: leave it out",
        ));
    }
    seed.clave = clave;
    shared.insert(Tenant::planted(seed));
    Ok(done())
}

async fn faults(State(shared): Sim, Path(clave): Path<String>) -> Result<Reply, Reply> {
    let faults = shared.with(&clave, |tenant| json!(tenant.faults.current()));
    let faults = faults.ok_or_else(no_such_tenant)?;
    Ok(Reply::json(StatusCode::OK, &faults))
}

async fn set_faults(
    State(shared): Sim,
    Path(clave): Path<String>,
    body: Bytes,
) -> Result<Reply, Reply> {
    let faults: Faults = parsed(&body)?;
    let shown = json!(faults);
    shared
        .with(&clave, |tenant| tenant.faults.set(faults))
        .ok_or_else(no_such_tenant)?;
    Ok(Reply::json(StatusCode::OK, &shown))
}

async fn clear_faults(State(shared): Sim, Path(clave): Path<String>) -> Result<Reply, Reply> {
    shared
        .with(&clave, |tenant| tenant.faults.set(Faults::default()))
        .ok_or_else(no_such_tenant)?;
    Ok(done())
}

async fn let_go(State(shared): Sim, Path(clave): Path<String>) -> Result<Reply, Reply> {
    shared
        .with(&clave, |tenant| tenant.faults.let_go())
        .ok_or_else(no_such_tenant)?;
    Ok(done())
}

async fn change_user(
    State(shared): Sim,
    Path((clave, username)): Path<(String, String)>,
    body: Bytes,
) -> Result<Reply, Reply> {
    let change: UserChange = parsed(&body)?;
    let is_known = shared
        .with(&clave, |tenant| tenant.change_user(&username, change))
        .ok_or_else(no_such_tenant)?;
    if is_known {
        Ok(done())
    } else {
        Err(refusal(StatusCode::NOT_FOUND, "there is no such user"))
    }
}

async fn revoke_tokens(State(shared): Sim, Path(clave): Path<String>) -> Result<Reply, Reply> {
    shared
        .with(&clave, |tenant| tenant.tokens.revoke(None))
        .ok_or_else(no_such_tenant)?;
    Ok(done())
}

async fn imagen(
    State(shared): Sim,
    Path((clave, archivo_id)): Path<(String, u64)>,
) -> Result<Reply, Reply> {
    shared
        .with(&clave, |tenant| tenant.imagenes.get(archivo_id))
        .ok_or_else(no_such_tenant)?
        .map(Reply::bytes)
        .ok_or_else(|| {
            refusal(
                StatusCode::NOT_FOUND,
                "no image with this id was uploaded here, or it is too long ago",
            )
        })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    serde_json::from_slice(body)
        .map_err(|error| refusal(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn done() -> Reply {
    Reply::json(StatusCode::OK, &json!({"ok": true}))
}

fn no_such_tenant() -> Reply {
    refusal(
        StatusCode::NOT_FOUND,
        "there is no such tenant: make it with PUT /_sim/tenants/CLAVE",
    )
}

fn refusal(status: StatusCode, error: &str) -> Reply {
    Reply::json(status, &Value::from_iter([("error", error)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_fault_with_its_fields() {
        let faults: Faults = serde_json::from_value(json!({
            "delay": 1,
            "status": {"code": 503, "retry_after": "5", "times": 2},
            "redirect": "x",
            "paging": "page",
            "rate_limit": {"per_minute": 1},
            "only": {"method": "GET", "path_contains": "x"},
        }))
        .expect("faults");
        let mut open = vec![json!(faults)];
        while let Some(value) = open.pop() {
            for (name, value) in value.as_object().into_iter().flatten() {
                assert!(HELP.contains(name.as_str()), "{name}");
                open.push(value.clone());
            }
        }
    }
}
