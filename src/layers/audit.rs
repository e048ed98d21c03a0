//! The audit trail of every request below `/v1`. It stands outside everything that can
//! refuse, and sees to it that a write leaves its record whatever becomes of it: refused,
//! left by its client, or panicked. A change that reaches the ERP leaves its own.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{Method, StatusCode};
use utoipa::openapi::{OpenApi, path::PathItem};

use crate::{
    clock::Clock,
    limits::Limits,
    problem::{Code, Problem},
    telemetry::audit::{Attempt, AuditLog, Outcome, Trail},
};

use super::{client_address::ClientAddress, request_id::RequestId};

/// The code of a record, and of a line in the log, whose client didn't wait for the answer; no answer has it.
pub(super) const CLIENT_LEFT: &str = "client-left";

/// What the layer needs. Cheap to clone.
#[derive(Clone)]
pub struct Auditor {
    log: AuditLog,
    clock: Clock,
    limits: Limits,
    operations: Operations,
}

impl Auditor {
    /// For the operations of that document, which is collected as they are mounted.
    #[must_use]
    pub fn new(log: AuditLog, clock: Clock, limits: Limits, document: &OpenApi) -> Self {
        Self {
            log,
            clock,
            limits,
            operations: Operations::of(document),
        }
    }
}

/// Which operation is at which route for which method.
#[derive(Clone)]
struct Operations(Arc<HashMap<String, Methods>>);

type Methods = Vec<(Method, Arc<str>)>;

impl Operations {
    fn of(document: &OpenApi) -> Self {
        let routes = document.paths.paths.iter();
        Self(Arc::new(
            routes
                .map(|(path, item)| (path.clone(), methods(item)))
                .collect(),
        ))
    }

    fn find(&self, route: &str, method: &Method) -> Option<&Arc<str>> {
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let operations = self.0.get(route)?;
        let (_, name) = operations.iter().find(|(its, _)| its == method)?;
        Some(name)
    }
}

fn methods(item: &PathItem) -> Methods {
    let all = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::PATCH, &item.patch),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| {
            let name = operation.as_ref()?.operation_id.as_deref()?;
            Some((method, name.into()))
        })
        .collect()
}

/// Opens a trail and sees that it ends.
pub async fn layer(State(auditor): State<Auditor>, mut request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let (Some(RequestId(id)), Some(ClientAddress(client))) = (
        extensions.get::<RequestId>(),
        extensions.get::<ClientAddress>(),
    ) else {
        return Problem::of(Code::Internal)
            .caused_by("the audit stands outside the request's id or the client's address")
            .into_response();
    };
    let route = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let operation = route.and_then(|route| auditor.operations.find(route, request.method()));
    let client = *client;
    let attempt = Attempt {
        request_id: id.clone(),
        client,
        operation: operation.cloned(),
        orden: route.and_then(|route| id_in(route, request.uri().path())),
        // What a safe method does is nobody's write (RFC 9110 §9.2.1).
        is_write: operation.is_some() && !request.method().is_safe(),
    };
    let trail = Trail::open(&auditor.log, &auditor.clock, attempt);
    request.extensions_mut().insert(trail.clone());
    let open = Open(Some(trail));
    let response = next.run(request).await;
    open.end(&response, || auditor.limits.is_news(client));
    response
}

/// A trail whose request isn't answered yet.
struct Open(Option<Trail>);

