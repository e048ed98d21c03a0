//! The checks of one token, in order: form, header, issuer, signature, claims
//! (RFC 7515, RFC 7519, RFC 8725).

use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, crypto};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Issuer,
    claims::{Claims, lookup, word_list},
};

/// Longer than any real token, short enough to cost nothing (contract section 3).
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why a token isn't accepted. The words are for the caller: they say which
/// check failed and repeat nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Over 8 KiB.
    #[error("the token is over 8 KiB")]
    TooLong,
    /// More than one `Authorization` field.
    #[error("the header `Authorization` was sent more than once")]
    Several,
    /// Not three parts of base64url with JSON inside.
    #[error("the token is not a signed JWT in compact form")]
    Malformed,
    /// A `typ` of something else, or a critical extension (RFC 7515 §4.1.11).
    #[error("the token's header asks for something that isn't supported (`typ` or `crit`)")]
    UnsupportedHeader,
    /// `iss` is missing or isn't configured.
    #[error("the token's issuer isn't one of this gateway's")]
    UnknownIssuer,
    /// `alg` isn't one that the issuer is pinned to.
    #[error("the token is signed with an algorithm that its issuer isn't configured for")]
    Algorithm,
    /// No key of the issuer has the token's `kid`.
    #[error("the token names a signing key that its issuer doesn't have")]
    UnknownKey,
    /// The signature doesn't hold.
    #[error("the token's signature isn't valid")]
    Signature,
    /// `aud` doesn't name this gateway.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` is missing.
    #[error("the token has no expiry (`exp`)")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("the token isn't valid yet (`nbf` or `iat`)")]
    NotYetValid,
    /// `sub` is missing.
    #[error("the token names no subject (`sub`)")]
    NoSubject,
    /// A registered claim has a value of the wrong type.
    #[error("one of the token's claims has a value of the wrong type")]
    ClaimType,
}

/// The members of the JOSE header that mean something here; `jku`, `jwk`, `x5u`
/// and `x5c` are ignored: a token doesn't bring its own key.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<Value>,
    #[serde(rename = "b64", default, deserialize_with = "present")]
    unencoded: Option<Value>,
}

/// A member that is there, null included.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

pub(super) fn verify(
    token: &str,
    issuers: &[Issuer],
    now: i64,
    leeway: i64,
) -> Result<Claims, InvalidToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(InvalidToken::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(InvalidToken::Malformed)?;
    let header: Header = decode(header)?;
    let payload: Map<String, Value> = decode(payload)?;

    let is_jwt = header.typ.as_deref().is_none_or(|typ| {
        let typ = typ.strip_prefix("application/").unwrap_or(typ);
        typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")
    });
    if !is_jwt || header.crit.is_some() || header.unencoded.is_some() {
        return Err(InvalidToken::UnsupportedHeader);
    }
    let issuer = payload
        .get("iss")
        .and_then(Value::as_str)
        .and_then(|iss| issuers.iter().find(|issuer| &*issuer.name == iss))
        .ok_or(InvalidToken::UnknownIssuer)?;
    let algorithm: Algorithm = header.alg.parse().map_err(|_| InvalidToken::Algorithm)?;
    if !issuer.algorithms.contains(&algorithm) {
        return Err(InvalidToken::Algorithm);
    }
    verify_signature(issuer, header.kid.as_deref(), algorithm, message, signature)?;
    check_claims(payload, issuer, now, leeway)
}

fn verify_signature(
    issuer: &Issuer,
    kid: Option<&str>,
    algorithm: Algorithm,
    message: &str,
    signature: &str,
) -> Result<(), InvalidToken> {
    let mut tried = false;
    for key in issuer.keys.candidates(kid, algorithm) {
        tried = true;
        if crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false) {
            return Ok(());
        }
    }
    Err(if tried {
        InvalidToken::Signature
    } else {
        InvalidToken::UnknownKey
    })
}

fn check_claims(
    claims: Map<String, Value>,
    issuer: &Issuer,
    now: i64,
    leeway: i64,
) -> Result<Claims, InvalidToken> {
    let meant_for_us = match claims.get("aud") {
        Some(Value::String(audience)) => issuer.audience.contains(audience),
        Some(Value::Array(audiences)) => audiences
            .iter()
            .filter_map(Value::as_str)
            .any(|audience| issuer.audience.iter().any(|ours| ours == audience)),
        _ => false,
    };
    if !meant_for_us {
        return Err(InvalidToken::Audience);
    }
    let expires_at = numeric_date(&claims, "exp")?.ok_or(InvalidToken::NoExpiry)?;
    if now >= expires_at.saturating_add(leeway) {
        return Err(InvalidToken::Expired);
    }
    for claim in ["nbf", "iat"] {
        if numeric_date(&claims, claim)?.is_some_and(|from| from > now.saturating_add(leeway)) {
            return Err(InvalidToken::NotYetValid);
        }
    }
    let subject = match claims.get("sub") {
        Some(Value::String(subject)) if !subject.is_empty() => subject.as_str().into(),
        None | Some(Value::String(_) | Value::Null) => return Err(InvalidToken::NoSubject),
        Some(_) => return Err(InvalidToken::ClaimType),
    };
    let scopes = lookup(&claims, &issuer.scope_claim)
        .map_or_else(|| issuer.default_scopes.clone(), word_list);
    let tenants = lookup(&claims, &issuer.tenant_claim)
        .map(word_list)
        .unwrap_or_default();
    Ok(Claims {
        issuer: issuer.name.clone(),
        subject,
        expires_at,
        tenants,
        scopes,
        all: claims.into(),
    })
}

/// A `NumericDate`: seconds, which may have a fraction (RFC 7519 §2).
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, InvalidToken> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    if let Some(seconds) = value.as_i64() {
        return Ok(Some(seconds));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` saturates, and that is what is meant"
    )]
    let whole = value.as_f64().map(|seconds| seconds.floor() as i64);
    whole.map(Some).ok_or(InvalidToken::ClaimType)
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, InvalidToken> {
    let json = URL_SAFE_NO_PAD
        .decode_to_vec(part.as_bytes())
        .map_err(|_| InvalidToken::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| InvalidToken::Malformed)
}
