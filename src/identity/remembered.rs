//! Tokens that were verified already. What is remembered is that a key of an issuer's set, as
//! it was then, has signed exactly these bytes; everything that time or a rotation may change
//! is looked at again each time. Failures aren't remembered.

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use moka::sync::Cache;

use super::token::{MAX_TOKEN_BYTES, Proved};

/// Of all tokens together: some ten thousand.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// What a token's claims take as parsed, for each of its bytes, and besides.
const WEIGHT_OF_A_BYTE: usize = 4;
const WEIGHT_OF_AN_ENTRY: usize = 512;

type Digest = [u8; 32];

/// Which set of keys proved a token: another set of the issuer's has another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Provenance {
    /// The issuer's place among the issuers.
    pub issuer: usize,
    /// The version of its keys.
    pub version: u64,
}

/// A bounded memory of proved tokens.
pub(super) struct Remembered {
    /// Made at the start and told to nobody, so that no token can be aimed at another's place.
    key: hmac::Key,
    proved: Cache<Digest, Entry>,
}

#[derive(Clone)]
struct Entry {
    proved: Proved,
    provenance: Provenance,
    weight: u32,
}

impl Remembered {
    /// None where the machine has no randomness; then nothing is remembered.
    pub(super) fn new() -> Option<Self> {
        let mut key = Digest::default();
        SystemRandom::new().fill(&mut key).ok()?;
        let proved = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(|_, entry: &Entry| entry.weight)
            .build();
        Some(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            proved,
        })
    }

    /// What was proved of that token, and by what.
    pub(super) fn get(&self, token: &str) -> Option<(Proved, Provenance)> {
        let entry = self.proved.get(&self.digest(token)?)?;
        Some((entry.proved, entry.provenance))
    }

    pub(super) fn insert(&self, token: &str, proved: Proved, provenance: Provenance) {
        let weight = token.len() * WEIGHT_OF_A_BYTE + WEIGHT_OF_AN_ENTRY;
        if let Some(digest) = self.digest(token) {
            let entry = Entry {
                proved,
                provenance,
                weight: u32::try_from(weight).unwrap_or(u32::MAX),
            };
            self.proved.insert(digest, entry);
        }
    }

    pub(super) fn forget(&self, token: &str) {
        if let Some(digest) = self.digest(token) {
            self.proved.invalidate(&digest);
        }
    }

    /// None for what is too long to be a token: looking it up costs nothing.
    fn digest(&self, token: &str) -> Option<Digest> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        hmac::sign(&self.key, token.as_bytes())
            .as_ref()
            .try_into()
            .ok()
    }

    #[cfg(test)]
    fn weight(&self) -> u64 {
        self.proved.run_pending_tasks();
        self.proved.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::identity::Claims;

    fn proved() -> Proved {
        Proved {
            claims: Claims {
                issuer: "issuer".into(),
                is_of_the_only_issuer: true,
                subject: "ana".into(),
                expires_at: 0,
                tenants: [].into(),
                scopes: [].into(),
                all: Map::new().into(),
            },
            valid_from: 0,
        }
    }

    const PROVENANCE: Provenance = Provenance {
        issuer: 0,
        version: 7,
    };

    #[test]
    fn only_the_very_same_bytes_are_remembered() {
        let remembered = Remembered::new().expect("there is randomness");
        remembered.insert("a.b.c", proved(), PROVENANCE);
        let (_, provenance) = remembered.get("a.b.c").expect("is there");
        assert_eq!(provenance, PROVENANCE);
        for other in ["a.b.C", "a.b.c ", "a.b.", "a.b.c.", ""] {
            assert!(remembered.get(other).is_none(), "{other}");
        }
        remembered.forget("a.b.c");
        assert!(remembered.get("a.b.c").is_none());
    }

    #[test]
    fn memory_is_bounded_however_many_tokens_come() {
        let remembered = Remembered::new().expect("there is randomness");
        let long = "x".repeat(8000);
        for number in 0..2000 {
            remembered.insert(&format!("{number}.{long}"), proved(), PROVENANCE);
        }
        let weight = remembered.weight();
        assert!(
            (MAX_BYTES / 2..=MAX_BYTES).contains(&weight),
            "{weight} bytes"
        );
        remembered.insert(&"x".repeat(MAX_TOKEN_BYTES + 1), proved(), PROVENANCE);
        assert!(remembered.get(&"x".repeat(MAX_TOKEN_BYTES + 1)).is_none());
    }

    #[test]
    fn a_tokens_place_is_another_in_each_process() {
        let (one, other) = (Remembered::new(), Remembered::new());
        let digest = |it: &Option<Remembered>| it.as_ref().and_then(|it| it.digest("a.b.c"));
        assert!(digest(&one).is_some() && digest(&one) != digest(&other));
    }
}
