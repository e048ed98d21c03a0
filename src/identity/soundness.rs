//! Whether a public key is one that tokens can be verified with at all. A library that
//! verifies finds out at the first token; an operator wants to know at the start.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64_simd::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};

/// What is verified with (2048 to 8192 bits).
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Whether a JWK's numbers are a key.
pub(super) fn of_jwk(jwk: &Jwk) -> bool {
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode_to_vec(text).unwrap_or_default();
    match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => {
            let modulus = bytes(&key.n);
            let leading = modulus.iter().take_while(|byte| **byte == 0).count();
            RSA_BYTES.contains(&(modulus.len() - leading))
                && bytes(&key.e).last().is_some_and(|last| last % 2 == 1)
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let algorithm: &'static dyn VerificationAlgorithm = match key.curve {
                EllipticCurve::P256 => &ECDSA_P256_SHA256_FIXED,
                EllipticCurve::P384 => &ECDSA_P384_SHA384_FIXED,
                _ => return false,
            };
            // An uncompressed point (SEC 1 §2.3.3).
            let point = [&[4], &*bytes(&key.x), &*bytes(&key.y)].concat();
            ParsedPublicKey::new(algorithm, point).is_ok()
        }
        AlgorithmParameters::OctetKeyPair(key) => {
            key.curve == EllipticCurve::Ed25519
                && ParsedPublicKey::new(&ED25519, bytes(&key.x)).is_ok()
        }
        _ => false,
    }
}

/// Whether a PEM holds a public key for all of those algorithms.
pub(super) fn of_pem(pem: &[u8], algorithms: &[Algorithm]) -> bool {
    let Some(der) = der(pem) else { return false };
    algorithms.iter().all(|algorithm| {
        let algorithm: &'static dyn VerificationAlgorithm = match algorithm {
            Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &ED25519,
            _ => &RSA_PKCS1_2048_8192_SHA256,
        };
        ParsedPublicKey::new(algorithm, &der).is_ok()
    })
}

/// The bytes of the first public key in a PEM (RFC 7468).
fn der(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END")?;
    let base64: String = body.split_ascii_whitespace().collect();
    matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY")
        .then(|| STANDARD.decode_to_vec(base64).ok())
        .flatten()
}
