//! From a bearer token to verified [`Claims`]: which issuer, which key, which
//! checks (contract section 3). Nothing here knows tenants or operations.
//!
//! An issuer's keys are fixed (a file, a secret) or a provider's, who changes them when it
//! likes. A token that was verified is remembered for as long as it and the issuer's keys last.

mod bucket;
mod claims;
mod fetch;
mod keys;
mod provider;
mod remembered;
mod soundness;
mod token;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{clock::Clock, config, config::document::Document};

pub use claims::{Claims, word_list};
pub use keys::KeyError;
pub use provider::{Spread, Standing};
pub use token::InvalidToken;

use fetch::{Fetcher, Origin};
use keys::KeySet;
use provider::{Current, Provider};
use remembered::{Provenance, Remembered};
use token::{Proved, Unproved};

/// Verifies tokens against the configured issuers. Cheap to clone. Its background work ends
/// with its last clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    issuers: Vec<Issuer>,
    leeway_seconds: i64,
    clock: Clock,
    base_dir: PathBuf,
    remembered: Option<Remembered>,
    metrics: Metrics,
    stop: DropGuard,
}

/// One issuer with its keys.
struct Issuer {
    name: Arc<str>,
    is_the_only_one: bool,
    settings: config::auth::Issuer,
    keys: Keys,
}

enum Keys {
    Fixed(ArcSwap<Fixed>),
    Published(Provider),
}

/// Keys from a file or a secret.
struct Fixed {
    keys: KeySet,
    /// Another set of keys has another.
    version: u64,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It isn't good.
    #[error(transparent)]
    Invalid(#[from] InvalidToken),
    /// It can't be told: its issuer's keys can't be had now.
    #[error("the keys of the token's issuer can't be fetched")]
    Unavailable {
        /// When they may be there.
        retry_after: Duration,
    },
}

/// An issuer whose keys couldn't be had, by its place in `auth.issuers`.
#[derive(Debug, thiserror::Error)]
#[error("auth.issuers[{index}]: {source}")]
pub struct IssuerError {
    index: usize,
    #[source]
    source: KeyError,
}

#[derive(Default)]
struct Metrics {
    provider: provider::Metrics,
    verifications: Family<VerificationLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerificationLabels {
    result: &'static str,
}

impl IssuerError {
    /// The dotted key of the setting that named the key.
    #[must_use]
    pub fn key(&self) -> String {
        format!("auth.issuers[{}].{}", self.index, self.source.setting())
    }

    /// What is wrong and what to do.
    #[must_use]
    pub fn what(&self) -> String {
        self.source.to_string()
    }

