//! The tenants: one Admintotal account each, with its credentials and the rules
//! that say which caller acts with which of them.

mod clave;
mod credential;
mod file;
mod id;
mod loader;
mod mounted;
mod reading;
mod registry;
mod source;
mod users;
mod watch;
mod way;

pub use clave::{Clave, InvalidClave};
pub use credential::{
    ActiveKey, ApiKeys, Credential, CredentialId, KeySlot, Login, LoginMode, Presented, Viewer,
};
pub use id::{InvalidTenantId, TenantId};
pub use loader::{Environment, Loader};
pub use registry::{Registry, TenantFileError, Tenants};
pub use users::{Assignment, ClaimName, Condition, Rule};
pub use watch::Watch;

use std::{collections::BTreeMap, sync::Arc};

use crate::identity::Claims;

use users::Person;

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

    /// Which caller acts with which credential; empty where all act with `default`.
    #[must_use]
    pub fn users(&self) -> &[Rule] {
        &self.users
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
                rule: None,
            });
        }
        let place = self.users.iter().position(|rule| rule.matches(claims))?;
        let rule = &self.users[place];
        let credential = self.credentials.get(rule.credential())?;
        Some(Assignment {
            credential: credential.clone(),
            scopes: rule.scopes().map(<[_]>::to_vec),
            rule: Some(place),
        })
    }

    /// Goes on with the credentials of an earlier version that are the same: with their
    /// sessions, and with whichever of two keys is active.
    fn go_on_from(&mut self, before: &Self) {
        if self.clave != before.clave {
            return;
        }
        for (name, credential) in &mut self.credentials {
            if let Some(old) = before.credentials.get(name)
                && old.has_same_source(credential)
            {
                *credential = old.clone();
            }
        }
    }

    /// Whether it says what an earlier version said; asked after [`Self::go_on_from`].
    fn is_as(&self, before: &Self) -> bool {
        let same_credentials = || {
            let pairs = self.credentials.values().zip(before.credentials.values());
            self.credentials.len() == before.credentials.len()
                && pairs.into_iter().all(|(now, old)| Arc::ptr_eq(now, old))
        };
        self.id == before.id
            && self.clave == before.clave
            && self.users == before.users
            && same_credentials()
    }

    /// Everybody whom a rule names.
    fn people(&self) -> impl Iterator<Item = Person> {
        self.users.iter().flat_map(Rule::people)
    }

    /// Whether a rule names that caller, so that the tenant is theirs even where their token
    /// doesn't say so.
    fn names(&self, claims: &Claims) -> bool {
        self.users.iter().any(|rule| rule.names(claims))
    }
}
