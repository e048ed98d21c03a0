//! The keys of one issuer: a JWK Set (RFC 7517), one public key in PEM, or a shared
//! secret. Where a set comes from the network, `provider` fetches it.

use std::{
    io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use crate::{
    config::{self, secret::SecretError},
    i_json,
};

use super::soundness;

/// HS256's hash is 32 bytes, and a shorter key is weaker than it (RFC 7518 §3.2).
const MIN_SECRET_BYTES: usize = 32;
/// More than any set of keys.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// More usable keys than any provider publishes. A token that names no key is tried with all
/// that fit.
const MOST_KEYS: usize = 64;
/// Members that only a private key has (RFC 7518 §6.2.2 and §6.3.2, RFC 8037 §2): a prime of an RSA key gives away the rest.
/// `priv` is that of post-quantum keys, kty `AKP`.
const PRIVATE: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "priv"];
/// What is shown of a `kid`: it is the provider's word, and may be anything.
const MOST_KID_LETTERS: usize = 40;

/// An issuer's verification keys.
pub(crate) struct KeySet(Vec<Key>);

struct Key {
    /// None for a key that stands alone in its file: it serves any `kid`.
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    /// Of all of the above, so that two sets can be compared.
    fingerprint: Fingerprint,
}

type Fingerprint = [u8; digest::SHA256_OUTPUT_LEN];

/// A key of a JWK Set that no token can be verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Its `kid`, or its place in the set; safe to be shown.
    pub kid: String,
    /// What is wrong with it.
    pub what: &'static str,
}

/// A JWK Set, as far as it can be used.
pub(super) struct Read {
    /// The keys for the issuer's algorithms.
    pub keys: KeySet,
    /// What isn't used and should be.
    pub faults: Vec<Fault>,
}

/// The keys that may have signed a token.
pub(super) struct Candidates<'a> {
    /// Those that fit its header.
    pub keys: Vec<&'a DecodingKey>,
    /// Whether the token names one of them, so that no other key can be meant.
    pub named: bool,
}

/// Keys that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file isn't there or can't be read.
    #[error(
        "can't read {}: {error}; check the path and its permissions",
        shown(path)
    )]
    Unreadable {
        /// The setting that named it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file isn't what the setting says.
    #[error("{} isn't {expected}", shown(path))]
    Malformed {
        /// The setting that named it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// A key of a JWK Set that no token could be verified with.
    #[error("{}: the key {kid} {what}", shown(path))]
    Unsound {
        /// The file.
        path: PathBuf,
        /// Its `kid`, or its place in the set.
        kid: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A JWK Set without a usable key.
    #[error("{} has no signing key for the issuer's algorithms; add the provider's public keys or correct `algorithms`", shown(.0))]
    NoUsableKey(PathBuf),
    /// The shared secret can't be had.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// The shared secret is too short.
    #[error(
        "the secret has {0} bytes; HS* needs at least {MIN_SECRET_BYTES} (RFC 7518 §3.2): make one with `openssl rand -base64 48`"
    )]
    ShortSecret(usize),
    /// No source of keys.
    #[error(
        "this issuer has no keys; set `jwks_url`, `discovery`, `jwks_file`, `public_key_file` or `secret`"
    )]
    NoSource,
    /// Keys can't be fetched from anywhere.
    #[error("the HTTP client for the issuer's keys can't start: {0}")]
    Client(#[from] reqwest::Error),
}

/// A file's name, unless a whole key was pasted in its place.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.len() > 300 || text.contains(char::is_control) || text.contains("-----") {
        "the file that is named here".to_owned()
    } else {
        text.into_owned()
    }
}

impl KeyError {
    /// The setting at fault, relative to the issuer.
    pub(crate) fn setting(&self) -> &'static str {
        match self {
            Self::Unreadable { setting, .. } | Self::Malformed { setting, .. } => setting,
            Self::NoUsableKey(_) | Self::Unsound { .. } => "jwks_file",
            Self::Secret(_) | Self::ShortSecret(_) => "secret",
            Self::NoSource | Self::Client(_) => "issuer",
        }
    }
}