    /// The same as a mistake of the configuration, with file and line.
    #[must_use]
    pub fn mistake(&self, document: &Document) -> config::mistake::Mistake {
        document.mistake(&self.key(), self.what())
    }
}

impl Identity {
    /// Reads every issuer's keys that are in files, and connects nothing.
    ///
    /// # Errors
    /// All issuers whose keys can't be used, not only the first.
    pub fn load(
        auth: &config::auth::Auth,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        clock: Clock,
    ) -> Result<Self, Vec<IssuerError>> {
        let metrics = Metrics::default();
        let mut issuers = Vec::with_capacity(auth.issuers.len());
        let mut errors = Vec::new();
        for (index, settings) in auth.issuers.iter().enumerate() {
            let name: Arc<str> = settings.issuer.as_str().into();
            let keys = match origin(settings) {
                None => KeySet::load(settings, base_dir, env).map(|keys| {
                    let version = 0;
                    Keys::Fixed(ArcSwap::from_pointee(Fixed { keys, version }))
                }),
                // One client each: what one provider's connections do is no other's concern.
                Some(origin) => fetch::client().map_err(KeyError::from).map(|http| {
                    let algorithms = settings.algorithms.clone();
                    let fetcher = Fetcher::new(http, origin, auth.jwks.clone(), algorithms);
                    Keys::Published(Provider::new(
                        name.clone(),
                        fetcher,
                        auth.jwks.clone(),
                        clock.clone(),
                        metrics.provider.clone(),
                    ))
                }),
            };
            match keys {
                Ok(keys) => issuers.push(Issuer {
                    name,
                    is_the_only_one: auth.issuers.len() == 1,
                    settings: settings.clone(),
                    keys,
                }),
                Err(source) => errors.push(IssuerError { index, source }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self(Arc::new(Inner {
            issuers,
            leeway_seconds: i64::try_from(auth.leeway.as_secs()).unwrap_or(0),
            clock,
            base_dir: base_dir.to_owned(),
            remembered: Remembered::new(),
            metrics,
            stop: CancellationToken::new().drop_guard(),
        })))
    }

    /// Has fetches and verifications counted there.
    pub fn register(&self, metrics: &mut MetricRegistry) {
        self.0.metrics.provider.register(metrics);
        metrics.register(
            "llavero_token_verifications",
            "Tokens: remembered, verified, refused, or unavailable where their issuer's keys can't be had",
            self.0.metrics.verifications.clone(),
        );
        for result in ["remembered", "verified", "refused", "unavailable"] {
            let labels = VerificationLabels { result };
            let _ = self.0.metrics.verifications.get_or_create(&labels);
        }
    }

    /// Begins to fetch the keys of issuers that publish them, at once and from then on. Needs a
    /// runtime. `spread` keeps replicas from asking all at the same moment.
    pub fn keep_fresh(&self, spread: &Spread) {
        for provider in self.providers() {
            provider.keep_fresh(spread.clone(), self.0.stop.token().clone());
        }
    }

    /// The claims of a token that was verified before and is valid now: what [`Self::verify`]
    /// would say, at the cost of a look.
    #[must_use]
    pub fn remembered(&self, token: &str) -> Option<Claims> {
        let inner = &self.0;
        let remembered = inner.remembered.as_ref()?;
        let (proved, provenance) = remembered.get(token)?;
        let issuer = inner.issuers.get(provenance.issuer)?;
        let now = inner.clock.unix_seconds();
        let timely = token::is_timely(
            proved.claims.expires_at,
            proved.valid_from,
            now,
            inner.leeway_seconds,
        );
        if timely.is_err() {
            // It is verified anew, and found to have ended.
            remembered.forget(token);
            return None;
        }
        if issuer.version() != Some(provenance.version) {
            return None;
        }
        inner.count("remembered");
        Some(proved.claims)
    }

    /// The claims of a token that one of the issuers signed and that is valid now. It is
    /// remembered.
    ///
    /// # Errors
    /// The first check that failed, for the challenge and the log; it repeats nothing of the
    /// token. Or that no key is there to check it with.
    pub async fn verify(&self, token: &str) -> Result<Claims, Refused> {
        let verified = self.prove(token).await;
        self.0.count(match &verified {
            Ok(_) => "verified",
            Err(Refused::Invalid(_)) => "refused",
            Err(Refused::Unavailable { .. }) => "unavailable",
        });
        let (proved, provenance) = verified?;
        let claims = proved.claims.clone();
        if let Some(remembered) = &self.0.remembered {
            remembered.insert(token, proved, provenance);
        }
        Ok(claims)
    }

    async fn prove(&self, token: &str) -> Result<(Proved, Provenance), Refused> {
        let inner = &self.0;
        let now = inner.clock.unix_seconds();
        let token = Unproved::read(token, &inner.issuers, now, inner.leeway_seconds)?;
        let (proved, version) = match &inner.issuers[token.issuer].keys {
            Keys::Published(provider) => provider.prove(&token).await?,
            Keys::Fixed(fixed) => {
                let fixed = fixed.load_full();
                let proved = token.prove(&fixed.keys).map_err(|doubt| doubt.invalid)?;
                (proved, fixed.version)
            }
        };
        let provenance = Provenance {
            issuer: token.issuer,
            version,
        };
        Ok((proved, provenance))
    }

    /// Reads the keys that are in files, and secrets, again. An issuer whose keys can't be used
    /// keeps its last good ones.
    ///
    /// # Errors
    /// All issuers whose keys can't be used.
    pub fn reload_files(
        &self,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), Vec<IssuerError>> {
        let mut errors = Vec::new();
        for (index, issuer) in self.0.issuers.iter().enumerate() {
            let Keys::Fixed(fixed) = &issuer.keys else {
                continue;
            };
            match KeySet::load(&issuer.settings, &self.0.base_dir, env) {
                Ok(keys) => replace(&issuer.name, fixed, keys),
                Err(source) => errors.push(IssuerError { index, source }),
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Whether any issuer's tokens can be judged.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let published = |issuer: &Issuer| match &issuer.keys {
            Keys::Fixed(_) => true,
            Keys::Published(provider) => provider.standing().keys > 0,
        };
        self.0.issuers.iter().any(published)
    }

    /// How the issuers stand whose keys are fetched.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        self.providers().map(Provider::standing).collect()
    }

    /// Fetches the keys of each issuer that publishes them, once: how many there are, or why
    /// they can't be had.
    pub async fn try_providers(&self) -> Vec<(Arc<str>, Result<usize, String>)> {
        let mut tried = Vec::new();
        for issuer in &self.0.issuers {
            if let Keys::Published(provider) = &issuer.keys {
                tried.push((issuer.name.clone(), provider.try_once().await));
            }
        }
        tried
    }

    fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.0
            .issuers
            .iter()
            .filter_map(|issuer| match &issuer.keys {
                Keys::Fixed(_) => None,
                Keys::Published(provider) => Some(provider),
            })
    }
}

impl Inner {
    fn count(&self, result: &'static str) {
        self.metrics
            .verifications
            .get_or_create(&VerificationLabels { result })
            .inc();
    }
}

impl Issuer {
    /// The version of the keys that it can be trusted with now; none where they have to be
    /// looked at again.
    fn version(&self) -> Option<u64> {
        match &self.keys {
            Keys::Fixed(fixed) => Some(fixed.load().version),
            Keys::Published(provider) => match provider.current() {
                Current::Good(held) => Some(held.version),
                Current::Overdue | Current::None => None,
            },
        }
    }
}

/// Where an issuer's keys are published; none where they are fixed.
fn origin(settings: &config::auth::Issuer) -> Option<Origin> {
    if let Some(address) = &settings.jwks_url {
        return Some(Origin::Address(address.clone()));
    }
    settings
        .discovery
        .then(|| settings.discovery_document())?
        .map(|document| Origin::Discovery {
            document,
            issuer: settings.issuer.clone(),
            last: std::sync::Mutex::default(),
        })
}

fn replace(issuer: &str, fixed: &ArcSwap<Fixed>, keys: KeySet) {
    let before = fixed.load_full();
    if before.keys.equals(&keys) {
        return;
    }
    let added = keys.without(Some(&before.keys)).join(" ");
    let removed = before.keys.without(Some(&keys)).join(" ");
    tracing::info!(issuer, added, removed, "an issuer's keys have changed");
    let version = before.version + 1;
    fixed.store(Arc::new(Fixed { keys, version }));
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.issuers.iter().map(|issuer| &issuer.name))
            .finish()
    }
}
