//! Builds every part from a configuration: the only place that knows them all.

use std::{io, sync::Arc};

use axum::{Router, extract::FromRef};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use prometheus_client::registry::Registry as MetricRegistry;
use tokio_util::task::TaskTracker;

use crate::{
    admin::{self, Health},
    cache::Cache,
    clock::Clock,
    config::{
        Config,
        images::{self as images_config, ImageFormat},
    },
    exchange::{Exchange, Lifetimes, Sources, Windows},
    extract::{Intake, MULTIPART_OVERHEAD, Patience},
    idempotency::{Idempotency, Memory},
    identity::{Identity, IssuerError, Spread},
    images::{Format, Images, Metadata, Rules, Shrink, Shrinker},
    in_flight::{Bodies, Budget},
    layers::{access_log::AccessLog, client_address::TrustedProxies, leak_guard::LeakGuard},
    limits::Limits,
    problem::Problem,
    reload::{Ask, Files, Issuers, Reload},
    resources::{once::DedupeWindow, ordenes::DescripcionField},
    router,
    server::Guard,
    telemetry::{
        audit::{AuditLog, OpenError},
        logs::LostLines,
        memory_limit::MemoryLimit,
        process,
        traces::{self, Exporter, StartError},
    },
    tenants::{Environment, Loader, Registry},
    tls::{Tls, TlsError},
    upstream::{ClientError, Jitter, Upstream},
    watchlist::Watchlist,
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
    /// What is to be done once.
    pub idempotency: Idempotency,
    /// How long an equal photo is the same upload.
    pub dedupe_window: DedupeWindow,
    /// How much may be asked.
    pub limits: Limits,
    /// Where audit records go.
    pub audit: AuditLog,
    /// What uploads are taken in by.
    pub intake: Intake,
    /// What bodies that are read whole hold together.
    pub bodies: Bodies,
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
    /// What goes on beside requests until the drain begins.
    pub background: BoxFuture<'static, ()>,
    /// Asks for what is on the disk to be read anew; none where nothing was read from there.
    pub reload: Option<Ask>,
    /// Where audit records go: flushed at the end, opened anew where files are rotated.
    pub audit: AuditLog,
    /// The largest image that is taken, in bytes.
    pub largest_image: u64,
    /// Sends traces, where they are sent.
    pub traces: Option<Exporter>,
    /// What stands before the public listener's connections.
    pub guard: Guard,
}

