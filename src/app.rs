//! Builds every part from a configuration: the only place that knows them all.

use std::{io, sync::Arc};

use axum::{Router, extract::FromRef};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry as MetricRegistry};
use tokio_util::task::TaskTracker;

use crate::{
    admin::{self, Health},
    cache::Cache,
    clock::Clock,
    config::{Config, images::ImageFormat},
    exchange::{Exchange, Lifetimes, Windows},
    identity::{Identity, IssuerError},
    images::{Format, Rules},
    layers::access_log::AccessLog,
    resources::ordenes::DescripcionField,
    router,
    tenants::Registry,
    upstream::{ClientError, Jitter, Upstream},
};

/// What handlers take their parts from, one by one.
#[derive(Clone, FromRef)]
pub struct AppState {
    /// Verifies tokens.
    pub identity: Identity,
    /// The tenants.
    pub registry: Registry,
    /// The way to the ERP.
    pub exchange: Exchange,
    /// What an upload may be.
    pub images: Arc<Rules>,
    /// The time.
    pub clock: Clock,
    /// How the ERP spells a field.
    pub descripcion_field: DescripcionField,
}

/// A gateway that is ready to be served.
pub struct App {
    /// The public API.
    pub public: Router,
    /// Probes and metrics.
    pub admin: Router,
    /// What `/readyz` says.
    pub health: Health,
    /// Work that the drain waits for.
    pub tasks: TaskTracker,
}

/// Why a gateway can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Keys of issuers can't be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Issuers(Vec<IssuerError>),
    /// The tenants' directory can't be read.
    #[error("tenants_dir: {0}; check that the directory exists and can be read")]
    Tenants(#[source] io::Error),
    /// The HTTP client can't start.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl App {
    /// Builds the gateway of a configuration: reads keys and tenants, connects nothing.
    ///
    /// # Errors
    /// Keys or the tenants' directory can't be read. A wrong tenant file is no error
    /// here: it is reported and its tenant isn't served.
    pub fn load(
        config: &Config,
        env: &dyn Fn(&str) -> Option<String>,
        clock: Clock,
    ) -> Result<Self, BuildError> {
        let identity = Identity::load(&config.auth, &config.base_dir, env, clock.clone())
            .map_err(BuildError::Issuers)?;
        let registry = Registry::load(&config.tenants_dir, env).map_err(BuildError::Tenants)?;
        for error in registry.errors() {
            for mistake in &error.mistakes.0 {
                tracing::error!(mistake = %mistake, "a tenant file isn't served");
            }
        }
        Self::build(config, identity, registry, clock)
    }

    /// Builds the gateway around keys and tenants that are already there.
    ///
    /// # Errors
    /// The HTTP client can't start.
    pub fn build(
        config: &Config,
        identity: Identity,
        registry: Registry,
        clock: Clock,
    ) -> Result<Self, BuildError> {
        let mut metrics = MetricRegistry::default();
        let tasks = TaskTracker::new();
        let upstream = Upstream::new(
            &config.upstream,
            clock.clone(),
            Jitter::random(),
            &mut metrics,
        )?;
        let windows = |ttl| Windows {
            ttl,
            stale_while_revalidate: config.cache.stale_while_revalidate,
            stale_if_error: config.cache.stale_if_error,
        };
        let lifetimes = Lifetimes {
            list: windows(config.cache.ttl.list),
            detail: windows(config.cache.ttl.detail),
        };
        let cache = Cache::bounded(config.cache.max_bytes);
        let exchange = Exchange::new(
            cache,
            upstream,
            lifetimes,
            clock.clone(),
            tasks.clone(),
            &mut metrics,
        );
        let access_log = AccessLog::new(clock.clone(), &mut metrics);
        gauge(
            &mut metrics,
            "llavero_tenants",
            "Tenants that are served",
            registry.len(),
        );
        gauge(
            &mut metrics,
            "llavero_tenant_config_errors",
            "Tenant files that aren't served because of mistakes",
            registry.errors().len(),
        );
        let health = Health::default();
        let admin = admin::router(health.clone(), registry.clone(), exchange.clone(), metrics);
        let state = AppState {
            identity,
            registry,
            exchange,
            images: Arc::new(rules(&config.images)),
            clock,
            descripcion_field: DescripcionField(config.upstream.descripcion_field.as_str().into()),
        };
        let public = router::public(state, access_log, &config.server.cors.allowed_origins);
        Ok(Self {
            public,
            admin,
            health,
            tasks,
        })
    }
}

fn rules(images: &crate::config::images::Images) -> Rules {
    let formats = images.formats.iter().filter_map(|format| match format {
        ImageFormat::Jpeg => Some(Format::Jpeg),
        ImageFormat::Png => Some(Format::Png),
        ImageFormat::Webp => Some(Format::Webp),
        // Refused by the configuration's own check in this version.
        ImageFormat::Heic => None,
    });
    Rules {
        max_bytes: images.max_bytes,
        max_pixels: images.max_pixels,
        formats: formats.collect(),
    }
}

fn gauge(metrics: &mut MetricRegistry, name: &str, help: &str, value: usize) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    metrics.register(name, help, gauge);
}
