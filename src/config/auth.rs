//! `auth`: whose tokens are believed.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use url::{Host, Url};

use super::{document::Checker, secret::SecretSource, units};

/// A larger one would keep tokens alive long after their end.
const MAX_LEEWAY: Duration = Duration::from_secs(600);

/// Shorter intervals would be a load on the provider and gain nothing.
const MIN_REFRESH: Duration = Duration::from_secs(10);
/// A key that was taken back would be believed for longer than a token lives.
const MAX_REFRESH: Duration = Duration::from_secs(3600);
/// Longer waits for a provider would pile requests up.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// How keys are fetched from providers.
    pub jwks: Jwks,
    /// At least one; no default.
    pub issuers: Vec<Issuer>,
}

/// `auth.jwks`: keys that are fetched, for issuers with `jwks_url` or `discovery`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwks {
    /// How long after its removal by the provider a key may still be believed, while the provider
    /// answers. Keys are fetched about twice as often. Default 5 min.
    #[serde(deserialize_with = "units::duration")]
    pub refresh: Duration,
    /// How long keys are believed while the provider doesn't answer. Default 24 h.
    #[serde(deserialize_with = "units::duration")]
    pub keep_for: Duration,
    /// For one fetch, discovery included, and for a request that waits for one. Default 5 s.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// Whether a provider on this machine may be asked without TLS. Default no.
    pub allow_loopback_http: bool,
}

/// One of `auth.issuers`. Its keys come from exactly one of `jwks_url`, `discovery`,
/// `jwks_file`, `public_key_file` and `secret`.
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
    /// Whether that address is asked of the issuer itself (OpenID Connect Discovery 1.0 §4).
    /// Default no.
    pub discovery: bool,
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
            jwks: Jwks::default(),
            issuers: Vec::new(),
        }
    }
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            keep_for: Duration::from_secs(24 * 3600),
            timeout: Duration::from_secs(5),
            allow_loopback_http: false,
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
    /// The files that issuers' keys and secrets are in.
    #[must_use]
    pub fn files(&self, base_dir: &Path) -> Vec<PathBuf> {
        let of = |issuer: &Issuer| {
            let secret = issuer.secret.as_ref().and_then(SecretSource::file);
            [
                issuer.jwks_file.clone(),
                issuer.public_key_file.clone(),
                secret.map(|file| base_dir.join(file)),
            ]
        };
        self.issuers.iter().flat_map(of).flatten().collect()
    }

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
            "needs at least one issuer: `issuer`, `audience`, `algorithms`, and `jwks_url`, `discovery`, `jwks_file`, `public_key_file` or `secret`",
        );
        self.jwks.check(at);
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
            issuer.check(&key, &self.jwks, at);
        }
    }
}

impl Jwks {
    fn check(&self, at: &mut Checker<'_>) {
        at.require(
            (MIN_REFRESH..=MAX_REFRESH).contains(&self.refresh),
            "auth.jwks.refresh",
            "must be from 10s to 1h: so long a key is believed that its issuer has taken back",
        );
        at.require(
            self.keep_for >= self.refresh,
            "auth.jwks.keep_for",
            "must be at least auth.jwks.refresh, or keys would be dropped between two fetches",
        );
        at.require(
            !self.timeout.is_zero() && self.timeout <= MAX_TIMEOUT,
            "auth.jwks.timeout",
            "must be longer than 0 and at most 30s: requests wait for it",
        );
    }

    /// Whether keys may be fetched from there: https, or http on this machine where that is
    /// allowed; without a user.
    #[must_use]
    pub fn admits(&self, url: &Url) -> bool {
        let secure = url.scheme() == "https"
            || (self.allow_loopback_http && url.scheme() == "http" && is_loopback(url));
        secure && url.has_host() && url.username().is_empty() && url.password().is_none()
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(host)) => host == "localhost" || host.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Issuer {
    /// Where the issuer's discovery document is; none where its name is no address
    /// (OpenID Connect Discovery 1.0 §4.1).
    #[must_use]
    pub fn discovery_document(&self) -> Option<Url> {
        let issuer = Url::parse(&self.issuer).ok()?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return None;
        }
        let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        Url::parse(&format!("{base}/.well-known/openid-configuration")).ok()
    }

    fn check(&self, key: &str, jwks: &Jwks, at: &mut Checker<'_>) {
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
        self.check_keys(key, jwks, at);
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

    fn check_keys(&self, key: &str, jwks: &Jwks, at: &mut Checker<'_>) {
        let sources = [
            ("jwks_url", self.jwks_url.is_some()),
            ("discovery", self.discovery),
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
                "has no keys; set one of `jwks_url`, `discovery`, `jwks_file`, `public_key_file` and `secret`",
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
                at.mistake(&key, "with `secret` only HS256, HS384 and HS512 are possible; for others set `jwks_url`, `discovery`, `jwks_file` or `public_key_file`");
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
                jwks.admits(url),
                &format!("{key}.jwks_url"),
                "must be https, without a user: whoever changes the answer on its way could sign tokens (auth.jwks.allow_loopback_http admits http on this machine)",
            );
        }
        if set == ["discovery"] && !self.issuer.is_empty() {
            at.require(
                self.discovery_document()
                    .is_some_and(|url| jwks.admits(&url)),
                &format!("{key}.discovery"),
                "needs an `issuer` that is an https address without a user, `?` or `#`; for others set `jwks_url`",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine_and_only_where_it_is_allowed() {
        let admits = |allow_loopback_http, url: &str| {
            let jwks = Jwks {
                allow_loopback_http,
                ..Jwks::default()
            };
            jwks.admits(&Url::parse(url).expect("is an address"))
        };
        for url in ["https://id.example.com/jwks", "https://10.0.0.1:8443/jwks"] {
            assert!(admits(false, url) && admits(true, url), "{url}");
        }
        for url in [
            "http://127.0.0.1:1/jwks",
            "http://[::1]/jwks",
            "http://localhost/jwks",
            "http://id.localhost/jwks",
        ] {
            assert!(!admits(false, url) && admits(true, url), "{url}");
        }
        for url in [
            "http://id.example.com/jwks",
            "http://localhost.example.com/jwks",
            "http://10.0.0.1/jwks",
            "http://0.0.0.0/jwks",
            "https://user@id.example.com/jwks",
            "https://:word@id.example.com/jwks",
            "ftp://localhost/jwks",
            "file:///etc/jwks.json",
            "data:application/json,{}",
        ] {
            assert!(!admits(false, url) && !admits(true, url), "{url}");
        }
    }

    #[test]
    fn the_discovery_document_stands_below_the_issuer() {
        let document = |issuer: &str| {
            let issuer = Issuer {
                issuer: issuer.to_owned(),
                ..Issuer::default()
            };
            issuer.discovery_document().map(String::from)
        };
        for (issuer, expected) in [
            (
                "https://id.example.com",
                "https://id.example.com/.well-known/openid-configuration",
            ),
            (
                "https://id.example.com/",
                "https://id.example.com/.well-known/openid-configuration",
            ),
            (
                "https://id.example.com/realms/a/",
                "https://id.example.com/realms/a/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(document(issuer).as_deref(), Some(expected));
        }
        for issuer in [
            "accounts",
            "https://id.example.com/?a=b",
            "https://id.example.com/#a",
        ] {
            assert_eq!(document(issuer), None, "{issuer}");
        }
    }
}
