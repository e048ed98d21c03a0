//! The bearer token of every request below `/v1`, turned into a [`Caller`]; the limits let
//! it through.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    extract::{FromRef, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::AUTHORIZATION};

use crate::{
    caller::Caller,
    identity::{Claims, Identity, InvalidToken},
    limits::Limits,
    problem::{Code, FieldError, Problem},
    telemetry::audit::Trail,
    tenants::{Registry, TenantId},
};

use super::{client_address::ClientAddress, rate_limit::Recognised, trace};

/// Chooses among the tenants that a token allows.
pub const LLAVERO_TENANT: HeaderName = HeaderName::from_static("llavero-tenant");

/// Whose answer it is, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct AnsweredFor(pub(super) TenantId);

/// What the layer needs.
#[derive(Clone)]
pub struct Authenticator {
    identity: Identity,
    registry: Registry,
    limits: Limits,
}

impl<S> FromRef<S> for Authenticator
where
    Identity: FromRef<S>,
    Registry: FromRef<S>,
    Limits: FromRef<S>,
{
    fn from_ref(state: &S) -> Self {
        Self {
            identity: Identity::from_ref(state),
            registry: Registry::from_ref(state),
            limits: Limits::from_ref(state),
        }
    }
}

/// Hands a request whose token is accepted on to the limits.
pub async fn layer(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = request
        .extensions()
        .get::<ClientAddress>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.0);
    let mut checking = trace::context(&request).child("auth");
    let claims = match authenticator.claims(request.headers(), client).await {
        Ok(claims) => claims,
        Err(problem) => {
            checking.fail(problem.code().as_str());
            return problem.into_response();
        }
    };
    // Nothing behind this needs the token any more.
    request.headers_mut().remove(AUTHORIZATION);
    let caller = authenticator.caller(&claims, request.headers());
    if let Err(problem) = &caller {
        checking.fail(problem.code().as_str());
    }
    drop(checking);
    // Whoever is refused from here on is known.
    let span = tracing::Span::current();
    span.record("issuer", &**claims.issuer());
    span.record("sub", &**claims.subject());
    let credential = caller.as_ref().ok().and_then(Caller::credential_id);
    if let Some(credential) = credential {
        span.record("tenant", credential.tenant().as_str());
    }
    if let Some(trail) = request.extensions().get::<Trail>() {
        trail.identify(claims.issuer(), claims.subject(), credential);
    }
    let tenant = credential.map(|credential| credential.tenant().clone());
    request
        .extensions_mut()
        .insert(Recognised { claims, caller });
    let mut response = next.run(request).await;
    if let Some(tenant) = tenant {
        response.extensions_mut().insert(AnsweredFor(tenant));
    }
    response
}

impl Authenticator {
    /// What the token says.
    async fn claims(&self, headers: &HeaderMap, client: IpAddr) -> Result<Claims, Problem> {
        let token = bearer(headers);
        if let Ok(token) = &token
            && let Some(claims) = self.identity.remembered(token)
        {
            return Ok(claims);
        }
        // Before anything is spent on the token.
        self.limits.ask(client)?;
        let claims = match token {
            Ok(token) => self.identity.verify(token).await.map_err(Problem::from),
            Err(problem) => Err(problem),
        };
        claims.inspect_err(|problem| {
            if problem.code().status() == StatusCode::UNAUTHORIZED {
                self.limits.count_failure(client);
            }
        })
    }

    fn caller(&self, claims: &Claims, headers: &HeaderMap) -> Result<Caller, Problem> {
        let wanted = tenant_header(headers)?;
        let tenants = self.registry.current();
        Ok(Caller::new(claims.clone(), &tenants, wanted)?)
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        Problem::of(Code::MissingToken)
            .with_challenge(HeaderValue::from_static(r#"Bearer realm="llavero""#))
    };
    let mut fields = headers.get_all(AUTHORIZATION).into_iter();
    let field = fields.next().ok_or_else(missing)?;
    if fields.next().is_some() {
        return Err(InvalidToken::Several.into());
    }
    let field = field.to_str().map_err(|_| InvalidToken::Malformed)?;
    let (scheme, token) = field.split_once(' ').unwrap_or((field, ""));
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(missing());
    }
    Ok(token.trim_matches(' '))
}

fn tenant_header(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut fields = headers.get_all(LLAVERO_TENANT).into_iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        let detail = "The header was sent more than once; send it once.";
        return Err(Problem::of(Code::InvalidParameter)
            .with_errors(vec![FieldError::parameter("Llavero-Tenant", detail)]));
    }
    // What isn't text is no tenant's id, and gets the answer of one that is unknown.
    Ok(Some(field.to_str().unwrap_or_default().trim()))
}
