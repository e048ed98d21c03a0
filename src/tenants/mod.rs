//! The tenants: one Admintotal account each, with its credentials and the rules
//! that say which caller acts with which of them.

mod clave;
mod credential;
mod file;
mod registry;
mod users;

pub use clave::{Clave, InvalidClave};
pub use credential::{Credential, CredentialId, Presented};
pub use file::{InvalidTenantId, TenantId};
pub use registry::{Registry, TenantFileError};
pub use users::{Assignment, Rule};

use std::{collections::BTreeMap, sync::Arc};

use crate::identity::Claims;

/// The credential that serves callers of a tenant without `users` rules.
pub(crate) const DEFAULT_CREDENTIAL: &str = "default";

/// One Admintotal account.
#[derive(Debug)]
pub struct Tenant {
    id: TenantId,
    clave: Clave,
    credentials: BTreeMap<Arc<str>, Arc<Credential>>,
    users: Vec<Rule>,
}

impl Tenant {
    /// A tenant with one credential for everybody, for the demo.
    #[must_use]
    pub fn with_default(id: TenantId, clave: Clave, credential: Credential) -> Self {
        let credentials = BTreeMap::from([(credential.id().name().clone(), Arc::new(credential))]);
        Self {
            id,
            clave,
            credentials,
            users: Vec::new(),
        }
    }

    /// Its id: the file's name, the token's claim, the `Llavero-Tenant` header.
    #[must_use]
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// Its subdomain at the ERP.
    #[must_use]
    pub fn clave(&self) -> &Clave {
        &self.clave
    }

    /// Every credential, by name.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.credentials.values()
    }

    /// The credential that a caller with those claims acts with, and the scopes
    /// that its rule leaves; none where rules exist and no rule matches.
    #[must_use]
    pub fn assign(&self, claims: &Claims) -> Option<Assignment> {
        if self.users.is_empty() {
            let credential = self.credentials.get(DEFAULT_CREDENTIAL)?;
            return Some(Assignment {
                credential: credential.clone(),
                scopes: None,
            });
        }
        let rule = self.users.iter().find(|rule| rule.matches(claims))?;
        let credential = self.credentials.get(rule.credential())?;
        Some(Assignment {
            credential: credential.clone(),
            scopes: rule.scopes().map(<[_]>::to_vec),
        })
    }
}