impl KeySet {
    pub(crate) fn load(
        issuer: &config::auth::Issuer,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, KeyError> {
        if let Some(path) = &issuer.jwks_file {
            return Self::from_jwks(path, &issuer.algorithms);
        }
        if let Some(path) = &issuer.public_key_file {
            return Self::from_pem(path, &issuer.algorithms);
        }
        let source = issuer.secret.as_ref().ok_or(KeyError::NoSource)?;
        let secret = source.resolve(base_dir, env)?;
        #[expect(clippy::disallowed_methods, reason = "the key of an HMAC")]
        let bytes = secret.expose().as_bytes();
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret(bytes.len()));
        }
        let key = DecodingKey::from_secret(bytes);
        Ok(Self(vec![Key::alone(key, &issuer.algorithms, bytes)]))
    }

    fn from_jwks(path: &Path, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let bytes = read(path, "jwks_file")?;
        let Read { keys, faults } =
            Self::read(&bytes, algorithms).ok_or_else(|| KeyError::Malformed {
                setting: "jwks_file",
                path: path.to_owned(),
                expected: "a JWK Set: {\"keys\": [...]} (RFC 7517 §5)",
            })?;
        // A file is the operator's own: what is wrong in it is a mistake, not an outage.
        if let Some(Fault { kid, what }) = faults.into_iter().next() {
            return Err(KeyError::Unsound {
                path: path.to_owned(),
                kid,
                what,
            });
        }
        if keys.is_empty() {
            Err(KeyError::NoUsableKey(path.to_owned()))
        } else {
            Ok(keys)
        }
    }

    /// The usable keys of a JWK Set, and what is wrong with the others. A key of a kind that
    /// we don't know, or for something else, is neither (RFC 7517 §5). None where it is no set.
    pub(super) fn read(bytes: &[u8], algorithms: &[Algorithm]) -> Option<Read> {
        let Ok(Value::Object(mut set)) = i_json::parse(bytes) else {
            return None;
        };
        let Some(Value::Array(values)) = set.remove("keys") else {
            return None;
        };
        let mut keys: Vec<Key> = Vec::new();
        let mut faults = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let kid = value.get("kid").and_then(Value::as_str);
            let shown = kid.map_or_else(|| format!("number {}", index + 1), shown_kid);
            let mut fault = |what| {
                faults.push(Fault {
                    kid: shown.clone(),
                    what,
                });
            };
            if PRIVATE.iter().any(|member| value.get(member).is_some()) {
                fault(
                    "is a private key; give the gateway the public one only, and make a new pair: this one has been seen",
                );
                continue;
            }
            if value.get("kty").and_then(Value::as_str) == Some("oct") {
                fault(
                    "is a shared secret, which has no business in a set of public keys; make a new one: this one has been seen",
                );
                continue;
            }
            let Some(jwk) = serde_json::from_value::<Jwk>(value).ok() else {
                continue;
            };
            let Some(key) = Key::from_jwk(&jwk, algorithms) else {
                continue;
            };
            if !soundness::of_jwk(&jwk) {
                fault(
                    "isn't a public key of its kind (RSA needs 2048 to 8192 bits, EC a point on its curve); export it again",
                );
            } else if key.id.is_some() && keys.iter().any(|other| other.id == key.id) {
                fault("has the same `kid` as another; remove one");
            } else if keys.len() == MOST_KEYS {
                fault("is one key too many: 64 are taken; remove old ones");
            } else {
                keys.push(key);
            }
        }
        Some(Read {
            keys: Self(keys),
            faults,
        })
    }

    fn from_pem(path: &Path, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let pem = read(path, "public_key_file")?;
        let family = algorithms.first().map(|algorithm| algorithm.family());
        let malformed = |expected| KeyError::Malformed {
            setting: "public_key_file",
            path: path.to_owned(),
            expected,
        };
        if !soundness::of_pem(&pem, algorithms) {
            return Err(malformed(
                "a public key in PEM (-----BEGIN PUBLIC KEY-----) of the kind that `algorithms` needs: RSA of 2048 bits or more for RS* and PS*, P-256 for ES256, P-384 for ES384, Ed25519 for EdDSA",
            ));
        }
        let key = match family {
            Some(AlgorithmFamily::Rsa) => DecodingKey::from_rsa_pem(&pem),
            Some(AlgorithmFamily::Ec) => DecodingKey::from_ec_pem(&pem),
            Some(AlgorithmFamily::Ed) => DecodingKey::from_ed_pem(&pem),
            Some(AlgorithmFamily::Hmac) | None => return Err(KeyError::NoSource),
        };
        let key = key.map_err(|_| malformed("a public key in PEM"))?;
        Ok(Self(vec![Key::alone(key, algorithms, &pem)]))
    }

    /// The keys that may have signed a token with that header: by `kid` where the
    /// token names one, else all that fit the algorithm.
    pub(super) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Candidates<'_> {
        let fit = |key: &&Key| key.algorithms.contains(&algorithm);
        let named = kid.is_some_and(|kid| self.0.iter().any(|key| key.id.as_deref() == Some(kid)));
        let keys = self.0.iter().filter(fit).filter(|key| {
            // A key without a `kid` may be anybody's, one with another's is nobody else's.
            key.id.is_none() || kid.is_none() || key.id.as_deref() == kid
        });
        Candidates {
            keys: keys.map(|key| &key.key).collect(),
            named,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The names of its keys.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|key| key.id.as_deref())
    }

    /// Whether both hold the same keys, in whatever order.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let sorted = |set: &Self| {
            let mut prints: Vec<_> = set.0.iter().map(|key| key.fingerprint).collect();
            prints.sort_unstable();
            prints
        };
        sorted(self) == sorted(other)
    }

    /// The names, safe to be shown, of the keys that `other` doesn't hold.
    pub(super) fn without(&self, other: Option<&Self>) -> Vec<String> {
        let known = |key: &Key| {
            other.is_some_and(|other| {
                other
                    .0
                    .iter()
                    .any(|theirs| theirs.fingerprint == key.fingerprint)
            })
        };
        let name = |key: &Key| key.id.as_deref().map_or("unnamed".to_owned(), shown_kid);
        self.0.iter().filter(|key| !known(key)).map(name).collect()
    }
}

