//! What a tenant shows the ERP.

use std::{fmt, sync::Arc};

use crate::config::secret::Secret;

use super::TenantId;

/// Names one credential of one tenant; holds no secret, so it may stand in
/// cache keys, metrics and audit records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialId {
    tenant: TenantId,
    name: Arc<str>,
}

impl CredentialId {
    /// The tenant that it belongs to.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its name in the tenant's file.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// One way to be somebody at the ERP. A key belongs to a user of the account, so
/// two credentials of a tenant can see different data.
pub struct Credential {
    id: CredentialId,
    presented: Presented,
}

/// What goes on the wire.
pub enum Presented {
    /// The header `Api-key`.
    ApiKey(Secret),
}

impl Credential {
    /// A credential that sends the header `Api-key`.
    #[must_use]
    pub fn api_key(tenant: TenantId, name: &str, key: Secret) -> Self {
        Self {
            id: CredentialId {
                tenant,
                name: name.into(),
            },
            presented: Presented::ApiKey(key),
        }
    }

    /// Whose it is and what it is called.
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.id
    }

    /// What goes on the wire.
    #[must_use]
    pub fn presented(&self) -> &Presented {
        &self.presented
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.id).finish()
    }
}
