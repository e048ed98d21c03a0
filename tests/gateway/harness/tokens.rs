//! Tokens of three issuers: RS256 with a PEM, ES256 and EdDSA with a JWK Set, HS256
//! with a secret.

use std::fs;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use super::{fixture, leaks};

/// The shared secret of the third issuer.
pub const HS_SECRET: &str = "a shared secret of forty-two bytes, no less";

/// Who signs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    Rs256,
    Es256,
    EdDsa,
    Hs256,
}

impl Signer {
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::EdDsa, Self::Hs256];

    pub fn issuer(self) -> &'static str {
        match self {
            Self::Rs256 => "https://rsa.example.com/",
            Self::Es256 | Self::EdDsa => "https://ec.example.com/",
            Self::Hs256 => "https://hs.example.com/",
        }
    }

    pub fn header(self) -> Header {
        let (algorithm, kid) = match self {
            Self::Rs256 => (Algorithm::RS256, None),
            Self::Es256 => (Algorithm::ES256, Some("ec-1")),
            Self::EdDsa => (Algorithm::EdDSA, Some("ed-1")),
            Self::Hs256 => (Algorithm::HS256, None),
        };
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        header
    }

    pub fn key(self) -> EncodingKey {
        let pem = |name: &str| fs::read(fixture("keys").join(name)).unwrap();
        match self {
            Self::Rs256 => EncodingKey::from_rsa_pem(&pem("rs256.private.pem")),
            Self::Es256 => EncodingKey::from_ec_pem(&pem("es256.private.pem")),
            Self::EdDsa => EncodingKey::from_ed_pem(&pem("eddsa.private.pem")),
            Self::Hs256 => Ok(EncodingKey::from_secret(HS_SECRET.as_bytes())),
        }
        .unwrap()
    }
}

/// Claims of `ana`, who may do everything for `carper` for an hour after `now`.
pub fn claims(signer: Signer, now: i64) -> Map<String, Value> {
    let claims = json!({
        "iss": signer.issuer(), "aud": "llavero", "sub": "ana",
        "iat": now, "exp": now + 3600,
        "tenant": "carper", "scope": "ordenes:read ordenes:write imagenes:write",
    });
    claims.as_object().unwrap().clone()
}

/// With other claims in the place of the usual; null takes one away.
pub fn with(mut claims: Map<String, Value>, changes: &Value) -> Map<String, Value> {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.remove(name);
        } else {
            claims.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// A signed token, registered as a secret.
pub fn sign(header: &Header, claims: &Map<String, Value>, key: &EncodingKey) -> String {
    let token = encode(header, claims, key).unwrap();
    leaks::register_token(&token);
    token
}
