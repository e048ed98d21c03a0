//! The gateway's own limits, for every request whose caller is known. It stands right behind
//! authentication and before anything is read or looked up; it lets the caller through, so
//! without it nobody passes. Its fields are on every answer from there on
//! (draft-ietf-httpapi-ratelimit-headers-10).

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::HeaderName;

use crate::{
    caller::Caller,
    identity::Claims,
    limits::{Fields, Limits, User},
    problem::{Code, Problem},
};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const CURRENT: HeaderName = HeaderName::from_static("ratelimit");

/// A request whose token was accepted, in its extensions until this layer.
#[derive(Debug, Clone)]
pub(super) struct Recognised {
    pub(super) claims: Claims,
    /// The caller, or why they can't act here.
    pub(super) caller: Result<Caller, Problem>,
}

impl Recognised {
    fn user(&self) -> User {
        User {
            tenant: self
                .caller
                .as_ref()
                .ok()
                .and_then(|caller| caller.tenant().cloned()),
            issuer: self.claims.issuer().clone(),
            subject: self.claims.subject().clone(),
        }
    }
}

/// Counts the request, and lets a caller within the limits through.
pub async fn layer(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let Some(recognised) = request.extensions_mut().remove::<Recognised>() else {
        return Problem::of(Code::Internal)
            .caused_by("the limits stand outside the authenticate layer")
            .into_response();
    };
    let user = recognised.user();
    let within = limits.spend(&user).map_err(Problem::from);
    let mut response = match within.and(recognised.caller) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let Fields { policy, current } = limits.fields(&user);
    response.headers_mut().insert(POLICY, policy);
    response.headers_mut().insert(CURRENT, current);
    response
}
