//! The keys of one issuer: a JWK Set from a file (RFC 7517), one public key in
//! PEM, or a shared secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

use crate::config::{self, secret::SecretError};

use super::soundness;

/// HS256's hash is 32 bytes, and a shorter key is weaker than it (RFC 7518 §3.2).
const MIN_SECRET_BYTES: usize = 32;

/// An issuer's verification keys.
pub(crate) struct KeySet(Vec<Key>);

struct Key {
    /// None for a key that stands alone in its file: it serves any `kid`.
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
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
    /// No source of keys that this version can use.
    #[error("this issuer has no keys; set `jwks_file`, `public_key_file` or `secret`")]
    NoSource,
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
            Self::NoSource => "issuer",
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
        Ok(Self(vec![Key {
            id: None,
            algorithms: issuer.algorithms.clone(),
            key: DecodingKey::from_secret(bytes),
        }]))
    }

    fn from_jwks(path: &Path, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        /// A set with a key of a kind that we don't know is still a set (RFC 7517 §5).
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let bytes = read(path, "jwks_file")?;
        let set: Set = serde_json::from_slice(&bytes).map_err(|_| KeyError::Malformed {
            setting: "jwks_file",
            path: path.to_owned(),
            expected: "a JWK Set: {\"keys\": [...]} (RFC 7517 §5)",
        })?;
        let mut keys: Vec<Key> = Vec::new();
        for (index, value) in set.keys.into_iter().enumerate() {
            let unsound = |kid: Option<&str>, what| KeyError::Unsound {
                path: path.to_owned(),
                kid: kid.map_or_else(|| format!("number {}", index + 1), |kid| format!("{kid:?}")),
                what,
            };
            if value.get("d").is_some() {
                let kid = value.get("kid").and_then(serde_json::Value::as_str);
                let what = "is a private key; give the gateway the public one only, and make a new pair: this one has been seen";
                return Err(unsound(kid, what));
            }
            let Some(jwk) = serde_json::from_value::<Jwk>(value).ok() else {
                continue;
            };
            let kid = jwk.common.key_id.as_deref();
            let Some(key) = Key::from_jwk(&jwk, algorithms) else {
                continue;
            };
            if !soundness::of_jwk(&jwk) {
                return Err(unsound(
                    kid,
                    "isn't a public key of its kind (RSA needs 2048 bits, EC a point on its curve); export it again",
                ));
            }
            if keys.iter().any(|other| other.id == key.id) {
                return Err(unsound(kid, "has the same `kid` as another; remove one"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            Err(KeyError::NoUsableKey(path.to_owned()))
        } else {
            Ok(Self(keys))
        }
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
        Ok(Self(vec![Key {
            id: None,
            algorithms: algorithms.to_vec(),
            key,
        }]))
    }

    /// The keys that may have signed a token with that header: by `kid` where the
    /// token names one, else all that fit the algorithm.
    pub(crate) fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        self.0
            .iter()
            .filter(move |key| key.algorithms.contains(&algorithm))
            .filter(move |key| match (kid, key.id.as_deref()) {
                (Some(wanted), Some(id)) => wanted == id,
                _ => true,
            })
            .map(|key| &key.key)
    }
}

impl Key {
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
            // A shared secret has no business in a set of public keys.
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
        Some(Self {
            id: common.key_id.clone(),
            algorithms,
            key,
        })
    }
}

fn read(path: &Path, setting: &'static str) -> Result<Vec<u8>, KeyError> {
    fs::read(path).map_err(|error| KeyError::Unreadable {
        setting,
        path: path.to_owned(),
        error,
    })
}
