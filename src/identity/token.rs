//! The checks of one token, in order: form, header, issuer, claims, signature
//! (RFC 7515, RFC 7519, RFC 8725). The signature comes last, since it costs most and may
//! cost a fetch of keys; until it holds, nobody gets the claims.

use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use crate::i_json;

use super::{Issuer, claims::Claims, keys::KeySet};

/// Longer than any real token, short enough to cost nothing (contract section 3).
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

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
    /// Not three parts of base64url with JSON inside, or a name twice in it.
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
struct Header {
    algorithm: String,
    kid: Option<String>,
}

/// A token whose every check passed but the last: nobody has signed it yet.
pub(super) struct Unproved<'a> {
    /// Its issuer's place among the issuers.
    pub issuer: usize,
    kid: Option<String>,
    algorithm: Algorithm,
    message: &'a str,
    signature: &'a str,
    proved: Proved,
}

/// What a token says that its issuer has signed.
#[derive(Clone)]
pub(super) struct Proved {
    pub claims: Claims,
    /// The later of `nbf` and `iat`, in seconds since 1970.
    pub valid_from: i64,
}

/// Why no key of a set proves a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    /// What the caller is told if it stays so.
    pub invalid: InvalidToken,
    /// Whether the token may be signed with a key that isn't in this set: it names none that is.
    pub key_may_be_new: bool,
}

impl<'a> Unproved<'a> {
    /// Reads a token and checks all but its signature.
    pub(super) fn read(
        token: &'a str,
        issuers: &[Issuer],
        now: i64,
        leeway: i64,
    ) -> Result<Self, InvalidToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken::Malformed)?;
        let header = Header::read(decode(header)?)?;
        let payload = decode(payload)?;
        let (index, issuer) = payload
            .get("iss")
            .and_then(Value::as_str)
            .and_then(|iss| {
                let mut issuers = issuers.iter().enumerate();
                issuers.find(|(_, issuer)| &*issuer.name == iss)
            })
            .ok_or(InvalidToken::UnknownIssuer)?;
        let algorithm: Algorithm = header
            .algorithm
            .parse()
            .map_err(|_| InvalidToken::Algorithm)?;
        if !issuer.settings.algorithms.contains(&algorithm) {
            return Err(InvalidToken::Algorithm);
        }
        Ok(Self {
            issuer: index,
            kid: header.kid,
            algorithm,
            message,
            signature,
            proved: check_claims(payload, issuer, now, leeway)?,
        })
    }

    /// The name of the key that the token says to be signed with.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The claims, if one of those keys has signed them.
    pub(super) fn prove(&self, keys: &KeySet) -> Result<Proved, Doubt> {
        let candidates = keys.candidates(self.kid.as_deref(), self.algorithm);
        let signed = |key| {
            crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm)
                .unwrap_or(false)
        };
        if candidates.keys.iter().copied().any(signed) {
            return Ok(self.proved.clone());
        }
        Err(Doubt {
            invalid: if candidates.keys.is_empty() {
                InvalidToken::UnknownKey
            } else {
                InvalidToken::Signature
            },
            key_may_be_new: !candidates.named,
        })
    }
}

impl Header {
    fn read(members: Map<String, Value>) -> Result<Self, InvalidToken> {
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(InvalidToken::Malformed),
        };
        let algorithm = text("alg")?.ok_or(InvalidToken::Malformed)?;
        let kid = text("kid")?;
        let is_jwt = text("typ")?.is_none_or(|typ| {
            let typ = typ.strip_prefix("application/").unwrap_or(&typ);
            typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")
        });
        // An extension that must be understood, or a payload that isn't base64url (RFC 7797).
        if !is_jwt || members.contains_key("crit") || members.contains_key("b64") {
            return Err(InvalidToken::UnsupportedHeader);
        }
        Ok(Self { algorithm, kid })
    }
}

fn check_claims(
    claims: Map<String, Value>,
    issuer: &Issuer,
    now: i64,
    leeway: i64,
) -> Result<Proved, InvalidToken> {
    let settings = &issuer.settings;
    let meant_for_us = match claims.get("aud") {
        Some(Value::String(audience)) => settings.audience.contains(audience),
        Some(Value::Array(audiences)) => audiences
            .iter()
            .filter_map(Value::as_str)
            .any(|audience| settings.audience.iter().any(|ours| ours == audience)),
        _ => false,
    };
    if !meant_for_us {
        return Err(InvalidToken::Audience);
    }
    let expires_at = numeric_date(&claims, "exp")?.ok_or(InvalidToken::NoExpiry)?;
    let (nbf, iat) = (numeric_date(&claims, "nbf")?, numeric_date(&claims, "iat")?);
    let valid_from = nbf.max(iat).unwrap_or(i64::MIN);
    is_timely(expires_at, valid_from, now, leeway)?;
    let subject = match claims.get("sub") {
        Some(Value::String(subject)) if !subject.is_empty() => subject.as_str().into(),
        None | Some(Value::String(_) | Value::Null) => return Err(InvalidToken::NoSubject),
        Some(_) => return Err(InvalidToken::ClaimType),
    };
    let claims = Claims::read(
        settings,
        issuer.is_the_only_one,
        subject,
        expires_at,
        claims,
    );
    Ok(Proved { claims, valid_from })
}

/// Whether a token is of now, as far as clocks agree.
pub(super) fn is_timely(
    expires_at: i64,
    valid_from: i64,
    now: i64,
    leeway: i64,
) -> Result<(), InvalidToken> {
    if now >= expires_at.saturating_add(leeway) {
        Err(InvalidToken::Expired)
    } else if valid_from > now.saturating_add(leeway) {
        Err(InvalidToken::NotYetValid)
    } else {
        Ok(())
    }
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

fn decode(part: &str) -> Result<Map<String, Value>, InvalidToken> {
    let json = URL_SAFE_NO_PAD
        .decode_to_vec(part.as_bytes())
        .map_err(|_| InvalidToken::Malformed)?;
    match i_json::parse(&json) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(InvalidToken::Malformed),
    }
}
