//! The bounded store of answers, as served. A key can't be made without a tenant
//! and a credential. What is fresh isn't decided here; what has to go when it is full is.
//!
//! moka is the map that readers share without a lock. Its own eviction knows no
//! tenants, so a ledger beside it keeps the bound: when the store is full, the
//! tenant that holds most gives way, its oldest unused answer first.

mod ledger;

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use aws_lc_rs::digest;
use base64_simd::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;

use crate::tenants::{TenantId, Viewer};

use ledger::{Ledger, Stamp};

/// Names one answer: who sees it (tenant and credential) and what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    viewer: Viewer,
    request: Arc<str>,
}

impl Key {
    /// The key of a canonical request, as that viewer sees the answer.
    #[must_use]
    pub fn new(viewer: Viewer, request: impl Into<Arc<str>>) -> Self {
        Self {
            viewer,
            request: request.into(),
        }
    }

    fn bytes(&self) -> usize {
        self.request.len()
    }
}

/// A body as it is served, with its validator.
#[derive(Debug)]
pub struct Representation {
    body: Bytes,
    etag: HeaderValue,
    link: Option<HeaderValue>,
    /// One more than the last number; 0 where it wasn't searched yet.
    searched_at: AtomicU64,
}

impl Representation {
    /// Keeps a body and computes its strong validator (RFC 9110 §8.8.1): a digest of the bytes.
    #[must_use]
    pub fn new(body: Vec<u8>) -> Self {
        // What a buffer has beyond its bytes would be held for as long as they are.
        Self::of(body.into_boxed_slice().into())
    }

    /// The same for bytes that are kept already.
    #[must_use]
    pub fn of(body: Bytes) -> Self {
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
            searched_at: AtomicU64::new(0),
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

    /// Notes that its bytes were searched for secrets when their list had that number.
    pub fn searched_at(&self, version: u64) {
        self.searched_at.store(version + 1, Ordering::Relaxed);
    }

    /// Whether that was noted, so that they needn't be searched again.
    #[must_use]
    pub fn was_searched_at(&self, version: u64) -> bool {
        self.searched_at.load(Ordering::Relaxed) == version + 1
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

    fn bytes(&self) -> usize {
        let link = self.link.as_ref().map_or(0, HeaderValue::len);
        self.body.len() + self.etag.len() + link
    }
}

/// How many changes its subject had seen when an answer was asked for: those that were
/// made, and those that nobody knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Generation {
    /// Changes that the ERP made.
    pub made: u64,
    /// Changes that it may have made.
    pub doubtful: u64,
}

/// An answer with what is needed to judge it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is served.
    pub representation: Arc<Representation>,
    /// Which fetch it is of, counted as they begin: of two answers the one that was asked
    /// for later is newer.
    pub asked: u64,
    /// When its fetch was answered.
    pub stored_at: Instant,
    /// The subject's generation when its fetch began.
    pub generation: Generation,
}

struct Kept {
    /// None where the ERP has said that it has no such answer (any more): then an older
    /// one that is still on its way doesn't come in.
    entry: Option<Entry>,
    asked: u64,
    stamp: Stamp,
    bytes: u64,
    /// Whether it was served since it was last considered for eviction.
    used: AtomicBool,
}

/// The store, bounded by bytes. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Parts>);

struct Parts {
    store: moka::sync::Cache<Key, Arc<Kept>>,
    ledger: Mutex<Ledger>,
    max_bytes: u64,
}

/// What an entry costs beside its own bytes: its places in the map and in the ledger, the `Arc`s.
/// Measured with a million small answers, which is when it counts.
const ENTRY_OVERHEAD: usize = 900;

impl Cache {
    /// A store of at most that many bytes: keys, validators and bodies together.
    #[must_use]
    pub fn bounded(max_bytes: u64) -> Self {
        Self(Arc::new(Parts {
            store: moka::sync::Cache::builder().build(),
            ledger: Mutex::default(),
            max_bytes,
        }))
    }

    /// The entry of that key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        let kept = self.0.store.get(key)?;
        let entry = kept.entry.as_ref()?;
        if !kept.used.load(Ordering::Relaxed) {
            kept.used.store(true, Ordering::Relaxed);
        }
        Some(entry.clone())
    }

    /// Keeps an entry, unless the one that is there was asked for later. Says whether it is kept.
    pub fn insert(&self, key: Key, entry: Entry) -> bool {
        self.keep(key, entry.asked, Some(entry))
    }

    /// Drops what was asked for by that fetch or before, also what hasn't arrived yet.
    pub fn remove(&self, key: Key, asked: u64) {
        self.keep(key, asked, None);
    }

    fn keep(&self, key: Key, asked: u64, entry: Option<Entry>) -> bool {
        let own = entry
            .as_ref()
            .map_or(0, |entry| entry.representation.bytes());
        let size = ENTRY_OVERHEAD + key.bytes() + own;
        let bytes = u64::try_from(size).unwrap_or(u64::MAX);
        if bytes > self.0.max_bytes {
            return false;
        }
        let mut ledger = self.0.ledger();
        if ledger.is_forgotten(key.viewer.tenant(), asked) {
            return false;
        }
        let (stamp, used) = match self.0.store.get(&key) {
            Some(old) if old.asked > asked => return false,
            // It keeps its place in the order of eviction.
            Some(old) => {
                ledger.resize(key.viewer.tenant(), old.bytes, bytes);
                (old.stamp, old.used.load(Ordering::Relaxed))
            }
            None => (ledger.add(&key, bytes), false),
        };
        let kept = Kept {
            entry,
            asked,
            stamp,
            bytes,
            used: AtomicBool::new(used),
        };
        self.0.store.insert(key, Arc::new(kept));
        self.0.make_room(&mut ledger);
        true
    }

    /// Drops everything of a tenant that was asked for by that fetch or before, also what hasn't
    /// arrived yet.
    pub fn forget(&self, tenant: &TenantId, asked: u64) {
        let mut ledger = self.0.ledger();
        for key in ledger.forget(tenant, asked) {
            self.0.store.invalidate(&key);
        }
    }

    /// How many bytes are held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.ledger().bytes()
    }
}

