//! What operators see of the fetches, by issuer.

use std::{sync::Arc, time::SystemTime};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};

/// Counts fetches, by issuer.
#[derive(Clone, Default)]
pub(in crate::identity) struct Metrics {
    refreshes: Family<RefreshLabels, Counter>,
    last_success: Family<IssuerLabel, Gauge>,
    failing: Family<IssuerLabel, Gauge>,
    expiry: Family<IssuerLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    issuer: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: Arc<str>,
}

impl Metrics {
    pub(in crate::identity) fn register(&self, metrics: &mut MetricRegistry) {
        metrics.register(
            "llavero_jwks_refresh",
            "Fetches of issuers' keys: ok brought other keys, unchanged the same, failed none",
            self.refreshes.clone(),
        );
        metrics.register(
            "llavero_jwks_last_success_timestamp_seconds",
            "When issuers' keys were last fetched; 0 where they never were",
            self.last_success.clone(),
        );
        metrics.register(
            "llavero_jwks_failing",
            "Whether the last fetch of an issuer's keys failed",
            self.failing.clone(),
        );
        metrics.register(
            "llavero_jwks_expiry_timestamp_seconds",
            "When issuers' keys are believed no more if no fetch succeeds; 0 where there never were any",
            self.expiry.clone(),
        );
    }

    /// Shows that issuer's series from the start, so that a first failure is an increase.
    pub(super) fn begin(&self, issuer: &Arc<str>) {
        for result in ["ok", "unchanged", "failed"] {
            let issuer = issuer.clone();
            let labels = RefreshLabels { issuer, result };
            let _ = self.refreshes.get_or_create(&labels);
        }
        self.set_failing(issuer, false);
        self.confirmed(issuer, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
    }

    pub(super) fn count(&self, issuer: &Arc<str>, result: &'static str) {
        let issuer = issuer.clone();
        self.refreshes
            .get_or_create(&RefreshLabels { issuer, result })
            .inc();
    }

    pub(super) fn set_failing(&self, issuer: &Arc<str>, failing: bool) {
        let issuer = issuer.clone();
        self.failing
            .get_or_create(&IssuerLabel { issuer })
            .set(failing.into());
    }

    pub(super) fn confirmed(&self, issuer: &Arc<str>, at: SystemTime, until: SystemTime) {
        let issuer = issuer.clone();
        let label = IssuerLabel { issuer };
        self.last_success
            .get_or_create(&label)
            .set(unix_seconds(at));
        self.expiry.get_or_create(&label).set(unix_seconds(until));
    }
}

fn unix_seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok();
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
