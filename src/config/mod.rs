//! Settings: their form, defaults and checks, one file a section. What they do is
//! elsewhere: every room takes its own section and never the whole.
//!
//! [`load`] reads `llavero.yaml` with the environment over it and names every mistake
//! in one run ([`document`] says how). `reference.yaml` beside this file has every key
//! at its default.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use document::Checker;
use mistake::Mistakes;

pub mod audit;
pub mod auth;
mod availability;
pub mod cache;
mod decode;
pub mod document;
mod environment;
pub mod files;
pub mod idempotency;
pub mod images;
pub mod limits;
pub mod mistake;
pub mod proxy;
pub mod secret;
pub mod server;
#[cfg(test)]
mod tests;
mod tree;
pub mod units;
pub mod upstream;
mod yaml;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the gateway listens.
    pub server: server::Server,
    /// The way to the ERP.
    pub upstream: upstream::Upstream,
    /// Whose tokens are believed.
    pub auth: auth::Auth,
    /// The directory with one file a tenant, `<tenant-id>.yaml`. Default `tenants`.
    pub tenants_dir: PathBuf,
    /// How much is kept, and for how long.
    pub cache: cache::Cache,
    /// What is kept of writes.
    pub idempotency: idempotency::Idempotency,
    /// What an uploaded photo may be.
    pub images: images::Images,
    /// How much may be asked.
    pub limits: limits::Limits,
    /// Where the records of writes go.
    pub audit: audit::Audit,
    /// What else is passed through.
    pub proxy: proxy::Proxy,
    /// The directory of the configuration file: relative paths start there. [`load`] has
    /// joined all of them but those of secrets, which are read later.
    #[serde(skip)]
    pub base_dir: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: server::Server::default(),
            upstream: upstream::Upstream::default(),
            auth: auth::Auth::default(),
            tenants_dir: "tenants".into(),
            cache: cache::Cache::default(),
            idempotency: idempotency::Idempotency::default(),
            images: images::Images::default(),
            limits: limits::Limits::default(),
            audit: audit::Audit::default(),
            proxy: proxy::Proxy::default(),
            base_dir: PathBuf::new(),
        }
    }
}

/// A configuration as far as it can be read, and all that is wrong with it.
#[derive(Debug)]
pub struct Survey {
    /// The settings without the wrong ones; none where the file has no form at all.
    pub config: Option<Config>,
    /// What is wrong.
    pub mistakes: Mistakes,
}

/// Reads a configuration for a report: the file, and over it the variables
/// `LLAVERO__…` of `env`. To run with it, [`load`] it.
pub fn survey(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Survey {
    let decoded = match document::decode_file::<Config>(path, env) {
        Ok(decoded) => decoded,
        Err(mistakes) => {
            return Survey {
                config: None,
                mistakes,
            };
        }
    };
    let document::Decoded {
        value,
        document,
        mut mistakes,
    } = decoded;
    let config = value.map(|mut config| {
        let mut at = Checker::new(&document);
        config.check(&mut at);
        mistakes.extend(at.into_mistakes());
        config.start_paths_at(&directory_of(path));
        config
    });
    Survey {
        config,
        mistakes: Mistakes::sorted(mistakes),
    }
}

/// Reads a configuration: the file, and over it the variables `LLAVERO__…` of `env`.
///
/// # Errors
/// Every mistake of the file and of the variables.
pub fn load(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Mistakes> {
    match survey(path, env) {
        Survey {
            config: Some(config),
            mistakes,
        } if mistakes.0.is_empty() => Ok(config),
        survey => Err(survey.mistakes),
    }
}

/// The directory of a file, absolute: what is read later doesn't depend on where the process was started.
fn directory_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map(Path::to_owned).unwrap_or_default()
}

/// The environment of this process; nothing else reads it.
#[must_use]
pub fn process_env() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Config {
    fn check(&self, at: &mut Checker<'_>) {
        at.require(
            !self.tenants_dir.as_os_str().is_empty(),
            "tenants_dir",
            "must be a directory, e.g. tenants",
        );
        self.server.check(at);
        self.upstream.check(at);
        self.auth.check(at);
        self.cache.check(at);
        self.idempotency.check(at);
        self.images.check(at);
        self.limits.check(at);
        self.audit.check(at);
        self.proxy.check(at);
        availability::check(self, at);
    }

    fn start_paths_at(&mut self, base_dir: &Path) {
        let join = |path: &mut PathBuf| *path = base_dir.join(&path);
        join(&mut self.tenants_dir);
        for issuer in &mut self.auth.issuers {
            issuer.jwks_file.as_mut().map(join);
            issuer.public_key_file.as_mut().map(join);
        }
        if let audit::Output::File(path) = &mut self.audit.output {
            join(path);
        }
        if let Some(tls) = &mut self.server.tls {
            join(&mut tls.cert_file);
            join(&mut tls.key_file);
        }
        base_dir.clone_into(&mut self.base_dir);
    }
}