impl Key {
    /// A key that serves any `kid`; `source` is what it was read from.
    fn alone(key: DecodingKey, algorithms: &[Algorithm], source: &[u8]) -> Self {
        Self {
            id: None,
            algorithms: algorithms.to_vec(),
            key,
            fingerprint: fingerprint(source),
        }
    }

    fn from_jwk(jwk: &Jwk, allowed: &[Algorithm]) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = common
            .public_key_use
            .as_ref()
            .is_none_or(|it| *it == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|it| it.contains(&KeyOperations::Verify));
        if !for_signatures {
            return None;
        }
        let fits: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
            _ => return None,
        };
        let pinned = match common.key_algorithm {
            Some(pinned) => Some(pinned.to_string().parse::<Algorithm>().ok()?),
            None => None,
        };
        let algorithms: Vec<Algorithm> = fits
            .iter()
            .copied()
            .filter(|algorithm| allowed.contains(algorithm))
            .filter(|algorithm| pinned.is_none_or(|pinned| pinned == *algorithm))
            .collect();
        if algorithms.is_empty() {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let all = (&common.key_id, &algorithms, &jwk.algorithm);
        Some(Self {
            fingerprint: fingerprint(&serde_json::to_vec(&all).ok()?),
            id: common.key_id.clone(),
            algorithms,
            key,
        })
    }
}

fn fingerprint(of: &[u8]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, of).as_ref());
    fingerprint
}

/// A `kid` as a log may show it.
fn shown_kid(kid: &str) -> String {
    let plain = |letter: char| match letter {
        _ if letter.is_ascii_alphanumeric() || "-_.~+/=:@ ".contains(letter) => letter,
        _ => '?',
    };
    let shown: String = kid.chars().take(MOST_KID_LETTERS).map(plain).collect();
    let more = if kid.chars().count() > MOST_KID_LETTERS {
        "…"
    } else {
        ""
    };
    format!("\"{shown}{more}\"")
}

