//! The tenants as they are now. Whoever looks takes one state and keeps it for as long as
//! it works; a reload puts another in its place.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{config::mistake::Mistakes, identity::Claims, watchlist::Watchlist};

use super::{Tenant, TenantId, users::Person};

/// The place of the present [`Tenants`]. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    tenants: Arc<ArcSwap<Tenants>>,
    unreadable: Arc<ArcSwapOption<Unreadable>>,
}

/// The tenants' directory as it is when it can't be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The first look at which it couldn't.
    pub since: SystemTime,
    /// Why not, at the last one.
    pub cause: String,
}

/// The tenants that are served, and the files that have mistakes.
#[derive(Debug, Default)]
pub struct Tenants {
    by_id: HashMap<TenantId, Arc<Tenant>>,
    /// Those whose rules name somebody.
    by_person: HashMap<Person, Vec<Arc<Tenant>>>,
    errors: Vec<Arc<TenantFileError>>,
}

/// A tenant's file or directory that has mistakes.
#[derive(Debug, PartialEq, Eq)]
pub struct TenantFileError {
    /// The file or directory.
    pub path: PathBuf,
    /// All that is wrong with it.
    pub mistakes: Mistakes,
    /// Whether the tenant is served as its file last was when it was good.
    pub last_good_is_served: bool,
}

impl TenantFileError {
    /// Tells the operator.
    pub fn log(&self) {
        let served = if self.last_good_is_served {
            "a tenant's file has mistakes: it is served as it was before"
        } else {
            "a tenant's file has mistakes: it isn't served"
        };
        for mistake in &self.mistakes {
            tracing::error!(%mistake, "{served}");
        }
    }
}

impl Registry {
    /// A registry of tenants made in memory, for the demo.
    #[must_use]
    pub fn of(tenants: impl IntoIterator<Item = Tenant>) -> Self {
        let tenants = Tenants::new(tenants.into_iter().map(Arc::new), Vec::new());
        Self {
            tenants: Arc::new(ArcSwap::from_pointee(tenants)),
            ..Self::default()
        }
    }

    /// The tenants as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Tenants> {
        self.tenants.load_full()
    }

    /// Puts others in their place, for whoever looks from now on.
    pub fn replace(&self, tenants: Tenants) {
        self.tenants.store(Arc::new(tenants));
        self.unreadable.store(None);
    }

    /// Why the tenants stay as they are, where their directory can't be read.
    #[must_use]
    pub fn unreadable(&self) -> Option<Arc<Unreadable>> {
        self.unreadable.load_full()
    }

    /// Notes that the directory can't be read `now`, until others are put in the tenants' place.
    /// Says whether that is new.
    pub fn keep(&self, now: SystemTime, cause: String) -> bool {
        let before = self.unreadable();
        let since = before.as_ref().map_or(now, |before| before.since);
        self.unreadable
            .store(Some(Arc::new(Unreadable { since, cause })));
        before.is_none()
    }
}

impl Tenants {
    pub(super) fn new(
        tenants: impl IntoIterator<Item = Arc<Tenant>>,
        errors: Vec<Arc<TenantFileError>>,
    ) -> Self {
        let mut this = Self {
            errors,
            ..Self::default()
        };
        for tenant in tenants {
            for person in tenant.people() {
                let named = this.by_person.entry(person).or_default();
                if !named.iter().any(|other| other.id() == tenant.id()) {
                    named.push(tenant.clone());
                }
            }
            this.by_id.insert(tenant.id().clone(), tenant);
        }
        this
    }

    /// The tenant of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.by_id.get(id)
    }

    /// The tenants whose own rules name that caller.
    pub fn naming<'t>(&'t self, claims: &'t Claims) -> impl Iterator<Item = &'t Arc<Tenant>> {
        Person::of(claims)
            .filter_map(|person| self.by_person.get(&person))
            .flatten()
            .filter(|tenant| tenant.names(claims))
    }

    /// Has every key that is new looked for in what goes out, until its credential is gone.
    pub fn watch(&self, watchlist: &Watchlist) {
        for tenant in self.iter() {
            for credential in tenant.credentials() {
                credential.watch(watchlist);
            }
        }
    }

    /// Every tenant that is served.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_id.values()
    }

    /// How many tenants are served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no tenant is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The files that have mistakes.
    #[must_use]
    pub fn errors(&self) -> &[Arc<TenantFileError>] {
        &self.errors
    }
}
