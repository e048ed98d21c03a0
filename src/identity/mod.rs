//! From a bearer token to verified [`Claims`]: which issuer, which key, which
//! checks (contract section 3). Nothing here knows tenants or operations.

mod claims;
mod keys;
mod soundness;
mod token;

use std::{fmt, path::Path, sync::Arc};

use jsonwebtoken::Algorithm;

use crate::{clock::Clock, config, config::document::Document};

pub use claims::{Claims, word_list};
pub use keys::KeyError;
pub use token::InvalidToken;

use keys::KeySet;

/// Verifies tokens against the configured issuers. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    issuers: Arc<[Issuer]>,
    leeway_seconds: i64,
    clock: Clock,
}

/// One issuer with its keys in memory.
pub(crate) struct Issuer {
    pub(crate) name: Arc<str>,
    pub(crate) audience: Vec<String>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) keys: KeySet,
    pub(crate) tenant_claim: String,
    pub(crate) scope_claim: String,
    pub(crate) default_scopes: Vec<String>,
}

/// An issuer whose keys couldn't be had, by its place in `auth.issuers`.
#[derive(Debug, thiserror::Error)]
#[error("auth.issuers[{index}]: {source}")]
pub struct IssuerError {
    index: usize,
    #[source]
    source: KeyError,
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
    /// Reads every issuer's keys.
    ///
    /// # Errors
    /// All issuers whose keys can't be used, not only the first.
    pub fn load(
        auth: &config::auth::Auth,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        clock: Clock,
    ) -> Result<Self, Vec<IssuerError>> {
        let mut issuers = Vec::with_capacity(auth.issuers.len());
        let mut errors = Vec::new();
        for (index, issuer) in auth.issuers.iter().enumerate() {
            match KeySet::load(issuer, base_dir, env) {
                Ok(keys) => issuers.push(Issuer::new(issuer, keys)),
                Err(source) => errors.push(IssuerError { index, source }),
            }
        }
        if errors.is_empty() {
            Ok(Self::new(issuers, auth, clock))
        } else {
            Err(errors)
        }
    }

    fn new(issuers: Vec<Issuer>, auth: &config::auth::Auth, clock: Clock) -> Self {
        Self {
            issuers: issuers.into(),
            leeway_seconds: i64::try_from(auth.leeway.as_secs()).unwrap_or(0),
            clock,
        }
    }

    /// The claims of a token that one of the issuers signed and that is valid now.
    ///
    /// # Errors
    /// The first check that failed, for the challenge and the log; it repeats nothing of the token.
    pub fn verify(&self, token: &str) -> Result<Claims, InvalidToken> {
        token::verify(
            token,
            &self.issuers,
            self.clock.unix_seconds(),
            self.leeway_seconds,
        )
    }
}

impl Issuer {
    fn new(issuer: &config::auth::Issuer, keys: KeySet) -> Self {
        Self {
            name: issuer.issuer.as_str().into(),
            audience: issuer.audience.clone(),
            algorithms: issuer.algorithms.clone(),
            keys,
            tenant_claim: issuer.claims.tenant.clone(),
            scope_claim: issuer.claims.scope.clone(),
            default_scopes: issuer.default_scopes.clone(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.issuers.iter().map(|issuer| &issuer.name))
            .finish()
    }
}
