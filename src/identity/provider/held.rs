//! Keys in force, and the names of those that were before them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::super::keys::KeySet;

/// So many names of keys that were taken back are known.
pub(super) const MOST_RETIRED: usize = 64;

/// Keys in force.
pub(in crate::identity) struct Held {
    pub(in crate::identity) keys: Arc<KeySet>,
    /// Another set of keys has another.
    pub(in crate::identity) version: u64,
    /// The names of keys that were taken back, the latest last. After a rotation, old tokens go on coming for as long as
    /// they last; they must not use up the fetches that tokens of a new key need.
    retired: Arc<[String]>,
    confirmed: Confirmed,
}

/// When the fetch began that brought keys or found them unchanged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confirmed {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
}

impl Held {
    /// Those keys, instead of the ones before.
    pub(super) fn replacing(
        before: Option<&Self>,
        keys: KeySet,
        version: u64,
        confirmed: Confirmed,
    ) -> Self {
        Self {
            retired: retired(before, &keys),
            keys: Arc::new(keys),
            version,
            confirmed,
        }
    }

    /// The same keys, found unchanged.
    pub(super) fn confirmed_anew(&self, confirmed: Confirmed) -> Self {
        Self {
            keys: self.keys.clone(),
            version: self.version,
            retired: self.retired.clone(),
            confirmed,
        }
    }

    pub(super) fn is_retired(&self, kid: &str) -> bool {
        self.retired.iter().any(|retired| retired == kid)
    }

    pub(super) fn confirmed(&self) -> Confirmed {
        self.confirmed
    }

    /// How long ago they were confirmed.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.confirmed.at)
    }

    #[cfg(test)]
    pub(super) fn retired(&self) -> &[String] {
        &self.retired
    }
}

/// The names of keys that were in force once and aren't among those.
fn retired(before: Option<&Held>, keys: &KeySet) -> Arc<[String]> {
    let Some(before) = before else {
        return Arc::default();
    };
    let mut retired: Vec<String> = Vec::new();
    let earlier = before.retired.iter().map(String::as_str);
    for id in earlier.chain(before.keys.ids()) {
        if !keys.ids().any(|present| present == id) {
            retired.push(id.to_owned());
        }
    }
    let forgotten = retired.len().saturating_sub(MOST_RETIRED);
    retired.drain(..forgotten);
    retired.into()
}
