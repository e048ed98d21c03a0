//! What may change while the gateway runs: the tenants' files, the issuers' key files, the
//! files of secrets that they name, and the certificate with its key. A change is seen by a watch, at the latest by a look every so often, or when an
//! operator asks (SIGHUP). Requests that are under way keep what they began with.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    exchange::Exchange,
    identity::Identity,
    telemetry::audit::AuditLog,
    tenants::{Environment, Loader, Registry, TenantFileError, TenantId, Tenants, Watch},
    tls::Tls,
    watchlist::Watchlist,
};

/// Between the first sign of a change and the reading: what is written takes its time.
const SETTLES_IN: Duration = Duration::from_millis(250);
/// The latest look, where the watch may have missed something.
const LOOKS_EVERY: Duration = Duration::from_secs(30);
/// The same where the machine has no watch to give.
const LOOKS_EVERY_UNWATCHED: Duration = Duration::from_secs(1);

/// Asks for a reload now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ask(Arc<Notify>);

impl Ask {
    /// Everything that can be read anew is.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

/// Keeps tenants and issuers as their files have them.
pub struct Reload {
    loader: Loader,
    issuers: Issuers,
    audit: AuditLog,
    tls: Option<Tls>,
    watch: Watch,
    registry: Registry,
    exchange: Exchange,
    watchlist: Watchlist,
    clock: Clock,
    asked: Ask,
    /// When to look again at a pair that isn't whole yet.
    settles: Option<Instant>,
    metrics: Metrics,
}

/// What is read again, or opened again.
pub struct Files {
    /// Has read the tenants.
    pub loader: Loader,
    /// The issuers.
    pub issuers: Issuers,
    /// Where audit records go.
    pub audit: AuditLog,
    /// The certificate, where there is one.
    pub tls: Option<Tls>,
}

/// The issuers whose keys are in files.
pub struct Issuers {
    identity: Identity,
    files: Vec<PathBuf>,
    env: Environment,
    /// What was wrong at the last look.
    told: Vec<String>,
}

impl Issuers {
    /// The issuers of a gateway, and the files that their keys are in.
    #[must_use]
    pub fn new(identity: Identity, files: Vec<PathBuf>, env: Environment) -> Self {
        Self {
            identity,
            files,
            env,
            told: Vec::new(),
        }
    }

    fn reload(&mut self) {
        let errors = self.identity.reload_files(&self.env).err();
        let wrong: Vec<_> = errors
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect();
        for mistake in wrong.iter().filter(|mistake| !self.told.contains(mistake)) {
            tracing::error!(
                mistake,
                "an issuer's keys can't be read: the last good ones stay"
            );
        }
        self.told = wrong;
    }
}

struct Metrics {
    tenants: Gauge,
    errors: Gauge,
    reloads: Family<ResultLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Reload {
    /// Goes on from what was read and `registry` has; `exchange` is told what is gone.
    #[must_use]
    pub fn new(
        files: Files,
        registry: Registry,
        exchange: Exchange,
        watchlist: Watchlist,
        clock: Clock,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let metrics = Metrics::declare(metrics);
        metrics.show(&registry.current());
        let mut this = Self {
            loader: files.loader,
            issuers: files.issuers,
            audit: files.audit,
            tls: files.tls,
            watch: Watch::new(),
            registry,
            exchange,
            watchlist,
            clock,
            asked: Ask::default(),
            settles: None,
            metrics,
        };
        // Before anybody can know that it runs: what changes from then on is told.
        this.follow();
        this
    }

    /// The way to ask for a reload.
    #[must_use]
    pub fn ask(&self) -> Ask {
        self.asked.clone()
    }

    /// Reloads for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            let next = self.clock.instant() + self.interval();
            let next = self.settles.map_or(next, |settles| settles.min(next));
            tokio::select! {
                () = self.watch.changed() => {
                    self.clock.sleep_until(self.clock.instant() + SETTLES_IN).await;
                    self.watch.forget();
                }
                () = self.asked.0.notified() => self.audit.reopen(),
                () = self.clock.sleep_until(next) => {}
            }
            let reload = tokio::task::spawn_blocking(move || {
                self.settles = self.tls.as_ref().and_then(Tls::reload);
                self.issuers.reload();
                self.reload();
                // Also where the directory is gone: it may come back.
                self.follow();
                self
            });
            match reload.await {
                Ok(this) => self = this,
                Err(_) => {
                    tracing::error!(
                        "the tenants aren't reloaded any more: restart to apply changes"
                    );
                    return;
                }
            }
        }
    }

    fn interval(&self) -> Duration {
        if self.watch.is_complete() {
            LOOKS_EVERY
        } else {
            LOOKS_EVERY_UNWATCHED
        }
    }