/// What is told of a gateway beside its configuration. By default there are no traces.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Where traces go.
    pub traces: traces::Settings,
    /// What the process's log has lost.
    pub lost_lines: LostLines,
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
    /// Audit records have nowhere to go.
    #[error(transparent)]
    Audit(#[from] OpenError),
    /// Traces can't be sent.
    #[error(transparent)]
    Traces(#[from] StartError),
    /// The certificate can't be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl App {
    /// Builds the gateway of a configuration: reads keys and tenants, connects nothing.
    ///
    /// # Errors
    /// Keys or the tenants' directory can't be read. A wrong tenant file is no error
    /// here: it is reported and its tenant isn't served.
    pub fn load(config: &Config, env: Environment, clock: Clock) -> Result<Self, BuildError> {
        Self::load_with(config, env, clock, Telemetry::default())
    }

    /// The same, with telemetry that isn't part of the configuration.
    ///
    /// # Errors
    /// The same.
    pub fn load_with(
        config: &Config,
        env: Environment,
        clock: Clock,
        telemetry: Telemetry,
    ) -> Result<Self, BuildError> {
        let identity = Identity::load(&config.auth, &config.base_dir, &env, clock.clone())
            .map_err(BuildError::Issuers)?;
        let mut loader = Loader::new(&config.tenants_dir, env);
        let tenants = loader.load(clock.wall()).map_err(BuildError::Tenants)?;
        for error in tenants.errors() {
            error.log();
        }
        if tenants.is_empty() {
            tracing::error!("tenants_dir holds no tenant that can be served: everybody is refused");
        }
        let registry = Registry::default();
        registry.replace(tenants);
        Self::assemble(config, identity, registry, Some(loader), clock, telemetry)
    }

    /// Builds the gateway around keys and tenants that are already there.
    ///
    /// # Errors
    /// The HTTP client can't start, or the audit's output not be opened.
    pub fn build(
        config: &Config,
        identity: Identity,
        registry: Registry,
        clock: Clock,
    ) -> Result<Self, BuildError> {
        let telemetry = Telemetry::default();
        Self::assemble(config, identity, registry, None, clock, telemetry)
    }

    fn assemble(
        config: &Config,
        identity: Identity,
        registry: Registry,
        loader: Option<Loader>,
        clock: Clock,
        telemetry: Telemetry,
    ) -> Result<Self, BuildError> {
        let mut metrics = MetricRegistry::default();
        process::register(&mut metrics);
        telemetry.lost_lines.register(&mut metrics);
        let (tracer, traces) = traces::start(telemetry.traces, &clock, &mut metrics)?;
        metrics.register_collector(Box::new(MemoryLimit::of_this_process()));
        let tasks = TaskTracker::new();
        let watchlist = Watchlist::new(clock.clone());
        registry.current().watch(&watchlist);
        let upstream = Upstream::new(
            &config.upstream,
            clock.clone(),
            Jitter::random(),
            watchlist.clone(),
            &mut metrics,
        )?;
        let idempotency = Idempotency::new(
            Arc::new(Memory::bounded(config.idempotency.max_bytes, &mut metrics)),
            // It waits for its turn under its mark, looks for an earlier attempt's trace, is
            // sent, and looks again.
            4 * upstream.longest_write(),
            clock.clone(),
            tasks.clone(),
            &mut metrics,
        );
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
        let known = registry.clone();
        let rotation = upstream
            .clone()
            .rotate(move || known.current().iter().cloned().collect::<Vec<_>>());
        let known = registry.clone();
        let recovery = upstream
            .clone()
            .recover(move |id| known.current().get(id.as_str()).cloned());
        let sources = Sources {
            cache,
            upstream,
            watchlist: watchlist.clone(),
        };
        let exchange = Exchange::new(
            sources,
            lifetimes,
            clock.clone(),
            tasks.clone(),
            Problem::code_of,
            &mut metrics,
        );
        let leak_guard = LeakGuard::new(watchlist.clone(), &mut metrics);
        let limits = Limits::new(&config.limits, &clock, &mut metrics);
        let audit = AuditLog::open(&config.audit, &mut metrics)?;
        let intake = intake(&config.images, &clock, &mut metrics);
        let access_log = AccessLog::new(clock.clone(), &mut metrics);
        let tls = config.server.tls.as_ref();
        let tls = tls
            .map(|files| Tls::load(files, clock.clone(), &mut metrics))
            .transpose()?;
        let guard = Guard::of_public(&config.server, tls.clone(), &mut metrics);
        let reload = loader.map(|loader| {
            let issuers = Issuers::new(
                identity.clone(),
                config.auth.files(&config.base_dir),
                loader.env(),
            );
            let files = Files {
                loader,
                issuers,
                audit: audit.clone(),
                tls: tls.clone(),
            };
            Reload::new(
                files,
                registry.clone(),
                exchange.clone(),
                watchlist,
                clock.clone(),
                &mut metrics,
            )
        });
        let ask = reload.as_ref().map(Reload::ask);
        identity.register(&mut metrics);
        let issuers = identity.clone();
        let freshness = async move {
            let jitter = Jitter::random();
            let spread: Spread = Arc::new(move |whole| jitter.of(whole));
            issuers.keep_fresh(&spread);
        };
        let lean = intake.budget.clone().keep_lean();
        let mut background = vec![
            freshness.boxed(),
            rotation.boxed(),
            recovery.boxed(),
            lean.boxed(),
        ];
        background.extend(reload.map(|reload| reload.run().boxed()));
        let health = Health::default();
        let admin = admin::router(
            health.clone(),
            identity.clone(),
            registry.clone(),
            exchange.clone(),
            tls,
            metrics,
        );
        let state = AppState {
            identity,
            registry,
            exchange,
            idempotency,
            dedupe_window: DedupeWindow(config.images.dedupe_window),
            limits,
            audit: audit.clone(),
            intake,
            bodies: Bodies::default(),
            clock,
            descripcion_field: DescripcionField(config.upstream.descripcion_field.as_str().into()),
        };
        let public = router::public(
            state,
            tracer,
            access_log,
            leak_guard,
            TrustedProxies::new(&config.server.trusted_proxies),
            &config.server.cors.allowed_origins,
        );
        Ok(Self {
            public,
            admin,
            health,
            tasks,
            background: join_all(background).map(|_| ()).boxed(),
            reload: ask,
            audit,
            largest_image: config.images.max_bytes,
            traces,
            guard,
        })
    }
}

fn intake(images: &images_config::Images, clock: &Clock, metrics: &mut MetricRegistry) -> Intake {
    let largest = images.max_bytes.saturating_add(MULTIPART_OVERHEAD);
    Intake {
        images: Images::new(rules(images)),
        budget: Budget::new(images.in_flight_bytes, largest, clock.clone(), metrics),
        patience: Patience {
            min_rate: images.min_rate,
            idle: images.idle_timeout,
        },
        clock: clock.clone(),
    }
}

fn rules(images: &images_config::Images) -> Rules {
    let formats = images.formats.iter().map(|format| match format {
        ImageFormat::Jpeg => Format::Jpeg,
        ImageFormat::Png => Format::Png,
        ImageFormat::Webp => Format::Webp,
        ImageFormat::Heic => Format::Heic,
    });
    Rules {
        max_bytes: images.max_bytes,
        max_pixels: images.max_pixels,
        formats: formats.collect(),
        metadata: match images.metadata {
            images_config::Metadata::Keep => Metadata::Keep,
            images_config::Metadata::StripLocation => Metadata::StripLocation,
            images_config::Metadata::StripAll => Metadata::StripAll,
        },
        shrink: images.max_dimension.map(|max_dimension| {
            let shrink = Shrink {
                max_dimension,
                quality: images.quality,
            };
            Shrinker::new(shrink, images.max_pixels)
        }),
    }
}