fn read(path: &Path, setting: &'static str) -> Result<Vec<u8>, KeyError> {
    config::files::read_at_most(path, MAX_FILE_BYTES).map_err(|error| KeyError::Unreadable {
        setting,
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALGORITHMS: [Algorithm; 2] = [Algorithm::ES256, Algorithm::EdDSA];

    /// The keys of `tests/fixtures`: an EC one, an Ed25519 one, and one of the future.
    fn fixture() -> Vec<Value> {
        let text = include_str!("../../tests/fixtures/keys/jwks.json");
        let set: Value = serde_json::from_str(text).expect("is JSON");
        set["keys"].as_array().cloned().expect("is a set")
    }

    fn read(keys: &[Value]) -> Read {
        let set = json!({ "keys": keys }).to_string();
        KeySet::read(set.as_bytes(), &ALGORITHMS).expect("is a set")
    }

    fn with(mut key: Value, changes: &Value) -> Value {
        for (name, value) in changes.as_object().expect("is an object") {
            key[name] = value.clone();
        }
        key
    }

    #[test]
    fn one_bad_key_takes_no_other_down() {
        let [ec, ed, _] = &fixture()[..] else {
            panic!("three keys")
        };
        for (bad, what) in [
            (with(ed.clone(), &json!({"d": "AAAA"})), "is a private key"),
            (with(ed.clone(), &json!({"p": "AAAA"})), "is a private key"),
            (
                with(ed.clone(), &json!({"priv": "AAAA"})),
                "is a private key",
            ),
            (json!({"kty": "oct", "k": "AAAA"}), "is a shared secret"),
            (
                with(ec.clone(), &json!({"kid": "x", "y": ec["x"]})),
                "isn't a public key of its kind",
            ),
            (with(ed.clone(), &json!({"kid": "ec-1"})), "has the same"),
        ] {
            let Read { keys, faults } = read(&[ec.clone(), bad]);
            assert_eq!(keys.len(), 1, "{what}");
            assert!(
                faults.len() == 1 && faults[0].what.starts_with(what),
                "{what}: {faults:?}"
            );
        }
    }

    #[test]
    fn keys_for_something_else_are_no_fault() {
        let [ec, ed, future] = &fixture()[..] else {
            panic!("three keys")
        };
        let Read { keys, faults } = read(&[
            ec.clone(),
            future.clone(),
            with(ed.clone(), &json!({"use": "enc"})),
            with(ed.clone(), &json!({"key_ops": ["sign"]})),
            with(ec.clone(), &json!({"alg": "ES384"})),
            json!(7),
        ]);
        assert_eq!((keys.len(), faults.len()), (1, 0));
    }

    #[test]
    fn what_is_no_set_is_none() {
        for text in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[],"keys":[]}"#,
        ] {
            assert!(
                KeySet::read(text.as_bytes(), &ALGORITHMS).is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn sets_are_equal_whatever_their_order_and_members_that_mean_nothing() {
        let [ec, ed, future] = &fixture()[..] else {
            panic!("three keys")
        };
        let usual = read(&[ec.clone(), ed.clone()]).keys;
        let same = read(&[
            future.clone(),
            ed.clone(),
            with(ec.clone(), &json!({"x5t": "a"})),
        ])
        .keys;
        assert!(usual.equals(&same) && usual.without(Some(&same)).is_empty());
        for other in [
            vec![ec.clone()],
            vec![ec.clone(), with(ed.clone(), &json!({"kid": "ed-2"}))],
            vec![
                ec.clone(),
                with(
                    ed.clone(),
                    &json!({"x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                ),
            ],
        ] {
            let other = read(&other).keys;
            assert!(!usual.equals(&other));
            assert_eq!(usual.without(Some(&other)), ["\"ed-1\""]);
        }
    }

    #[test]
    fn a_kid_chooses_and_a_key_without_one_is_anybodys() {
        let [ec, ed, _] = &fixture()[..] else {
            panic!("three keys")
        };
        let mut unnamed = ec.clone();
        unnamed.as_object_mut().expect("an object").remove("kid");
        let keys = read(&[ec.clone(), unnamed.clone(), unnamed, ed.clone()]).keys;
        let found = |kid: Option<&str>, algorithm| {
            let found = keys.candidates(kid, algorithm);
            (found.keys.len(), found.named)
        };
        assert_eq!(found(Some("ec-1"), Algorithm::ES256), (3, true));
        assert_eq!(found(Some("ec-2"), Algorithm::ES256), (2, false));
        assert_eq!(found(None, Algorithm::ES256), (3, false));
        assert_eq!(found(Some("ed-1"), Algorithm::ES256), (2, true));
        assert_eq!(found(Some("ec-1"), Algorithm::EdDSA), (0, true));
        assert_eq!(found(Some("ed-1"), Algorithm::RS256), (0, true));
    }

    #[test]
    fn a_set_is_bounded_and_so_is_what_is_shown_of_a_kid() {
        let [ec, ..] = &fixture()[..] else {
            panic!("three keys")
        };
        let many: Vec<_> = (0..70)
            .map(|number| with(ec.clone(), &json!({ "kid": format!("k{number}") })))
            .collect();
        let Read { keys, faults } = read(&many);
        assert_eq!((keys.len(), faults.len()), (64, 6));
        assert_eq!(shown_kid("a\n\"b\u{1b}[31m"), "\"a??b??31m\"");
        assert_eq!(
            shown_kid(&"k".repeat(5000)),
            format!("\"{}…\"", "k".repeat(40))
        );
    }
}
