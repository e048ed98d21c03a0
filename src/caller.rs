//! Who is calling and for which tenant ([`Caller`]), and what they may do right
//! now ([`Permit`]). A permit can't be made in any other way than by asking the
//! caller for one, and every way to the ERP takes a permit.

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{
    identity::Claims,
    operation::{Operation, Scope},
    problem::{Code, Problem},
    telemetry::{audit::Trail, traces::Context},
    tenants::{Credential, CredentialId, Tenant, TenantId, Tenants, Viewer},
};

/// A verified token, the tenants that it allows, and the one that was chosen.
#[derive(Debug, Clone)]
pub struct Caller {
    claims: Claims,
    allowed: Vec<TenantId>,
    chosen: Option<Chosen>,
    scopes: BTreeSet<Scope>,
}

#[derive(Debug, Clone)]
struct Chosen {
    tenant: Arc<Tenant>,
    credential: Arc<Credential>,
}

/// Why a caller gets no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The tenant is unknown or isn't the caller's: one answer for both.
    #[error("no such tenant for this token")]
    TenantNotAllowed,
    /// The token allows several and none was chosen.
    #[error("several tenants and none chosen")]
    TenantRequired,
    /// The token lacks the operation's scope.
    #[error("the scope {0} is missing")]
    InsufficientScope(Scope),
}

impl Caller {
    /// The caller of a request: `wanted` is the `Llavero-Tenant` header, which
    /// chooses among the caller's tenants and can't add one. Those are the token's or, where it
    /// names none, those whose own files name the caller.
    ///
    /// # Errors
    /// [`Denied::TenantNotAllowed`] where `wanted` isn't among them.
    pub fn new(claims: Claims, tenants: &Tenants, wanted: Option<&str>) -> Result<Self, Denied> {
        let named: Vec<_> = if claims.tenants().is_empty() {
            tenants.naming(&claims).collect()
        } else {
            let named = claims.tenants().iter();
            named.filter_map(|id| tenants.get(id)).collect()
        };
        let mut assignments: Vec<_> = named
            .into_iter()
            .filter_map(|tenant| Some((tenant, tenant.assign(&claims)?)))
            .collect();
        assignments.sort_by(|a, b| a.0.id().cmp(b.0.id()));
        assignments.dedup_by(|a, b| a.0.id() == b.0.id());

        let allowed = assignments
            .iter()
            .map(|(tenant, _)| tenant.id().clone())
            .collect();
        let chosen = match wanted {
            Some(wanted) => Some(
                assignments
                    .into_iter()
                    .find(|(tenant, _)| tenant.id().as_str() == wanted)
                    .ok_or(Denied::TenantNotAllowed)?,
            ),
            None if assignments.len() == 1 => assignments.pop(),
            None => None,
        };
        let mut scopes: BTreeSet<Scope> = claims
            .scopes()
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect();
        let chosen = chosen.map(|(tenant, assignment)| {
            if let Some(narrowed) = assignment.scopes {
                scopes.retain(|scope| narrowed.contains(scope));
            }
            Chosen {
                tenant: tenant.clone(),
                credential: assignment.credential,
            }
        });
        Ok(Self {
            claims,
            allowed,
            chosen,
            scopes,
        })
    }

    /// What the token says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The tenants that the token allows and that exist here.
    #[must_use]
    pub fn allowed(&self) -> &[TenantId] {
        &self.allowed
    }

    /// The tenant that the request acts for, where it is clear.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.chosen.as_ref().map(|chosen| chosen.tenant.id())
    }

    /// As whom that is at the ERP.
    #[must_use]
    pub fn credential_id(&self) -> Option<&CredentialId> {
        self.chosen.as_ref().map(|chosen| chosen.credential.id())
    }

    /// What the token allows, narrowed by the tenant's rules.
    #[must_use]
    pub fn scopes(&self) -> &BTreeSet<Scope> {
        &self.scopes
    }

    /// Leave to do one operation for the chosen tenant.
    ///
    /// # Errors
    /// What is missing, the tenant before the scope.
    pub fn permit(
        self,
        operation: &'static Operation,
        trail: Trail,
        trace: Context,
    ) -> Result<Permit, Denied> {
        let chosen = match self.chosen {
            Some(chosen) => chosen,
            None if self.allowed.is_empty() => return Err(Denied::TenantNotAllowed),
            None => return Err(Denied::TenantRequired),
        };
        if !self.scopes.contains(&operation.scope) {
            return Err(Denied::InsufficientScope(operation.scope));
        }
        let Chosen { tenant, credential } = chosen;
        Ok(Permit(Arc::new(Granted {
            claims: self.claims,
            tenant,
            credential,
            operation,
            trail,
            trace,
        })))
    }
}

/// Leave for one caller to do one operation for one tenant with one credential.
/// The `permit` layer grants it; a handler takes it as an argument. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Granted>);

#[derive(Debug)]
struct Granted {
    claims: Claims,
    tenant: Arc<Tenant>,
    credential: Arc<Credential>,
    operation: &'static Operation,
    trail: Trail,
    trace: Context,
}

impl Permit {
    /// Who asks.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// For whom.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }

    /// As whom at the ERP.
    #[must_use]
    pub fn credential(&self) -> &Arc<Credential> {
        &self.0.credential
    }

    /// Who sees what the ERP answers, for keys of what is kept.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        Viewer::new(self.0.tenant.clave(), &self.0.credential)
    }

    /// The credential's name and tenant.
    #[must_use]
    pub fn credential_id(&self) -> &CredentialId {
        self.0.credential.id()
    }

    /// To do what.
    #[must_use]
    pub fn operation(&self) -> &'static Operation {
        self.0.operation
    }

    /// What the audit is told of it.
    #[must_use]
    pub fn trail(&self) -> &Trail {
        &self.0.trail
    }

    /// Where in the trace it is done.
    #[must_use]
    pub fn trace(&self) -> &Context {
        &self.0.trace
    }
}

impl<S: Sync> FromRequestParts<S> for Permit {
    type Rejection = Problem;

    /// An operation mounted without its permit layer fails closed.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::of(Code::Internal)
                .caused_by("an operation is mounted without its permit layer")
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    /// A route outside the authenticated part fails closed.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::of(Code::Internal).caused_by("a route stands outside the authenticate layer")
        })
    }
}
