//! The permit of one operation. It stands on the operation's own route, so a
//! missing scope is refused before a body is read.

use axum::{
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::MethodRouter,
};

use crate::{
    caller::Caller,
    operation::{Effect, Operation},
    problem::{Code, Problem},
    telemetry::audit::Trail,
};

use super::trace;

/// Mounts an operation: `routes!(list).map(permitted(&LIST))`.
pub fn permitted<S>(
    operation: &'static Operation,
) -> impl FnOnce(MethodRouter<S>) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    move |route| {
        route.route_layer(middleware::from_fn(move |request, next| {
            grant(operation, request, next)
        }))
    }
}

async fn grant(operation: &'static Operation, mut request: Request, next: Next) -> Response {
    let trace = trace::context(&request);
    let extensions = request.extensions_mut();
    let (Some(caller), Some(trail)) = (extensions.remove::<Caller>(), extensions.remove::<Trail>())
    else {
        return Problem::of(Code::Internal)
            .caused_by("an operation stands outside the authenticate or the audit layer")
            .into_response();
    };
    trail.is_for(operation.name, operation.effect == Effect::Write);
    match caller.permit(operation, trail, trace) {
        Ok(permit) => {
            tracing::Span::current().record("credential", &**permit.credential_id().name());
            request.extensions_mut().insert(permit);
            next.run(request).await
        }
        Err(denied) => Problem::from(denied).into_response(),
    }
}
