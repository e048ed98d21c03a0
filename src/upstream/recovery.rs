//! Troubles that may be over, looked at without waiting for a caller: a breaker whose time is
//! over has its trial, a credential that is refused is tried again. Who never had trouble is
//! never asked.

use std::sync::Arc;

use crate::tenants::{Credential, CredentialId, Presented, Tenant, TenantId};

use super::{Upstream, breaker::Admission};

/// Trials at once, whatever the number of tenants that are down: each may hang for its timeout.
const TRIALS_AT_ONCE: usize = 16;
/// Refused credentials that are tried at once.
const CREDENTIALS_AT_ONCE: usize = 4;

impl Upstream {
    /// Attends to troubles for as long as it is polled; `find` knows the tenants that there are.
    pub async fn recover(self, find: impl Fn(&TenantId) -> Option<Arc<Tenant>>) {
        let (this, find) = (&self, &find);
        let trials = self
            .0
            .tenants
            .trials()
            .attend(TRIALS_AT_ONCE, |id| async move {
                match find(&id) {
                    Some(tenant) => this.try_broken(&tenant).await,
                    // It went while a request of its own was under way.
                    None => this.forget(&id),
                }
            });
        let credentials = self
            .0
            .health
            .retries()
            .attend(CREDENTIALS_AT_ONCE, |id| async move {
                let tenant = find(id.tenant());
                this.try_refused(tenant.as_deref(), &id).await;
            });
        tokio::join!(trials, credentials);
    }

    /// Standings of credentials that aren't configured any more are forgotten, and a changed
    /// secret's begins anew; `fingerprint_of` knows those that are.
    pub fn settle(&self, fingerprint_of: impl Fn(&CredentialId) -> Option<u64>) {
        self.0.health.settle(fingerprint_of);
    }

    async fn try_broken(&self, tenant: &Tenant) {
        let parts = &self.0;
        let Some(credential) = self.who_tries(tenant) else {
            parts.tenants.try_later(tenant.id());
            return;
        };
        let can_try = || parts.queues.of(credential.id()).is_ready();
        match parts.tenants.admit(tenant.id(), can_try) {
            Admission::Trial(epoch) => {
                let trial = self.begin_trial(tenant.clave().clone(), credential, epoch);
                // It says itself what came of it.
                let _ = trial.await;
            }
            Admission::Refuse(_) => parts.tenants.try_later(tenant.id()),
            Admission::Pass(_) => {}
        }
    }

    /// The credential that failed last. Where that can't try now another may, but none that
    /// would have to log in for it.
    fn who_tries(&self, tenant: &Tenant) -> Option<Arc<Credential>> {
        let parts = &self.0;
        let can_try = |credential: &&Arc<Credential>| {
            parts.queues.of(credential.id()).is_ready()
                && parts.identity(credential).refusal().is_none()
        };
        let last = parts.tenants.failed_last(tenant.id());
        let is_last = |credential: &&Arc<Credential>| Some(credential.id()) == last.as_ref();
        let has_key =
            |credential: &&Arc<Credential>| matches!(credential.presented(), Presented::ApiKey(_));
        let first = tenant.credentials().find(is_last);
        let others = tenant.credentials().filter(has_key);
        first.into_iter().chain(others).find(can_try).cloned()
    }

    /// Sends one cheap `GET` with it. A login that was refused isn't tried sooner for that: its
    /// session's place says when.
    async fn try_refused(&self, tenant: Option<&Tenant>, id: &CredentialId) {
        let health = &self.0.health;
        let configured = tenant.and_then(|tenant| {
            let credential = tenant.credentials().find(|it| it.id() == id)?;
            Some((tenant.clave(), credential))
        });
        let Some((clave, credential)) = configured else {
            health.drop(id);
            return;
        };
        // What came of it is noted like any other request's.
        let _ = self.probe(clave, credential, None).await;
        health.tried(id);
    }
}
