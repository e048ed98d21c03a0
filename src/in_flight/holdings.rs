//! Who holds how much of the room: tenants, and the users of each.

use std::{collections::HashMap, sync::Arc};

use crate::tenants::TenantId;

/// Whose upload it is. Of tenants who holds least comes first, and of a tenant's users likewise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    tenant: TenantId,
    /// Issuer and subject of the token.
    user: User,
}

type User = (Arc<str>, Arc<str>);

/// What an owner's tenant holds, and of that its user, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) tenant: u64,
    pub(super) user: u64,
}

/// What all hold.
#[derive(Debug, Default)]
pub(super) struct Holdings(HashMap<TenantId, Holding>);

#[derive(Debug, Default)]
struct Holding {
    all: Share,
    users: HashMap<User, Share>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    bytes: u64,
    uploads: usize,
}

impl Owner {
    /// The user of that tenant whom an issuer calls so.
    #[must_use]
    pub fn new(tenant: TenantId, issuer: Arc<str>, subject: Arc<str>) -> Self {
        let user = (issuer, subject);
        Self { tenant, user }
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Holdings {
    pub(super) fn of(&self, owner: &Owner) -> Held {
        let Some(holding) = self.0.get(&owner.tenant) else {
            return Held::default();
        };
        Held {
            tenant: holding.all.bytes,
            user: holding.users.get(&owner.user).map_or(0, |it| it.bytes),
        }
    }

    pub(super) fn has_none(&self, tenant: &TenantId) -> bool {
        !self.0.contains_key(tenant)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more upload, that holds so much.
    pub(super) fn begin(&mut self, owner: &Owner, bytes: u64) {
        let holding = self.0.entry(owner.tenant.clone()).or_default();
        holding.all.begin(bytes);
        let user = holding.users.entry(owner.user.clone()).or_default();
        user.begin(bytes);
    }

    /// So much of an upload is given back: its last, or what it doesn't need.
    pub(super) fn give_back(&mut self, owner: &Owner, bytes: u64, is_last: bool) {
        let Some(holding) = self.0.get_mut(&owner.tenant) else {
            return;
        };
        if holding.all.give_back(bytes, is_last) {
            self.0.remove(&owner.tenant);
        } else if let Some(user) = holding.users.get_mut(&owner.user)
            && user.give_back(bytes, is_last)
        {
            holding.users.remove(&owner.user);
        }
    }
}

impl Share {
    fn begin(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.uploads += 1;
    }

    /// Whether none is left.
    fn give_back(&mut self, bytes: u64, is_last: bool) -> bool {
        self.bytes -= bytes;
        self.uploads -= usize::from(is_last);
        self.uploads == 0
    }
}
