//! Which credentials the ERP refuses, for operators: log lines, metrics, `/readyz?verbose`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    tenants::{Credential, CredentialId, TenantId},
};

use super::{Jitter, agenda::Agenda};

/// More credentials than this have no series of their own.
const MOST_LABELS: usize = 1000;
/// A credential that is refused and accepted in turns is told of once in this time.
const QUIET: Duration = Duration::from_secs(60);
/// When a refused credential is tried for the first time; each pause after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// When one is tried whose secret was changed after it was refused.
const SOON: Duration = Duration::from_secs(1);

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
    retries: Agenda<CredentialId>,
    clock: Clock,
    jitter: Jitter,
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
    /// Of the credential that was refused: another secret has another standing.
    fingerprint: u64,
    /// How often it was tried again without a caller.
    tries: u32,
    since: Instant,
    is_told: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabel {
    tenant: String,
    credential: String,
}

impl Health {
    pub(super) fn new(clock: Clock, jitter: Jitter, metrics: &mut MetricRegistry) -> Self {
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
            retries: Agenda::new(clock.clone()),
            clock,
            jitter,
            count,
            gauges,
        }
    }

    /// The ERP refused it, or its login.
    pub(super) fn refused(&self, credential: &Credential, status: u16) {
        let (mut state, now) = (self.lock(), self.clock.instant());
        let (id, fingerprint) = (credential.id(), credential.fingerprint());
        if let Some(refused) = state.refused.get_mut(id)
            && refused.fingerprint == fingerprint
        {
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
            fingerprint,
            tries: 0,
            since: now,
            is_told,
        };
        state.refused.insert(id.clone(), refused);
        self.try_after(id, FIRST_PAUSE);
        self.show(&mut state, id, true);
    }

    /// The ERP took a request with it.
    pub(super) fn accepted(&self, id: &CredentialId) {
        let mut state = self.lock();
        let Some(refused) = state.refused.remove(id) else {
            return;
        };
        self.retries.remove(id);
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

    /// When which are to be tried again.
    pub(super) fn retries(&self) -> &Agenda<CredentialId> {
        &self.retries
    }

    /// It was tried again; where it is still refused that is done later once more.
    pub(super) fn tried(&self, id: &CredentialId) {
        let mut state = self.lock();
        if let Some(refused) = state.refused.get_mut(id) {
            refused.tries += 1;
            let doubled = FIRST_PAUSE.saturating_mul(1 << refused.tries.min(10));
            self.try_after(id, doubled.min(LONGEST_PAUSE));
        }
    }

    /// Drops those that aren't configured any more. One whose secret was changed begins anew, and is
    /// tried soon, so that the change is seen to have been right or wrong.
    pub(super) fn settle(&self, fingerprint_of: impl Fn(&CredentialId) -> Option<u64>) {
        let mut state = self.lock();
        let known = state.labels.keys().chain(state.refused.keys());
        let known: BTreeSet<_> = known.cloned().collect();
        for id in known {
            let Some(fingerprint) = fingerprint_of(&id) else {
                self.drop_in(&mut state, &id);
                continue;
            };
            let refused = state.refused.get(&id);
            if refused.is_some_and(|refused| refused.fingerprint != fingerprint) {
                tracing::info!(
                    tenant = id.tenant().as_str(),
                    credential = &**id.name(),
                    "a credential that the ERP refused was changed: it is tried anew"
                );
                state.refused.remove(&id);
                state.told.remove(&id);
                self.try_after(&id, SOON);
                self.show(&mut state, &id, false);
            }
        }
    }

    /// Drops what is known of one.
    pub(super) fn drop(&self, id: &CredentialId) {
        self.drop_in(&mut self.lock(), id);
    }

    /// Drops what is known of a tenant's.
    pub(super) fn forget(&self, tenant: &TenantId) {
        let mut state = self.lock();
        let known = state.labels.keys().chain(state.refused.keys());
        let theirs: BTreeSet<_> = known.filter(|id| id.tenant() == tenant).cloned().collect();
        for id in theirs {
            self.drop_in(&mut state, &id);
        }
        state.told.retain(|id, _| id.tenant() != tenant);
    }

    fn drop_in(&self, state: &mut State, id: &CredentialId) {
        state.refused.remove(id);
        state.told.remove(id);
        self.retries.remove(id);
        if let Some(label) = state.labels.remove(id) {
            self.gauges.remove(&label);
        }
        self.count(state);
    }

    /// A fifth more by chance, so that replicas don't go in step.
    fn try_after(&self, id: &CredentialId, pause: Duration) {
        let due = self.clock.instant() + pause + self.jitter.of(pause / 5);
        self.retries.set(id, due);
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

    use super::*;

    fn credential(tenant: &str, key: &str) -> Credential {
        let tenant = tenant.parse().expect("an id");
        Credential::api_key(tenant, "default", key.to_owned().into())
    }

    #[test]
    fn a_refused_credential_is_shown_until_it_is_accepted_or_forgotten() {
        let (clock, mut metrics) = (Clock::manual(), MetricRegistry::default());
        let health = Health::new(clock.clone(), Jitter::none(), &mut metrics);
        let shown = |metrics: &MetricRegistry| {
            let mut text = String::new();
            encode(&mut text, metrics).expect("it can be encoded");
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (carper, norte) = (credential("carper", "k"), credential("norte", "k"));
        health.accepted(carper.id());
        health.refused(&carper, 401);
        clock.advance(Duration::from_secs(5));
        health.refused(&carper, 403);
        health.refused(&norte, 401);
        let refused = health.all_refused();
        assert_eq!(refused.len(), 2);
        assert_eq!(
            (&refused[0].id, refused[0].status, refused[0].lasting),
            (carper.id(), 403, Duration::from_secs(5))
        );
        health.accepted(carper.id());
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
        health.settle(|id| (id != norte.id()).then(|| carper.fingerprint()));
        assert!(!shown(&metrics).join("\n").contains("norte"), "removed");
        health.refused(&norte, 401);
        health.forget(norte.id().tenant());
        assert!(health.all_refused().is_empty());
        assert!(!shown(&metrics).join("\n").contains("norte"));
        assert!(shown(&metrics).contains(&"llavero_credentials_rejected 0".to_owned()));
    }

    #[test]
    fn another_secret_has_another_standing() {
        let (clock, mut metrics) = (Clock::manual(), MetricRegistry::default());
        let health = Health::new(clock.clone(), Jitter::none(), &mut metrics);
        let (old, new) = (credential("carper", "old"), credential("carper", "new"));
        let due = || health.retries.next();
        health.refused(&old, 401);
        health.settle(|_| Some(old.fingerprint()));
        assert_eq!(health.all_refused().len(), 1, "nothing was changed");
        clock.advance(Duration::from_secs(20));
        health.settle(|_| Some(new.fingerprint()));
        assert!(health.all_refused().is_empty());
        assert!(due().is_some_and(|due| due <= clock.instant() + 2 * SOON));
        health.refused(&new, 403);
        assert_eq!(health.all_refused()[0].lasting, Duration::ZERO);
        // Of the old one something may still be under way.
        health.refused(&old, 401);
        health.settle(|_| Some(new.fingerprint()));
        assert!(health.all_refused().is_empty());
    }

    #[test]
    fn a_refused_credential_is_tried_ever_less_often_until_it_is_accepted() {
        let (clock, mut metrics) = (Clock::manual(), MetricRegistry::default());
        let health = Health::new(clock.clone(), Jitter::none(), &mut metrics);
        let carper = credential("carper", "k");
        let wait = || {
            let due = health.retries.next()?;
            Some(due.duration_since(clock.instant()).as_secs())
        };
        assert_eq!(wait(), None);
        health.refused(&carper, 401);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = wait().expect("it is tried again");
            waits.push(wait);
            clock.advance(Duration::from_secs(wait));
            // A caller's request brings it no sooner.
            health.refused(&carper, 401);
            health.tried(carper.id());
        }
        assert_eq!(waits, [36, 72, 144, 288, 360, 360]);
        health.accepted(carper.id());
        health.tried(carper.id());
        assert_eq!(wait(), None);
    }
}
