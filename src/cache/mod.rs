//! The bounded store of answers, as served. A key can't be made without a tenant
//! and a credential. What is fresh isn't decided here.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use aws_lc_rs::digest;
use base64_simd::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;

use crate::tenants::CredentialId;

/// Names one answer: who sees it (tenant and credential) and what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    credential: CredentialId,
    request: Arc<str>,
}

impl Key {
    /// The key of a canonical request, seen with that credential.
    #[must_use]
    pub fn new(credential: &CredentialId, request: impl Into<Arc<str>>) -> Self {
        Self {
            credential: credential.clone(),
            request: request.into(),
        }
    }

    fn bytes(&self) -> usize {
        self.request.len() + self.credential.name().len() + self.credential.tenant().as_str().len()
    }
}

/// A body as it is served, with its validator.
#[derive(Debug, Clone)]
pub struct Representation {
    body: Bytes,
    etag: HeaderValue,
    link: Option<HeaderValue>,
}

impl Representation {
    /// Keeps a body and computes its strong validator (RFC 9110 §8.8.1): a digest of the bytes.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let digest = digest::digest(&digest::SHA256, &body);
        let mut etag = String::with_capacity(24);
        let _ = write!(
            etag,
            "\"{}\"",
            URL_SAFE_NO_PAD.encode_to_string(&digest.as_ref()[..16])
        );
        let etag = HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("\"\""));
        Self {
            body,
            etag,
            link: None,
        }
    }

    /// With the `Link` field that goes with it (RFC 8288).
    #[must_use]
    pub fn with_link(mut self, link: Option<HeaderValue>) -> Self {
        self.link = link;
        self
    }

    /// Its `Link` field.
    #[must_use]
    pub fn link(&self) -> Option<&HeaderValue> {
        self.link.as_ref()
    }

    /// The bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The validator, quotes included.
    #[must_use]
    pub fn etag(&self) -> &HeaderValue {
        &self.etag
    }
}

/// An answer with what is needed to judge it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is served.
    pub representation: Arc<Representation>,
    /// When its fetch was answered.
    pub stored_at: Instant,
    /// The subject's generation when its fetch began.
    pub generation: u64,
}

/// The store, bounded by bytes. Cheap to clone.
#[derive(Clone)]
pub struct Cache(moka::future::Cache<Key, Entry>);

/// What an entry costs beside its own bytes: the map's node, the `Arc`s, the policy's queues.
const ENTRY_OVERHEAD: usize = 256;

impl Cache {
    /// A store of at most that many bytes: keys, validators and bodies together.
    #[must_use]
    pub fn bounded(max_bytes: u64) -> Self {
        let weight = |key: &Key, entry: &Entry| {
            let bytes = ENTRY_OVERHEAD
                + key.bytes()
                + entry.representation.etag.len()
                + entry
                    .representation
                    .link
                    .as_ref()
                    .map_or(0, HeaderValue::len)
                + entry.representation.body.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self(
            moka::future::Cache::builder()
                .max_capacity(max_bytes)
                .weigher(weight)
                .build(),
        )
    }

    /// The entry of that key.
    pub async fn get(&self, key: &Key) -> Option<Entry> {
        self.0.get(key).await
    }

    /// Keeps an entry, in the place of an older one.
    pub async fn insert(&self, key: Key, entry: Entry) {
        self.0.insert(key, entry).await;
    }

    /// How many bytes are held, after what is over the bound has gone.
    pub async fn bytes(&self) -> u64 {
        self.0.run_pending_tasks().await;
        self.0.weighted_size()
    }
}
