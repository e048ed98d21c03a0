//! Next keys: each is tried now and then with one cheap `GET`, and takes over when the ERP
//! accepts it. So a key can be replaced before the old one is revoked, without a failed request.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};

use crate::tenants::{Clave, Credential, CredentialId, KeySlot, Presented, Tenant};

use super::{Failure, Upstream};

/// How often a next key is tried.
const INTERVAL: Duration = Duration::from_secs(30);
/// Keys that are tried at once, whatever their number.
const AT_ONCE: usize = 4;

impl Upstream {
    /// Tries the next keys of all tenants that there are, round after round. It never ends;
    /// dropped, it leaves nothing behind.
    pub async fn rotate<T>(self, tenants: impl Fn() -> T)
    where
        T: IntoIterator<Item = Arc<Tenant>>,
    {
        // Those that were warned of, so that it is said once.
        let mut refused = HashSet::new();
        loop {
            let waiting: Vec<_> = tenants()
                .into_iter()
                .flat_map(|tenant| {
                    let credentials: Vec<_> = tenant.credentials().cloned().collect();
                    let clave = tenant.clave().clone();
                    credentials
                        .into_iter()
                        .map(move |credential| (clave.clone(), credential))
                })
                .filter(|(_, credential)| is_waiting(credential))
                .collect();
            let key_of =
                |credential: &Credential| (credential.id().clone(), credential.fingerprint());
            refused.retain(|known: &(CredentialId, u64)| {
                waiting
                    .iter()
                    .any(|(_, credential)| key_of(credential) == *known)
            });
            let this = &self;
            let tried = stream::iter(waiting)
                .map(|(clave, credential)| async move {
                    let outcome = this.try_next_key(&clave, &credential).await;
                    (credential, outcome)
                })
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>()
                .await;
            for (credential, outcome) in tried {
                let is_refused = matches!(outcome, Err(Failure::CredentialRejected(_)));
                if is_refused && refused.insert(key_of(&credential)) {
                    tracing::warn!(
                        tenant = credential.id().tenant().as_str(),
                        credential = &**credential.id().name(),
                        "the ERP refuses this credential's next key: the present one stays, and the next is tried again every 30 s"
                    );
                }
            }
            let clock = &self.0.clock;
            clock.sleep_until(clock.instant() + INTERVAL).await;
        }
    }

    /// Tries it, and lets it take over where it is accepted.
    async fn try_next_key(
        &self,
        clave: &Clave,
        credential: &Arc<Credential>,
    ) -> Result<(), Failure> {
        let Presented::ApiKey(keys) = credential.presented() else {
            return Ok(());
        };
        let seen = keys.active();
        self.probe(clave, credential, Some(KeySlot::Next)).await?;
        if seen.slot == KeySlot::Present && keys.switch(seen) {
            tell_takeover(credential);
            self.0.health.accepted(credential.id());
        }
        Ok(())
    }
}

fn is_waiting(credential: &Credential) -> bool {
    match credential.presented() {
        Presented::ApiKey(keys) => {
            keys.key(KeySlot::Next).is_some() && keys.active().slot == KeySlot::Present
        }
        Presented::Login(_) => false,
    }
}

/// The other key is the active one from now on.
pub(super) fn tell_takeover(credential: &Credential) {
    let Presented::ApiKey(keys) = credential.presented() else {
        return;
    };
    let now_active = match keys.active().slot {
        KeySlot::Present => "present",
        KeySlot::Next => "next",
    };
    tracing::info!(
        tenant = credential.id().tenant().as_str(),
        credential = &**credential.id().name(),
        active = now_active,
        "this credential's other key took over"
    );
}