impl Parts {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self, ledger: &mut Ledger) {
        while ledger.bytes() > self.max_bytes {
            let evicted = ledger.evict(|key, stamp| {
                let kept = self.store.get(key).filter(|kept| kept.stamp == stamp)?;
                if kept.used.swap(false, Ordering::Relaxed) {
                    return Some(ledger::Look::Used);
                }
                self.store.invalidate(key);
                Some(ledger::Look::Evicted(kept.bytes))
            });
            if !evicted {
                return;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use crate::tenants::{Clave, Credential};

    use super::*;

    fn key(tenant: &str, request: usize) -> Key {
        let tenant = tenant.parse().expect("an id");
        let clave: Clave = "carper".parse().expect("a clave");
        let credential = Credential::api_key(tenant, "default", "k".to_owned().into());
        let viewer = Viewer::new(&clave, &credential);
        Key::new(viewer, format!("ordenes/{request}"))
    }

    fn entry(bytes: usize, asked: u64) -> Entry {
        Entry {
            representation: Arc::new(Representation::new(vec![b'x'; bytes])),
            asked,
            stored_at: Instant::now(),
            generation: Generation::default(),
        }
    }

    #[test]
    fn a_tenant_that_reads_everything_pushes_only_itself_out() {
        let (cache, now) = (Cache::bounded(1 << 20), 1);
        for at in 0..50 {
            cache.insert(key("small", at), entry(2_000, now));
        }
        for at in 0..100_000 {
            cache.insert(key("large", at), entry(2_000, now));
            assert!(cache.bytes() <= 1 << 20);
        }
        let held = (0..50).filter(|at| cache.get(&key("small", *at)).is_some());
        assert_eq!(held.count(), 50);
        assert!(cache.bytes() > (1 << 20) * 9 / 10, "and the rest is used");
    }

    #[test]
    fn one_tenant_alone_may_have_it_all_and_shares_when_another_comes() {
        let (cache, now) = (Cache::bounded(1 << 20), 1);
        for at in 0..10_000 {
            cache.insert(key("first", at), entry(2_000, now));
        }
        for at in 0..10_000 {
            cache.insert(key("second", at), entry(2_000, now));
        }
        let held = |tenant| {
            let mine = (0..10_000).filter(|at| cache.get(&key(tenant, *at)).is_some());
            mine.count()
        };
        let (first, second) = (held("first"), held("second"));
        assert!(first.abs_diff(second) <= 2, "{first} and {second}");
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let (cache, now) = (Cache::bounded(1 << 20), 1);
        for at in 0..20_000 {
            cache.insert(key("only", at), entry(2_000, now));
            assert!(cache.get(&key("only", 0)).is_some(), "after {at}");
        }
    }

    #[test]
    fn an_answer_that_was_asked_for_earlier_does_not_replace_a_newer_one() {
        let (cache, now) = (Cache::bounded(1 << 20), 1);
        let later = now + 1;
        assert!(cache.insert(key("a", 1), entry(10, later)));
        assert!(!cache.insert(key("a", 1), entry(20, now)));
        let held = cache.get(&key("a", 1)).expect("is held");
        assert_eq!(held.representation.body().len(), 10);
        cache.remove(key("a", 1), now);
        assert!(cache.get(&key("a", 1)).is_some());
        cache.remove(key("a", 1), later);
        assert!(cache.get(&key("a", 1)).is_none());
        assert!(
            !cache.insert(key("a", 1), entry(10, now)),
            "it comes too late"
        );
        assert!(cache.insert(key("a", 1), entry(10, later)));
    }

    #[test]
    fn refreshing_and_removing_leaves_the_books_straight() {
        let (cache, now) = (Cache::bounded(1 << 20), 1);
        for round in 0..5_000 {
            cache.insert(key("a", round % 7), entry(round % 1_000, now));
            if round % 3 == 0 {
                cache.remove(key("a", round % 7), now);
            }
        }
        let held = |at| {
            let entry = cache.get(&key("a", at));
            let own = entry.map_or(0, |entry| entry.representation.bytes());
            (ENTRY_OVERHEAD + key("a", at).bytes() + own) as u64
        };
        assert_eq!(cache.bytes(), (0..7).map(held).sum::<u64>());
        assert_eq!(cache.0.ledger().places(), 7, "nothing piles up");
    }

    #[test]
    fn an_answer_larger_than_the_store_is_not_kept() {
        let cache = Cache::bounded(1_000);
        assert!(!cache.insert(key("a", 1), entry(1_000, 1)));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_tenant_that_is_forgotten_has_nothing_not_even_what_comes_late() {
        let cache = Cache::bounded(1 << 20);
        cache.insert(key("a", 1), entry(10, 1));
        cache.insert(key("b", 1), entry(10, 2));
        let tenant = "a".parse().expect("an id");
        cache.forget(&tenant, 5);
        assert!(cache.get(&key("a", 1)).is_none() && cache.get(&key("b", 1)).is_some());
        assert!(!cache.insert(key("a", 2), entry(10, 4)));
        assert!(cache.insert(key("a", 2), entry(10, 6)));
        assert_eq!(cache.0.ledger().places(), 2);
    }
}
