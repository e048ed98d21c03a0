//! TLS of the public listener: which certificate is shown, and by which rules. The
//! handshakes are `server`'s, and when the files are looked at again is `reload`'s.
//!
//! A new pair makes a new [`ServerConfig`], with new keys for tickets: a session that began under
//! a key that was replaced isn't resumed. Open connections stay as they are.

mod pair;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use crate::{clock::Clock, config::server::Tls as Files};

pub use pair::{Flaw, Pair, PairError};

/// What ALPN calls HTTP/2 (RFC 9113 §3.2) and HTTP/1.1 (RFC 7301 §6), as we prefer them.
pub const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// How long a key and a certificate that don't belong together may be two halves of a renewal.
const SETTLES_IN: Duration = Duration::from_secs(2);

/// The pair that is shown now. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: Files,
    clock: Clock,
    current: ArcSwap<Current>,
    last: Mutex<LastLook>,
    metrics: Metrics,
}

/// What the last look at the files found.
#[derive(Default)]
struct LastLook {
    mistake: Option<String>,
    /// Since when key and certificate are strangers.
    strangers_since: Option<Instant>,
}

struct Current {
    config: Arc<ServerConfig>,
    expires: SystemTime,
    fingerprint: [u8; 32],
}

/// How the certificate stands, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// When the one that is shown ends.
    pub expires: SystemTime,
    /// Why the files can't take its place.
    pub mistake: Option<String>,
}

/// Why TLS can't begin.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files can't be used.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The cryptography can't be had.
    #[error("TLS can't be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// Reads the files that a configuration names, for a report.
///
/// # Errors
/// What is wrong with them.
pub fn check(files: &Files, now: SystemTime) -> Result<(), PairError> {
    Pair::read(files, &aws_lc_rs::default_provider(), now).map(|_| ())
}

impl Tls {
    /// Reads the pair.
    ///
    /// # Errors
    /// It can't be used.
    pub fn load(
        files: &Files,
        clock: Clock,
        metrics: &mut MetricRegistry,
    ) -> Result<Self, TlsError> {
        let current = Current::read(files, &clock)?;
        let metrics = Metrics::declare(metrics);
        metrics.show(&current);
        Ok(Self(Arc::new(Shared {
            files: files.clone(),
            clock,
            current: ArcSwap::from_pointee(current),
            last: Mutex::default(),
            metrics,
        })))
    }

    /// By which a connection that begins now is made.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.current.load().config.clone()
    }

    /// The files to be watched.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let Files {
            cert_file,
            key_file,
        } = &self.0.files;
        [cert_file.as_path(), key_file.as_path()].into_iter()
    }

    /// How the certificate stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            expires: self.0.current.load().expires,
            mistake: self.last().mistake.clone(),
        }
    }

    /// Reads the files again; a pair that can't be used leaves the last good one in its place. Where only one
    /// of the two may have been replaced yet, nothing is told, and it says when to look again.
    pub fn reload(&self) -> Option<Instant> {
        let shared = &self.0;
        let read = Current::read(&shared.files, &shared.clock);
        let mut last = self.last();
        if matches!(&read, Err(TlsError::Pair(error)) if matches!(error.flaw, Flaw::Strangers)) {
            let now = shared.clock.instant();
            let settled = *last.strangers_since.get_or_insert(now) + SETTLES_IN;
            if now < settled {
                return Some(settled);
            }
        } else {
            last.strangers_since = None;
        }
        let result = match read {
            Err(error) => {
                let told = error.to_string();
                if last.mistake.as_ref() != Some(&told) {
                    tracing::error!(
                        mistake = told,
                        "the certificate can't be renewed: the last good one is still shown"
                    );
                }
                last.mistake = Some(told);
                "failed"
            }
            Ok(read) => {
                let is_same = read.fingerprint == shared.current.load().fingerprint;
                if last.mistake.take().is_some() && is_same {
                    tracing::info!("the certificate's files have no mistakes any more");
                }
                if is_same {
                    "unchanged"
                } else {
                    shared.metrics.show(&read);
                    tracing::info!(
                        expires = %httpdate::fmt_http_date(read.expires),
                        "a new certificate is shown"
                    );
                    shared.current.store(Arc::new(read));
                    "changed"
                }
            }
        };
        shared.metrics.count(result);
        None
    }

    fn last(&self) -> std::sync::MutexGuard<'_, LastLook> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn read(files: &Files, clock: &Clock) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = Pair::read(files, &provider, clock.wall())?;
        Ok(Self {
            config: Arc::new(config(pair.certified, provider).map_err(TlsError::Setup)?),
            expires: pair.expires,
            fingerprint: pair.fingerprint,
        })
    }
}

fn config(
    certified: CertifiedKey,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        // Whatever name a client asks for (RFC 6066 §3): it judges for itself what it is shown.
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    // Tickets hold the state at the client: no table here that strangers could fill.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

struct Metrics {
    expiry: Gauge,
    reloads: Family<ResultLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Metrics {
    fn declare(metrics: &mut MetricRegistry) -> Self {
        let this = Self {
            expiry: Gauge::default(),
            reloads: Family::default(),
        };
        metrics.register(
            "llavero_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown ends, in seconds since 1970",
            this.expiry.clone(),
        );
        metrics.register(
            "llavero_tls_reloads",
            "Looks at the certificate's files by what came of them",
            this.reloads.clone(),
        );
        for result in ["unchanged", "changed", "failed"] {
            let _ = this.reloads.get_or_create(&ResultLabel { result });
        }
        this
    }

    fn show(&self, current: &Current) {
        let since = current.expires.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&ResultLabel { result }).inc();
    }
}
