//! Which credentials the ERP refuses, for operators: log lines, metrics, `/readyz?verbose`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};

use crate::{
    clock::Clock,
    tenants::{CredentialId, TenantId},
};

/// More credentials than this have no series of their own.
const MOST_LABELS: usize = 1000;
/// A credential that is refused and accepted in turns is told of once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// A credential that the ERP refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCredential {
    /// Which.
    pub id: CredentialId,
    /// What it was answered with last.
    pub status: u16,
    /// For how long it has been so.
    pub lasting: Duration,
}

/// Every credential's standing.
pub(super) struct Health {
    state: Mutex<State>,
    clock: Clock,
    count: Gauge,
    gauges: Family<CredentialLabel, Gauge>,
}

#[derive(Default)]
struct State {
    refused: BTreeMap<CredentialId, Refused>,
    told: HashMap<CredentialId, Instant>,
    labels: HashMap<CredentialId, CredentialLabel>,
}

struct Refused {
    status: u16,
    since: Instant,
    is_told: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabel {
    tenant: String,
    credential: String,
}

impl Health {
    pub(super) fn new(clock: Clock, metrics: &mut MetricRegistry) -> Self {
        let (count, gauges) = (Gauge::default(), Family::default());
        metrics.register(
            "llavero_credentials_rejected",
            "Credentials that the ERP refuses",
            count.clone(),
        );
        metrics.register(
            "llavero_credential_rejected",
            "Whether the ERP refuses that credential; those that it has refused since the start",
            gauges.clone(),
        );
        Self {
            state: Mutex::default(),
            clock,
            count,
            gauges,
        }
    }

    /// The ERP refused it, or its login.
    pub(super) fn refused(&self, id: &CredentialId, status: u16) {
        let (mut state, now) = (self.lock(), self.clock.instant());
        if let Some(refused) = state.refused.get_mut(id) {
            refused.status = status;
            return;
        }
        let is_told = state.told.get(id).is_none_or(|told| now >= *told + QUIET);
        if is_told {
            state.told.insert(id.clone(), now);
            tracing::error!(
                tenant = id.tenant().as_str(),
                credential = &**id.name(),
                status,
                "the ERP refuses this credential: correct its key, or its user's password or rights, in the ERP or in the tenant's file"
            );
        }
        let refused = Refused {
            status,
            since: now,
            is_told,
        };
        state.refused.insert(id.clone(), refused);
        self.show(&mut state, id, true);
    }

    /// The ERP took a request with it.
    pub(super) fn accepted(&self, id: &CredentialId) {
        let mut state = self.lock();
        let Some(refused) = state.refused.remove(id) else {
            return;
        };
        if refused.is_told {
            tracing::info!(
                tenant = id.tenant().as_str(),
                credential = &**id.name(),
                "the ERP accepts this credential again"
            );
        }
        self.show(&mut state, id, false);
    }

    /// Those that are refused now.
    pub(super) fn all_refused(&self) -> Vec<RefusedCredential> {
        let (state, now) = (self.lock(), self.clock.instant());
        let refused = state.refused.iter().map(|(id, refused)| RefusedCredential {
            id: id.clone(),
            status: refused.status,
            lasting: now.saturating_duration_since(refused.since),
        });
        refused.collect()
    }

    /// Drops what is known of a tenant's.
    pub(super) fn forget(&self, tenant: &TenantId) {
        let mut state = self.lock();
        state.refused.retain(|id, _| id.tenant() != tenant);
        state.told.retain(|id, _| id.tenant() != tenant);
        state.labels.retain(|id, label| {
            let stays = id.tenant() != tenant;
            if !stays {
                self.gauges.remove(label);
            }
            stays
        });
        self.count(&state);
    }

    fn show(&self, state: &mut State, id: &CredentialId, is_refused: bool) {
        self.count(state);
        if state.labels.len() < MOST_LABELS || state.labels.contains_key(id) {
            let label = CredentialLabel {
                tenant: id.tenant().to_string(),
                credential: id.name().to_string(),
            };
            let gauge = self.gauges.get_or_create(&label);
            gauge.set(i64::from(is_refused));
            drop(gauge);
            state.labels.insert(id.clone(), label);
        }
    }

    fn count(&self, state: &State) {
        let count = i64::try_from(state.refused.len()).unwrap_or(i64::MAX);
        self.count.set(count);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use crate::tenants::Credential;

    use super::*;

    fn id(tenant: &str) -> CredentialId {
        let tenant = tenant.parse().expect("an id");
        let credential = Credential::api_key(tenant, "default", "k".to_owned().into());
        credential.id().clone()
    }

    #[test]
    fn a_refused_credential_is_shown_until_it_is_accepted_or_forgotten() {
        let (clock, mut metrics) = (Clock::manual(), MetricRegistry::default());
        let health = Health::new(clock.clone(), &mut metrics);
        let shown = |metrics: &MetricRegistry| {
            let mut text = String::new();
            encode(&mut text, metrics).expect("it can be encoded");
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (carper, norte) = (id("carper"), id("norte"));
        health.accepted(&carper);
        health.refused(&carper, 401);
        clock.advance(Duration::from_secs(5));
        health.refused(&carper, 403);
        health.refused(&norte, 401);
        let refused = health.all_refused();
        assert_eq!(refused.len(), 2);
        assert_eq!(
            (&refused[0].id, refused[0].status, refused[0].lasting),
            (&carper, 403, Duration::from_secs(5))
        );
        health.accepted(&carper);
        assert_eq!(
            shown(&metrics)[..1],
            ["llavero_credentials_rejected 1".to_owned()]
        );
        for (tenant, value) in [("carper", 0), ("norte", 1)] {
            let line = format!(
                "llavero_credential_rejected{{tenant=\"{tenant}\",credential=\"default\"}} {value}"
            );
            assert!(shown(&metrics).contains(&line), "{line}");
        }
        health.forget(norte.tenant());
        assert!(health.all_refused().is_empty());
        assert!(!shown(&metrics).join("\n").contains("norte"));
        assert!(shown(&metrics).contains(&"llavero_credentials_rejected 0".to_owned()));
    }
}