    fn follow(&mut self) {
        let dir = self.loader.dir().to_owned();
        let keys = self.issuers.files.iter().map(PathBuf::as_path);
        let pair = self.tls.iter().flat_map(Tls::files);
        self.watch
            .follow(&dir, self.loader.files().chain(keys).chain(pair));
    }

    fn reload(&mut self) {
        let began: Instant = self.clock.instant();
        let after = match self.loader.load(self.clock.wall()) {
            Ok(after) => after,
            Err(error) => {
                if self.registry.keep(self.clock.wall(), error.to_string()) {
                    tracing::error!(%error, "tenants_dir can't be read: the tenants stay as they are");
                }
                self.metrics.count("failed");
                return;
            }
        };
        let before = self.registry.current();
        let changes = Changes::between(&before, &after);
        let mistakes_changed = tell_new(before.errors(), after.errors());
        if after.is_empty() && !before.is_empty() {
            tracing::error!("tenants_dir holds no tenant any more: everybody is refused");
        }
        self.metrics.show(&after);
        // Before anything can be fetched with a new key.
        after.watch(&self.watchlist);
        self.registry.replace(after);
        // From here on nobody begins anything for them.
        for tenant in &changes.removed {
            self.exchange.forget(tenant);
        }
        let current = self.registry.current();
        self.exchange.settle(|id| {
            let mut credentials = current.get(id.tenant().as_str())?.credentials();
            let credential = credentials.find(|it| it.id() == id)?;
            Some(credential.fingerprint())
        });
        let result = if changes.is_none() && !mistakes_changed {
            "unchanged"
        } else {
            "changed"
        };
        self.metrics.count(result);
        if changes.is_none() {
            return;
        }
        let took = self.clock.instant().duration_since(began);
        tracing::info!(
            added = changes.added,
            changed = changes.changed,
            removed = changes.removed.len(),
            duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3,
            "tenants reloaded"
        );
    }
}

/// What is different after a reload.
struct Changes {
    added: usize,
    changed: usize,
    removed: Vec<TenantId>,
}

impl Changes {
    fn between(before: &Tenants, after: &Tenants) -> Self {
        let mut changes = Self {
            added: 0,
            changed: 0,
            removed: Vec::new(),
        };
        for tenant in after.iter() {
            match before.get(tenant.id().as_str()) {
                None => changes.added += 1,
                Some(old) if !Arc::ptr_eq(old, tenant) => changes.changed += 1,
                Some(_) => {}
            }
        }
        for tenant in before.iter() {
            if after.get(tenant.id().as_str()).is_none() {
                changes.removed.push(tenant.id().clone());
            }
        }
        changes
    }

    fn is_none(&self) -> bool {
        self.added == 0 && self.changed == 0 && self.removed.is_empty()
    }
}

/// Logs the mistakes that weren't there before, and which files are good again. Says whether
/// there were any of either.
fn tell_new(before: &[Arc<TenantFileError>], after: &[Arc<TenantFileError>]) -> bool {
    let told = |errors: &[Arc<TenantFileError>], error: &Arc<TenantFileError>| {
        errors.iter().any(|other| Arc::ptr_eq(other, error))
    };
    let new: Vec<_> = after.iter().filter(|error| !told(before, error)).collect();
    for error in &new {
        error.log();
    }
    let wrong: BTreeSet<_> = after.iter().map(|error| &error.path).collect();
    let gone: Vec<_> = before
        .iter()
        .filter(|error| !wrong.contains(&error.path))
        .collect();
    for error in &gone {
        tracing::info!(file = %error.path.display(), "a tenant's file has no mistakes any more");
    }
    !new.is_empty() || !gone.is_empty()
}

impl Metrics {
    fn declare(metrics: &mut MetricRegistry) -> Self {
        let this = Self {
            tenants: Gauge::default(),
            errors: Gauge::default(),
            reloads: Family::default(),
        };
        // Every series is there from the start, so that a first failure is an increase.
        for result in ["changed", "unchanged", "failed"] {
            let _ = this.reloads.get_or_create(&ResultLabel { result });
        }
        metrics.register(
            "llavero_tenants",
            "Tenants that are served",
            this.tenants.clone(),
        );
        metrics.register(
            "llavero_tenant_config_errors",
            "Tenants' files with mistakes; a tenant that was served before is served as it was",
            this.errors.clone(),
        );
        metrics.register(
            "llavero_tenant_reloads",
            "Looks at tenants_dir by what came of them",
            this.reloads.clone(),
        );
        this
    }

    fn show(&self, tenants: &Tenants) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.tenants.set(count(tenants.len()));
        self.errors.set(count(tenants.errors().len()));
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&ResultLabel { result }).inc();
    }
}
