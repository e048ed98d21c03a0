//! `auth`: whose tokens are believed.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use url::Url;

use super::{document::Checker, secret::SecretSource, units};

/// A larger one would keep tokens alive long after their end.
const MAX_LEEWAY: Duration = Duration::from_secs(600);

/// What a token may allow (contract section 3).
const SCOPES: [&str; 5] = [
    "ordenes:read",
    "ordenes:write",
    "imagenes:write",
    "proxy:read",
    "proxy:write",
];

/// `auth`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// How far clocks may differ. Default 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub leeway: Duration,
    /// At least one; no default.
    pub issuers: Vec<Issuer>,
}

/// One of `auth.issuers`. Its keys come from exactly one of `jwks_url`, `jwks_file`,
/// `public_key_file` and `secret`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Issuer {
    /// The `iss` of its tokens, letter for letter (RFC 7519 §4.1.1).
    pub issuer: String,
    /// What `aud` must have one of.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// The algorithms that its signatures may have; no others are tried.
    pub algorithms: Vec<Algorithm>,
    /// The address of its JWK Set (RFC 7517 §5).
    #[serde(deserialize_with = "address")]
    pub jwks_url: Option<Url>,
    /// The same in a file.
    pub jwks_file: Option<PathBuf>,
    /// One public key, in PEM.
    pub public_key_file: Option<PathBuf>,
    /// The shared secret of HS* algorithms.
    pub secret: Option<SecretSource>,
    /// Where its tokens say what we ask.
    pub claims: Claims,
    /// What its tokens allow where they name no scope. Default nothing.
    pub default_scopes: Vec<String>,
}

/// `auth.issuers[].claims`: dotted paths in the token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claims {
    /// The tenants. Default `tenant`.
    pub tenant: String,
    /// The scopes. Default `scope`.
    pub scope: String,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            leeway: Duration::from_secs(30),
            issuers: Vec::new(),
        }
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            tenant: "tenant".to_owned(),
            scope: "scope".to_owned(),
        }
    }
}

impl Auth {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        at.require(
            self.leeway <= MAX_LEEWAY,
            "auth.leeway",
            "must be at most 10m: tokens would be accepted that long after their end",
        );
        at.require(
            !self.issuers.is_empty(),
            "auth.issuers",
            "needs at least one issuer: `issuer`, `audience`, `algorithms`, and `jwks_file`, `public_key_file` or `secret`",
        );
        let mut seen = BTreeSet::new();
        for (index, issuer) in self.issuers.iter().enumerate() {
            let key = format!("auth.issuers[{index}]");
            if issuer.issuer.is_empty() {
                at.mistake(
                    &format!("{key}.issuer"),
                    "is missing; write the `iss` of this issuer's tokens",
                );
            } else if !seen.insert(&issuer.issuer) {
                at.mistake(
                    &format!("{key}.issuer"),
                    "is another entry's issuer already; make them one",
                );
            }
            issuer.check(&key, at);
        }
    }
}

impl Issuer {
    fn check(&self, key: &str, at: &mut Checker<'_>) {
        at.require(
            !self.audience.is_empty() && self.audience.iter().all(|audience| !audience.is_empty()),
            &format!("{key}.audience"),
            "is missing; write the `aud` that tokens for this gateway have, e.g. [llavero]",
        );
        at.require(
            !self.algorithms.is_empty(),
            &format!("{key}.algorithms"),
            "is missing; write what the issuer signs with, e.g. [RS256]",
        );
        self.check_keys(key, at);
        for (name, path) in [
            ("tenant", &self.claims.tenant),
            ("scope", &self.claims.scope),
        ] {
            at.require(
                !path.is_empty(),
                &format!("{key}.claims.{name}"),
                "must be a claim's name, or a dotted path to it",
            );
        }
        for (index, scope) in self.default_scopes.iter().enumerate() {
            if !SCOPES.contains(&scope.as_str()) {
                at.unknown_word(&format!("{key}.default_scopes[{index}]"), scope, &SCOPES);
            }
        }
    }

    fn check_keys(&self, key: &str, at: &mut Checker<'_>) {
        let sources = [
            ("jwks_url", self.jwks_url.is_some()),
            ("jwks_file", self.jwks_file.is_some()),
            ("public_key_file", self.public_key_file.is_some()),
            ("secret", self.secret.is_some()),
        ];
        let set: Vec<&str> = sources
            .iter()
            .filter(|(_, set)| *set)
            .map(|(name, _)| *name)
            .collect();
        match set.as_slice() {
            [] => at.mistake(
                key,
                "has no keys; set one of `jwks_file`, `public_key_file` and `secret`",
            ),
            [_] => {}
            several => at.mistake(
                key,
                format!("has keys from {}; keep one", several.join(" and ")),
            ),
        }
        let secret_told = at.is_told(&format!("{key}.secret"));
        for (index, algorithm) in self.algorithms.iter().enumerate() {
            let shared = algorithm.family() == AlgorithmFamily::Hmac;
            let key = format!("{key}.algorithms[{index}]");
            // A public key taken for a shared secret would let anybody sign (RFC 8725 §2.1).
            if shared && self.secret.is_none() && !set.is_empty() && !secret_told {
                at.mistake(&key, "HS* needs `secret`; for public keys write what the issuer signs with, e.g. RS256");
            } else if !shared && set == ["secret"] {
                at.mistake(&key, "with `secret` only HS256, HS384 and HS512 are possible; for others set `jwks_file` or `public_key_file`");
            }
        }
        if let (Some(_), Some(first)) = (&self.public_key_file, self.algorithms.first()) {
            for (index, algorithm) in self.algorithms.iter().enumerate().skip(1) {
                at.require(
                    algorithm.family() == first.family() && (first.family() != AlgorithmFamily::Ec || algorithm == first),
                    &format!("{key}.algorithms[{index}]"),
                    "is for another kind of key than the first; one PEM file has one key: keep those that fit it",
                );
            }
        }
        if let Some(url) = &self.jwks_url {
            at.require(
                url.scheme() == "https" && url.username().is_empty() && url.password().is_none(),
                &format!("{key}.jwks_url"),
                "must be https, without a user: whoever changes the answer on its way could sign tokens",
            );
        }
    }
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    units::from_text(
        from,
        "an address such as https://id.example.com/.well-known/jwks.json",
        |text| Url::parse(text).ok(),
    )
    .map(Some)
}

/// A list of texts, or one text for a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts, e.g. [llavero]")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    from.deserialize_seq(Texts)
}