impl Open {
    fn end(mut self, response: &Response, is_news: impl FnOnce() -> bool) {
        let Some(trail) = self.0.take() else { return };
        let code = response.extensions().get::<Problem>().map(Problem::code);
        if let Some(outcome) = outcome(&trail, response.status(), code, is_news) {
            trail.leave(outcome, code.map(Code::as_str));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(trail) = self.0.take()
            && trail.is_write()
            && trail.is_identified()
        {
            let code = if std::thread::panicking() {
                Code::Internal.as_str()
            } else {
                CLIENT_LEFT
            };
            trail.leave(Outcome::Refused, Some(code));
        }
    }
}

/// What is to be told of an answered request; nothing of most reads.
fn outcome(
    trail: &Trail,
    status: StatusCode,
    code: Option<Code>,
    is_news: impl FnOnce() -> bool,
) -> Option<Outcome> {
    if !trail.is_identified() {
        // Without a token nobody attempts anything. Beyond an address's limit one stands for all.
        return match code {
            Some(Code::InvalidToken) => Some(Outcome::Denied),
            Some(Code::RateLimited) if is_news() => Some(Outcome::Denied),
            _ => None,
        };
    }
    match code {
        _ if status == StatusCode::FORBIDDEN => Some(Outcome::Denied),
        _ if !trail.is_write() => None,
        Some(Code::TenantRequired) => Some(Outcome::Denied),
        // Nothing was sent to the ERP, or the trail would have been taken over.
        _ if status.is_success() => Some(Outcome::Done),
        _ => Some(Outcome::Refused),
    }
}

/// The number in the place of a route's `{id}`, as the address spells it in its one way.
pub(super) fn id_in(route: &str, path: &str) -> Option<u64> {
    let (_, text) = route
        .split('/')
        .zip(path.split('/'))
        .find(|(name, _)| *name == "{id}")?;
    let id: u64 = text.parse().ok()?;
    (!text.starts_with(['0', '+'])).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_one_that_the_address_names() {
        let route = "/v1/ordenes/{id}/imagenes";
        assert_eq!(id_in(route, "/v1/ordenes/11001/imagenes"), Some(11001));
        for path in ["/v1/ordenes/011/imagenes", "/v1/ordenes/x/imagenes"] {
            assert_eq!(id_in(route, path), None, "{path}");
        }
        assert_eq!(id_in("/v1/me", "/v1/me"), None);
    }

    #[derive(Clone, Default)]
    struct Output(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("is whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The record that a handler of a write leaves behind.
    async fn record_after(
        handler: axum::routing::MethodRouter,
        abandon: bool,
    ) -> serde_json::Value {
        let output = Output::default();
        let mut metrics = prometheus_client::registry::Registry::default();
        let log = AuditLog::over(Box::new(output.clone()), 8, &mut metrics).expect("starts");
        let clock = Clock::manual();
        let auditor = Auditor {
            log: log.clone(),
            limits: Limits::new(&Default::default(), &clock, &mut metrics),
            clock,
            operations: Operations(Arc::new(HashMap::from([(
                "/w/{id}".to_owned(),
                vec![(Method::PATCH, "cambiar".into())],
            )]))),
        };
        let router = axum::Router::new()
            .route("/w/{id}", handler)
            .layer(axum::middleware::from_fn_with_state(auditor, layer))
            .layer(crate::layers::panics::layer());
        let mut request = Request::new(axum::body::Body::empty());
        *request.method_mut() = Method::PATCH;
        *request.uri_mut() = http::Uri::from_static("/w/7");
        let extensions = request.extensions_mut();
        extensions.insert(RequestId("r".into()));
        extensions.insert(ClientAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        let answer = tower::ServiceExt::oneshot(router, request);
        if abandon {
            let mut answer = std::pin::pin!(answer);
            assert!(futures_util::poll!(&mut answer).is_pending());
        } else {
            answer.await.expect("is answered");
        }
        log.finish().await;
        let written = output.0.lock().expect("is whole");
        serde_json::from_slice(&written).expect("one record")
    }

    fn known(trail: &Trail) {
        trail.identify(&"i".into(), &"ana".into(), None);
    }

    #[tokio::test]
    async fn a_write_whose_handler_panics_leaves_its_record() {
        let panics = async |axum::Extension(trail): axum::Extension<Trail>| {
            known(&trail);
            if trail.is_write() {
                panic!("as handlers do");
            }
        };
        let record = record_after(axum::routing::patch(panics), false).await;
        assert_eq!(
            (&record["outcome"], &record["code"], &record["orden"]),
            (&"refused".into(), &"internal".into(), &7.into())
        );
    }

    #[tokio::test]
    async fn a_write_whose_client_leaves_leaves_its_record() {
        let waits = async |axum::Extension(trail): axum::Extension<Trail>| {
            known(&trail);
            std::future::pending::<()>().await;
        };
        let record = record_after(axum::routing::patch(waits), true).await;
        assert_eq!(
            (&record["outcome"], &record["code"], &record["operation"]),
            (&"refused".into(), &"client-left".into(), &"cambiar".into())
        );
    }

    #[tokio::test]
    async fn a_change_that_panics_on_its_way_is_unknown() {
        let panics = async |axum::Extension(trail): axum::Extension<Trail>| {
            known(&trail);
            let taken = trail.take_over(7, None);
            if trail.is_write() {
                panic!("as tasks do");
            }
            drop(taken);
        };
        let record = record_after(axum::routing::patch(panics), false).await;
        assert_eq!(record["outcome"], "unknown");
    }
}
