//! A provider's documents over HTTP: its JWK Set and, where the issuer says by discovery where
//! that is, the discovery document. Nothing of ours is sent along; what comes is bounded.

use std::sync::Mutex;

use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header::ACCEPT};
use jsonwebtoken::Algorithm;
use reqwest::redirect;
use serde_json::Value;
use url::Url;

use crate::{config, i_json};

use super::keys::{self, KeySet};

/// More than any provider's documents have, even with certificate chains.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// Where an issuer's keys are.
pub(super) enum Origin {
    /// At that address.
    Address(Url),
    /// At the one that the issuer's discovery document names.
    Discovery {
        document: Url,
        /// What the document must call its issuer.
        issuer: String,
        /// Where the keys were the last time: an outage of the document alone changes nothing.
        last: Mutex<Option<Url>>,
    },
}

/// Fetches the keys of one issuer.
pub(super) struct Fetcher {
    http: reqwest::Client,
    origin: Origin,
    rules: config::auth::Jwks,
    algorithms: Vec<Algorithm>,
}

/// Why keys couldn't be fetched, in words for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no connection: the address, the network or the certificate is wrong")]
    Connect,
    #[error("no complete answer within auth.jwks.timeout")]
    Timeout,
    #[error("the connection broke before the answer was complete")]
    Broken,
    #[error("the status was {0} instead of 200; redirects aren't followed")]
    Status(u16),
    #[error("the answer is over 256 KiB")]
    TooLarge,
    #[error("the answer isn't a JWK Set: check the address")]
    NotASet,
    #[error("the JWK Set has no signing key for the issuer's algorithms")]
    NoUsableKey,
    #[error("the discovery document can't be read: check that the issuer has one")]
    NoDiscovery,
    #[error(
        "the discovery document is another issuer's: `issuer` must be the same letter for letter"
    )]
    OtherIssuer,
    #[error(
        "the discovery document's `jwks_uri` isn't an address that keys may be fetched from: it must be https"
    )]
    Address,
}

/// A client for all providers: it follows no redirects, knows no proxies of the environment and
/// keeps no cookies.
///
/// # Errors
/// TLS can't be set up on this machine.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .no_gzip()
        .referer(false)
        .build()
}

impl Fetcher {
    pub(super) fn new(
        http: reqwest::Client,
        origin: Origin,
        rules: config::auth::Jwks,
        algorithms: Vec<Algorithm>,
    ) -> Self {
        Self {
            http,
            origin,
            rules,
            algorithms,
        }
    }

    /// The keys as they are published now. It has no end of its own: whoever calls bounds it.
    pub(super) async fn fetch(&self) -> Result<keys::Read, FetchError> {
        let address = match &self.origin {
            Origin::Address(address) => address.clone(),
            Origin::Discovery {
                document,
                issuer,
                last,
            } => self.discover(document, issuer, last).await?,
        };
        let body = self.get(address).await?;
        let read = KeySet::read(&body, &self.algorithms).ok_or(FetchError::NotASet)?;
        if read.keys.is_empty() {
            return Err(FetchError::NoUsableKey);
        }
        Ok(read)
    }

    async fn discover(
        &self,
        document: &Url,
        issuer: &str,
        last: &Mutex<Option<Url>>,
    ) -> Result<Url, FetchError> {
        let lock = || {
            last.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let body = match self.get(document.clone()).await {
            Ok(body) => body,
            Err(error) => return lock().clone().ok_or(error),
        };
        let Ok(Value::Object(members)) = i_json::parse(&body) else {
            return Err(FetchError::NoDiscovery);
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        // Whoever could speak for another issuer here could bring keys for its tokens
        // (OpenID Connect Discovery 1.0 §4.3).
        if text("issuer") != Some(issuer) {
            return Err(FetchError::OtherIssuer);
        }
        let address = text("jwks_uri")
            .and_then(|uri| Url::parse(uri).ok())
            .filter(|uri| self.rules.admits(uri))
            .ok_or(FetchError::Address)?;
        *lock() = Some(address.clone());
        Ok(address)
    }

    async fn get(&self, address: Url) -> Result<BytesMut, FetchError> {
        let request = self
            .http
            .get(address)
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() {
                FetchError::Connect
            } else {
                FetchError::Broken
            }
        })?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| FetchError::Broken)? {
            if body.len() + chunk.len() > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
