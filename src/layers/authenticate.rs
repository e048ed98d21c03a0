//! The bearer token of every request below `/v1`, turned into a [`Caller`].

use axum::{
    extract::{FromRef, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::{
    caller::Caller,
    identity::{Identity, InvalidToken},
    problem::{Code, FieldError, Problem},
    tenants::Registry,
};

/// Chooses among the tenants that a token allows.
pub const LLAVERO_TENANT: HeaderName = HeaderName::from_static("llavero-tenant");

/// What the layer needs.
#[derive(Clone)]
pub struct Authenticator {
    identity: Identity,
    registry: Registry,
}

impl<S> FromRef<S> for Authenticator
where
    Identity: FromRef<S>,
    Registry: FromRef<S>,
{
    fn from_ref(state: &S) -> Self {
        Self {
            identity: Identity::from_ref(state),
            registry: Registry::from_ref(state),
        }
    }
}

/// Lets a request pass with its [`Caller`] in the extensions.
pub async fn layer(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticator.caller(request.headers()) {
        Ok(caller) => {
            if let Some(tenant) = caller.tenant() {
                tracing::Span::current().record("tenant", tenant.as_str());
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Authenticator {
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let claims = self.identity.verify(bearer(headers)?)?;
        // Whoever is refused from here on is known.
        let span = tracing::Span::current();
        span.record("issuer", &**claims.issuer());
        span.record("sub", &**claims.subject());
        let wanted = tenant_header(headers)?;
        Ok(Caller::new(claims, &self.registry, wanted)?)
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
