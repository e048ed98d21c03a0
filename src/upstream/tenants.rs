//! What each tenant's ERP has earned: its breaker and its retry budget.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    tenants::{CredentialId, TenantId},
};

use super::{
    BreakerState, Failure, Jitter, Target,
    agenda::Agenda,
    breaker::{Admission, Breaker, Epoch, Outage},
    retry::Budget,
};

/// More tenants than this have no series of their own in the breakers' metric.
const MOST_LABELS: usize = 1000;
/// When a trial is wanted again that nobody could make.
const LATER: Duration = Duration::from_secs(5);

/// Every tenant's state.
pub(super) struct Tenants {
    states: Mutex<HashMap<TenantId, Arc<Mutex<State>>>>,
    /// Those whose breaker has opened since the start, for operators.
    known: Mutex<BTreeMap<TenantId, BreakerState>>,
    gauges: Family<TenantLabel, Gauge>,
    trials: Agenda<TenantId>,
    clock: Clock,
    jitter: Jitter,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    budget: Budget,
    failed_last: Option<CredentialId>,
    /// Dropped when the trial under way has decided.
    trial: Option<watch::Sender<()>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

impl Tenants {
    pub(super) fn new(clock: Clock, jitter: Jitter, metrics: &mut MetricRegistry) -> Self {
        let gauges = Family::default();
        metrics.register(
            "llavero_upstream_breaker_state",
            "0 closed, 1 half-open, 2 open; tenants whose breaker has opened since the start",
            gauges.clone(),
        );
        Self {
            states: Mutex::default(),
            known: Mutex::default(),
            gauges,
            trials: Agenda::new(clock.clone()),
            clock,
            jitter,
            hasher: RandomState::new(),
        }
    }

    /// Whether a request to that tenant's ERP may go.
    pub(super) fn admit(&self, tenant: &TenantId, can_try: impl Fn() -> bool) -> Admission {
        let state = self.state(tenant);
        let mut state = lock(&state);
        let admission = state.breaker.admit(self.clock.instant(), can_try);
        if matches!(admission, Admission::Trial(_)) {
            self.show(tenant, &mut state);
        }
        admission
    }

    /// When which tenants' ERP is to be tried.
    pub(super) fn trials(&self) -> &Agenda<TenantId> {
        &self.trials
    }

    /// Nobody can try it now.
    pub(super) fn try_later(&self, tenant: &TenantId) {
        let due = self.clock.instant() + LATER + self.jitter.of(LATER / 5);
        self.trials.set(tenant, due);
    }

    /// Ends when the trial that is under way has decided; none where there is none.
    pub(super) fn trial(&self, tenant: &TenantId) -> Option<impl Future<Output = ()> + use<>> {
        let state = self.state(tenant);
        let mut trial = lock(&state).trial.as_ref()?.subscribe();
        Some(async move {
            let _ = trial.changed().await;
        })
    }

    /// The credential whose request failed last.
    pub(super) fn failed_last(&self, tenant: &TenantId) -> Option<CredentialId> {
        lock(&self.state(tenant)).failed_last.clone()
    }

    /// What came of one that went.
    /// Says whether the breaker has opened.
    pub(super) fn judge(
        &self,
        credential: &CredentialId,
        target: &Target,
        epoch: Epoch,
        outcome: Result<(), &Failure>,
    ) -> bool {
        let tenant = credential.tenant();
        let state = self.state(tenant);
        let mut state = lock(&state);
        let before = state.breaker.state();
        match outcome {
            Err(failure) if failure.is_outage() => {
                let now = self.clock.instant();
                let jitter = |whole| self.jitter.of(whole);
                let outage = match failure {
                    Failure::Status(502..=504) => Outage::Gone,
                    Failure::Status(_) => Outage::Error {
                        target: self.hasher.hash_one(target.canonical()),
                    },
                    _ => Outage::Gone,
                };
                state.breaker.failed(epoch, outage, now, jitter);
                state.failed_last = Some(credential.clone());
            }
            Ok(_) | Err(_) => state.breaker.succeeded(epoch),
        }
        let after = state.breaker.state();
        if after == before {
            return false;
        }
        self.show(tenant, &mut state);
        match after {
            BreakerState::Closed => {
                // As loud as its failing, or an outage would never seem to end.
                tracing::warn!(tenant = tenant.as_str(), "the ERP answers again");
                false
            }
            BreakerState::Open | BreakerState::HalfOpen => {
                tracing::warn!(
                    tenant = tenant.as_str(),
                    cause = outcome.err().map(tracing::field::display),
                    "the ERP fails: it isn't asked until a trial succeeds"
                );
                true
            }
        }
    }

    /// A trial that the queue gave no turn.
    pub(super) fn trial_was_not_sent(&self, tenant: &TenantId, epoch: Epoch) {
        let state = self.state(tenant);
        let mut state = lock(&state);
        state
            .breaker
            .trial_was_not_sent(epoch, self.clock.instant());
        self.show(tenant, &mut state);
    }

    /// Counts a request that is made for the first time.
    pub(super) fn deposit(&self, tenant: &TenantId) {
        lock(&self.state(tenant)).budget.deposit();
    }

    /// Whether one may be sent again; then it is counted.
    pub(super) fn withdraw(&self, tenant: &TenantId) -> bool {
        lock(&self.state(tenant)).budget.withdraw()
    }

    /// Those whose breaker isn't closed.
    pub(super) fn broken(&self) -> Vec<(TenantId, BreakerState)> {
        let known = lock(&self.known);
        let broken = known
            .iter()
            .filter(|(_, state)| **state != BreakerState::Closed);
        broken.map(|(id, state)| (id.clone(), *state)).collect()
    }

    /// Drops what is known of a tenant.
    pub(super) fn forget(&self, tenant: &TenantId) {
        lock(&self.states).remove(tenant);
        self.trials.remove(tenant);
        if lock(&self.known).remove(tenant).is_some() {
            let tenant = tenant.to_string();
            self.gauges.remove(&TenantLabel { tenant });
        }
    }

    /// Its breaker has another state: who waits for that is told.
    fn show(&self, tenant: &TenantId, state: &mut State) {
        let breaker = &state.breaker;
        match breaker.trial_at() {
            Some(due) => self.trials.set(tenant, due),
            None => self.trials.remove(tenant),
        }
        let is_tried = breaker.state() == BreakerState::HalfOpen;
        state.trial = is_tried.then(|| watch::Sender::new(()));
        let state = state.breaker.state();
        let mut known = lock(&self.known);
        if known.len() < MOST_LABELS || known.contains_key(tenant) {
            known.insert(tenant.clone(), state);
            let tenant = tenant.to_string();
            let gauge = self.gauges.get_or_create(&TenantLabel { tenant });
            gauge.set(state.as_metric());
        }
    }

    fn state(&self, tenant: &TenantId) -> Arc<Mutex<State>> {
        let mut states = lock(&self.states);
        match states.get(tenant) {
            Some(state) => state.clone(),
            None => states.entry(tenant.clone()).or_default().clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use crate::tenants::Credential;

    use super::*;

    #[test]
    fn a_forgotten_tenant_begins_anew_and_leaves_no_series() {
        let mut metrics = MetricRegistry::default();
        let tenants = Tenants::new(Clock::manual(), Jitter::none(), &mut metrics);
        let [carper, norte] = ["carper", "norte"].map(|tenant| {
            let tenant = tenant.parse().expect("an id");
            Credential::api_key(tenant, "default", "k".to_owned().into())
        });
        let (carper, norte) = (carper.id(), norte.id());
        let is_open =
            |id: &CredentialId| !matches!(tenants.admit(id.tenant(), || true), Admission::Pass(_));
        for id in [carper, norte] {
            for _ in 0..5 {
                let Admission::Pass(epoch) = tenants.admit(id.tenant(), || true) else {
                    panic!("it is closed")
                };
                tenants.judge(id, &Target::cheapest(), epoch, Err(&Failure::Connect));
            }
            assert!(is_open(id));
        }
        tenants.forget(carper.tenant());
        assert!(!is_open(carper) && is_open(norte));
        assert_eq!(tenants.broken().len(), 1);
        let mut text = String::new();
        encode(&mut text, &metrics).expect("it can be encoded");
        assert!(!text.contains("carper") && text.contains("norte"), "{text}");
    }
}
