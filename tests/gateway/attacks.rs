//! What is known against tokens (RFC 8725, and what libraries have had), each tried
//! with a signature that is good wherever the attack allows it, so that nothing but the attack
//! can be the reason. Every one is refused in the same form, and nothing reaches the ERP.

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    digest,
};
use base64_simd::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use num_bigint::BigUint;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    World, fixture, leaks,
    provider::{Key, Provider},
    tokens::{self, HS_SECRET, Signer},
};

/// The order of P-256's group (SEC 2 §2.4.2).
const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
/// The x coordinate of its generator.
const P256_GENERATOR_X: &str = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
/// The order of Ed25519's group (RFC 8032 §5.1).
const ED25519_ORDER: &str = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed";

// How the answers tell the checks apart.
const LONG: &str = "the token is over 8 KiB";
const FORM: &str = "the token is not a signed JWT in compact form";
const HEADER: &str = "the token's header asks for something that isn't supported (`typ` or `crit`)";
const ISSUER: &str = "the token's issuer isn't one of this gateway's";
const ALGORITHM: &str =
    "the token is signed with an algorithm that its issuer isn't configured for";
const KEY: &str = "the token names a signing key that its issuer doesn't have";
const SIGNATURE: &str = "the token's signature isn't valid";
const AUDIENCE: &str = "the token is for another audience";
const EXPIRY: &str = "the token has no expiry (`exp`)";
const EXPIRED: &str = "the token has expired";
const EARLY: &str = "the token isn't valid yet (`nbf` or `iat`)";
const SUBJECT: &str = "the token names no subject (`sub`)";
const TYPE: &str = "one of the token's claims has a value of the wrong type";

type Row = (&'static str, String, &'static str);

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

/// A token of exactly that header and payload, signed with a good key.
fn signed(header: &str, payload: &str, signer: Signer) -> String {
    signed_with(header, payload, &signer.key(), signer.header().alg)
}

fn signed_with(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Claims that are good at that time, as a payload.
fn payload(signer: Signer, now: i64, changes: &Value) -> String {
    let claims = tokens::with(tokens::claims(signer, now), changes);
    serde_json::to_string(&claims).unwrap()
}

/// The good token that an attack begins with.
struct Good {
    message: String,
    signature: Vec<u8>,
}

impl Good {
    fn of(signer: Signer, now: i64) -> Self {
        let header = match signer.header().kid {
            Some(kid) => json!({"alg": signer.header().alg, "typ": "JWT", "kid": kid}),
            None => json!({"alg": signer.header().alg, "typ": "JWT"}),
        };
        let token = signed(
            &header.to_string(),
            &payload(signer, now, &json!({})),
            signer,
        );
        let (message, signature) = token.rsplit_once('.').unwrap();
        Self {
            message: message.to_owned(),
            signature: URL_SAFE_NO_PAD.decode_to_vec(signature).unwrap(),
        }
    }

    fn token(&self) -> String {
        self.with(&self.signature)
    }

    fn with(&self, signature: &[u8]) -> String {
        format!("{}.{}", self.message, base64url(signature))
    }
}

fn number(hex: &str) -> BigUint {
    BigUint::parse_bytes(hex.as_bytes(), 16).unwrap()
}

/// 32 bytes, the most significant first.
fn bytes(number: &BigUint) -> [u8; 32] {
    let mut bytes = [0; 32];
    let significant = number.to_bytes_be();
    bytes[32 - significant.len()..].copy_from_slice(&significant);
    bytes
}

fn no_algorithm(now: i64) -> Vec<Row> {
    let good = Good::of(Signer::Es256, now);
    let claims = payload(Signer::Es256, now, &json!({}));
    let unsigned = |header: &str, signature: &[u8]| {
        format!(
            "{}.{}.{}",
            base64url(header),
            base64url(&claims),
            base64url(signature)
        )
    };
    vec![
        ("alg none", unsigned(r#"{"alg":"none"}"#, b""), ALGORITHM),
        ("alg None", unsigned(r#"{"alg":"None"}"#, b""), ALGORITHM),
        ("alg NONE", unsigned(r#"{"alg":"NONE"}"#, b""), ALGORITHM),
        ("alg nOnE", unsigned(r#"{"alg":"nOnE"}"#, b""), ALGORITHM),
        (
            "alg none and a blank",
            unsigned(r#"{"alg":"none "}"#, b""),
            ALGORITHM,
        ),
        ("alg empty", unsigned(r#"{"alg":""}"#, b""), ALGORITHM),
        ("alg null", unsigned(r#"{"alg":null}"#, b""), FORM),
        (
            "alg a list",
            unsigned(r#"{"alg":["none","ES256"]}"#, b""),
            FORM,
        ),
        ("no alg", unsigned(r#"{"typ":"JWT"}"#, b""), FORM),
        (
            "alg none with a signature",
            unsigned(r#"{"alg":"none"}"#, &good.signature),
            ALGORITHM,
        ),
        (
            "no signature",
            unsigned(r#"{"alg":"ES256","kid":"ec-1"}"#, b""),
            SIGNATURE,
        ),
        (
            "the signature cut off with its dot",
            good.message.clone(),
            FORM,
        ),
        (
            "the algorithm's name in small letters",
            { signed(r#"{"alg":"es256","kid":"ec-1"}"#, &claims, Signer::Es256) },
            ALGORITHM,
        ),
    ]
}

fn confused_algorithms(now: i64) -> Vec<Row> {
    let rsa = payload(Signer::Rs256, now, &json!({}));
    let ec = payload(Signer::Es256, now, &json!({}));
    let hs = payload(Signer::Hs256, now, &json!({}));
    let shared = |secret: &[u8]| EncodingKey::from_secret(secret);
    let hs_header = r#"{"alg":"HS256"}"#;
    let pem = std::fs::read(fixture("keys/rs256.public.pem")).unwrap();
    let trimmed = pem.trim_ascii_end().to_vec();
    let jwks = std::fs::read(fixture("keys/jwks.json")).unwrap();
    let hmac = |header: &str, claims: &str, secret: &[u8]| {
        signed_with(header, claims, &shared(secret), Algorithm::HS256)
    };
    vec![
        (
            "the public key's file as a secret",
            hmac(hs_header, &rsa, &pem),
            ALGORITHM,
        ),
        (
            "the same without its last line's end",
            hmac(hs_header, &rsa, &trimmed),
            ALGORITHM,
        ),
        (
            "the JWK Set as a secret",
            hmac(r#"{"alg":"HS256","kid":"ec-1"}"#, &ec, &jwks),
            ALGORITHM,
        ),
        ("an empty secret", hmac(hs_header, &hs, b""), SIGNATURE),
        (
            "another issuer's secret",
            hmac(hs_header, &ec, HS_SECRET.as_bytes()),
            ALGORITHM,
        ),
        (
            "HMAC under the name of RS256",
            hmac(r#"{"alg":"RS256"}"#, &rsa, &pem),
            SIGNATURE,
        ),
        (
            "HMAC under the name of ES256",
            hmac(r#"{"alg":"ES256","kid":"ec-1"}"#, &ec, &jwks),
            SIGNATURE,
        ),
        (
            "RSA where a secret is configured",
            signed(r#"{"alg":"RS256"}"#, &hs, Signer::Rs256),
            ALGORITHM,
        ),
        (
            "another padding of RSA than is pinned",
            signed_with(
                r#"{"alg":"PS256"}"#,
                &rsa,
                &Signer::Rs256.key(),
                Algorithm::PS256,
            ),
            ALGORITHM,
        ),
        (
            "another hash of RSA than is pinned",
            signed_with(
                r#"{"alg":"RS512"}"#,
                &rsa,
                &Signer::Rs256.key(),
                Algorithm::RS512,
            ),
            ALGORITHM,
        ),
        (
            "the other padding under the pinned name",
            signed_with(
                r#"{"alg":"RS256"}"#,
                &rsa,
                &Signer::Rs256.key(),
                Algorithm::PS256,
            ),
            SIGNATURE,
        ),
        (
            "EdDSA under the name of ES256",
            signed(r#"{"alg":"ES256","kid":"ed-1"}"#, &ec, Signer::EdDsa),
            KEY,
        ),
        (
            "an Ed25519 key under an EC key's name",
            signed(r#"{"alg":"EdDSA","kid":"ec-1"}"#, &ec, Signer::EdDsa),
            KEY,
        ),
        (
            "another issuer's key",
            signed(r#"{"alg":"ES256","kid":"ec-1"}"#, &rsa, Signer::Es256),
            ALGORITHM,
        ),
        (
            "an algorithm that nobody has",
            signed(r#"{"alg":"ES256K","kid":"ec-1"}"#, &ec, Signer::Es256),
            ALGORITHM,
        ),
    ]
}

/// Tokens that bring or point to the key that verifies them.
fn injected_keys(now: i64, attacker: &Key, elsewhere: &str) -> Vec<Row> {
    let claims = payload(Signer::Es256, now, &json!({}));
    let row = |what, mut header: Value, kid: Option<&str>, expected| {
        header["alg"] = json!("ES256");
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        let token = signed_with(
            &header.to_string(),
            &claims,
            &attacker.private,
            Algorithm::ES256,
        );
        (what, token, expected)
    };
    let jwk = json!({"alg": "", "jwk": attacker.public()});
    let jku = json!({"alg": "", "jku": elsewhere});
    let x5u = json!({"alg": "", "x5u": elsewhere});
    let x5c =
        json!({"alg": "", "x5c": ["MIIBszCCAVmgAwIBAgIUQ"], "x5t": "AAAA", "x5t#S256": "AAAA"});
    vec![
        row("jwk", jwk.clone(), None, SIGNATURE),
        row("jwk with a good kid", jwk.clone(), Some("ec-1"), SIGNATURE),
        row("jwk with its own kid", jwk, Some("attackers"), KEY),
        row("jku", jku.clone(), None, SIGNATURE),
        row("jku with a good kid", jku.clone(), Some("ec-1"), SIGNATURE),
        row("jku with its own kid", jku, Some("attackers"), KEY),
        row("x5u", x5u, Some("ec-1"), SIGNATURE),
        row("x5c", x5c, Some("ec-1"), SIGNATURE),
        row(
            "an address as kid",
            json!({"alg": ""}),
            Some(elsewhere),
            KEY,
        ),
    ]
}

fn odd_key_names(now: i64) -> Vec<Row> {
    let claims = payload(Signer::Es256, now, &json!({}));
    let row = |what, kid: Value, expected| {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        (what, signed(&header, &claims, Signer::Es256), expected)
    };
    vec![
        row("a path", json!("../../../../../../dev/null"), KEY),
        row("a path to a good key", json!("keys/../ec-1"), KEY),
        row("a coded path", json!("..%2f..%2fetc%2fpasswd"), KEY),
        row("a file's address", json!("file:///dev/null"), KEY),
        row("SQL", json!("' UNION SELECT 'AAAA' --"), KEY),
        row("SQL that is always true", json!("ec-1' OR '1'='1"), KEY),
        row("a command", json!("|/bin/true"), KEY),
        row("a template", json!("${jndi:ldap://127.0.0.1/a}"), KEY),
        row("a zero after a good name", json!("ec-1\u{0}"), KEY),
        row("a good name in other letters", json!("EC-1"), KEY),
        row("a blank after a good name", json!("ec-1 "), KEY),
        row("an empty name", json!(""), KEY),
        row("a line's end", json!("ec-1\r\nX: y"), KEY),
        row("four thousand letters", json!("k".repeat(4000)), KEY),
        row("a number", json!(0), FORM),
        row("a list", json!(["ec-1"]), FORM),
        row("an object", json!({"$ne": null}), FORM),
    ]
}

fn wrong_claims(now: i64) -> Vec<Row> {
    let row = |what, changes: Value, expected| {
        let header = r#"{"alg":"ES256","kid":"ec-1"}"#;
        let claims = payload(Signer::Es256, now, &changes);
        (what, signed(header, &claims, Signer::Es256), expected)
    };
    let iss = Signer::Es256.issuer();
    vec![
        row(
            "another iss",
            json!({"iss": "https://evil.example.com/"}),
            ISSUER,
        ),
        row(
            "iss without its slash",
            json!({"iss": iss.trim_end_matches('/')}),
            ISSUER,
        ),
        row(
            "iss in other letters",
            json!({"iss": iss.to_uppercase()}),
            ISSUER,
        ),
        row(
            "iss with more behind",
            json!({"iss": format!("{iss}.evil.example.com")}),
            ISSUER,
        ),
        row(
            "iss with a blank",
            json!({"iss": format!("{iss} ")}),
            ISSUER,
        ),
        row("iss as a list", json!({"iss": [iss]}), ISSUER),
        row(
            "iss as a list of several",
            json!({"iss": [iss, "https://evil.example.com/"]}),
            ISSUER,
        ),
        row("iss in an object", json!({"iss": {"value": iss}}), ISSUER),
        row("no iss", json!({"iss": null}), ISSUER),
        row("another aud", json!({"aud": "another"}), AUDIENCE),
        row("aud with more behind", json!({"aud": "llavero2"}), AUDIENCE),
        row("aud in other letters", json!({"aud": "Llavero"}), AUDIENCE),
        row(
            "several words in aud",
            json!({"aud": "llavero another"}),
            AUDIENCE,
        ),
        row("no aud", json!({"aud": null}), AUDIENCE),
        row("an empty aud", json!({"aud": []}), AUDIENCE),
        row(
            "aud in a list in a list",
            json!({"aud": [["llavero"]]}),
            AUDIENCE,
        ),
        row(
            "aud in an object",
            json!({"aud": {"llavero": true}}),
            AUDIENCE,
        ),
        row("aud as true", json!({"aud": true}), AUDIENCE),
        row("expired", json!({"exp": now - 30}), EXPIRED),
        row("expired long ago", json!({"exp": -1}), EXPIRED),
        row(
            "expired by a fraction",
            json!({"exp": (now - 31) as f64 + 0.5}),
            EXPIRED,
        ),
        row("no exp", json!({"exp": null}), EXPIRY),
        row(
            "exp as text",
            json!({"exp": (now + 3600).to_string()}),
            TYPE,
        ),
        row("exp as a list", json!({"exp": [now + 3600]}), TYPE),
        row("exp as true", json!({"exp": true}), TYPE),
        row("not yet valid", json!({"nbf": now + 31}), EARLY),
        row("nbf as text", json!({"nbf": "0"}), TYPE),
        row("nbf in an object", json!({"nbf": {"seconds": 0}}), TYPE),
        row(
            "iat far ahead",
            json!({"iat": now + 365 * 24 * 3600}),
            EARLY,
        ),
        row("iat a little ahead", json!({"iat": now + 31}), EARLY),
        row("iat as large as can be", json!({"iat": u64::MAX}), EARLY),
        row("iat as text", json!({"iat": "0"}), TYPE),
        row("no sub", json!({"sub": null}), SUBJECT),
        row("an empty sub", json!({"sub": ""}), SUBJECT),
        row("sub as a list", json!({"sub": ["ana"]}), TYPE),
        row("sub in an object", json!({"sub": {"id": "ana"}}), TYPE),
        row("sub as a number", json!({"sub": 7}), TYPE),
    ]
}

fn odd_headers(now: i64) -> Vec<Row> {
    let claims = payload(Signer::Es256, now, &json!({}));
    let row =
        |what, header: &str, expected| (what, signed(header, &claims, Signer::Es256), expected);
    vec![
        row(
            "typ of something else",
            r#"{"alg":"ES256","kid":"ec-1","typ":"secevent+jwt"}"#,
            HEADER,
        ),
        row(
            "typ JWE",
            r#"{"alg":"ES256","kid":"ec-1","typ":"JWE"}"#,
            HEADER,
        ),
        row(
            "typ of a proof",
            r#"{"alg":"ES256","kid":"ec-1","typ":"dpop+jwt"}"#,
            HEADER,
        ),
        row(
            "an empty typ",
            r#"{"alg":"ES256","kid":"ec-1","typ":""}"#,
            HEADER,
        ),
        row(
            "typ as a list",
            r#"{"alg":"ES256","kid":"ec-1","typ":["JWT"]}"#,
            FORM,
        ),
        row(
            "crit of a known claim",
            r#"{"alg":"ES256","kid":"ec-1","crit":["exp"],"exp":1}"#,
            HEADER,
        ),
        row(
            "crit of what nobody knows",
            r#"{"alg":"ES256","kid":"ec-1","crit":["http://x"],"http://x":1}"#,
            HEADER,
        ),
        row(
            "an empty crit",
            r#"{"alg":"ES256","kid":"ec-1","crit":[]}"#,
            HEADER,
        ),
        row(
            "crit null",
            r#"{"alg":"ES256","kid":"ec-1","crit":null}"#,
            HEADER,
        ),
        row(
            "crit as text",
            r#"{"alg":"ES256","kid":"ec-1","crit":"b64"}"#,
            HEADER,
        ),
        row(
            "crit of alg",
            r#"{"alg":"ES256","kid":"ec-1","crit":["alg"]}"#,
            HEADER,
        ),
        row(
            "b64 false",
            r#"{"alg":"ES256","kid":"ec-1","b64":false,"crit":["b64"]}"#,
            HEADER,
        ),
        row(
            "b64 false without crit",
            r#"{"alg":"ES256","kid":"ec-1","b64":false}"#,
            HEADER,
        ),
        row(
            "alg twice",
            r#"{"alg":"none","alg":"ES256","kid":"ec-1"}"#,
            FORM,
        ),
        row(
            "alg twice, none last",
            r#"{"alg":"ES256","kid":"ec-1","alg":"none"}"#,
            FORM,
        ),
        row(
            "alg twice in other letters",
            r#"{"alg":"ES256","kid":"ec-1","\u0061lg":"none"}"#,
            FORM,
        ),
        row(
            "kid twice",
            r#"{"alg":"ES256","kid":"ec-1","kid":"ec-1"}"#,
            FORM,
        ),
        row(
            "what means nothing twice",
            r#"{"alg":"ES256","kid":"ec-1","x":1,"x":2}"#,
            FORM,
        ),
        row(
            "a name twice deep inside",
            r#"{"alg":"ES256","kid":"ec-1","x":[{"y":1,"y":2}]}"#,
            FORM,
        ),
        row("a list", r#"["ES256"]"#, FORM),
        row("a text", r#""ES256""#, FORM),
        row("more behind", r#"{"alg":"ES256","kid":"ec-1"}{}"#, FORM),
        row(
            "a byte order mark",
            "\u{feff}{\"alg\":\"ES256\",\"kid\":\"ec-1\"}",
            FORM,
        ),
        row("nothing", "", FORM),
    ]
}

fn odd_payloads(now: i64) -> Vec<Row> {
    let row = |what, claims: &str, expected| {
        let header = r#"{"alg":"ES256","kid":"ec-1"}"#;
        (what, signed(header, claims, Signer::Es256), expected)
    };
    let good = payload(Signer::Es256, now, &json!({}));
    let with = |more: &str| format!("{}{more}}}", good.trim_end_matches('}'));
    let nested = signed(r#"{"alg":"ES256","kid":"ec-1"}"#, &good, Signer::Es256);
    vec![
        row("sub twice", &with(r#","sub":"root""#), FORM),
        row(
            "iss twice",
            &with(r#","iss":"https://evil.example.com/""#),
            FORM,
        ),
        row("exp twice", &with(r#","exp":9999999999"#), FORM),
        row("tenant twice", &with(r#","tenant":["norte"]"#), FORM),
        row(
            "scope twice in other letters",
            &with(r#","\u0073cope":"proxy:write""#),
            FORM,
        ),
        row(
            "a name twice deep inside",
            &with(r#","x":{"y":[{"z":1,"z":1}]}"#),
            FORM,
        ),
        row(
            "a thousand lists in one another",
            &with(&format!(",\"x\":{}{}", "[".repeat(1000), "]".repeat(1000))),
            FORM,
        ),
        row("a list", &format!("[{good}]"), FORM),
        row("null", "null", FORM),
        row("nothing", "", FORM),
        row("more behind", &format!("{good} 1"), FORM),
        row("a byte order mark", &format!("\u{feff}{good}"), FORM),
        row("a number that is none", &with(",\"exp2\":1e999"), FORM),
        row("half a letter", &with(r#","x":"\ud800""#), FORM),
        row("a token in a token", &nested, FORM),
    ]
}

fn broken_ecdsa(now: i64) -> Vec<Row> {
    let good = Good::of(Signer::Es256, now);
    let (r, s) = good.signature.split_at(32);
    let order = bytes(&number(P256_ORDER));
    let (zero, mut one) = ([0; 32], [0; 32]);
    one[31] = 1;
    let row = |what, parts: &[&[u8]]| (what, good.with(&parts.concat()), SIGNATURE);
    let over = |half: &[u8]| (BigUint::from_bytes_be(half) + number(P256_ORDER)).to_bytes_be();
    vec![
        row("r and s are 0", &[&zero, &zero]),
        row("r is 0", &[&zero, s]),
        row("s is 0", &[r, &zero]),
        row("r and s are the order", &[&order, &order]),
        row("r is the order", &[&order, s]),
        row("s is the order", &[r, &order]),
        row("r and s are 1", &[&one, &one]),
        row("r and s are all ones", &[&[255; 32], &[255; 32]]),
        row("r and s changed places", &[s, r]),
        row("r beyond the order, a byte longer", &[&over(r), s]),
        row("s beyond the order, a byte longer", &[r, &over(s)]),
        row("DER", &[&der(r, s)]),
        row("a byte short", &[r, &s[..31]]),
        row("a byte more behind", &[r, s, &[0]]),
        row("a zero before each half", &[&[0], r, &[0], s]),
        row("a zero before both", &[&[0], r, s]),
        row("twice", &[r, s, r, s]),
        row("half", &[r]),
        row("a point's first byte before", &[&[4], r, s]),
    ]
}

/// A signature as X.509 writes it (RFC 3279 §2.2.3).
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let mut bytes = BigUint::from_bytes_be(half).to_bytes_be();
        if bytes[0] >= 0x80 {
            bytes.insert(0, 0);
        }
        [&[2, bytes.len() as u8], &*bytes].concat()
    };
    let inner = [integer(r), integer(s)].concat();
    [&[0x30, inner.len() as u8], &*inner].concat()
}

fn broken_others(now: i64) -> Vec<Row> {
    let (ed, rsa, hs) = (
        Good::of(Signer::EdDsa, now),
        Good::of(Signer::Rs256, now),
        Good::of(Signer::Hs256, now),
    );
    let (r, s) = ed.signature.split_at(32);
    // Without the check of RFC 8032 §5.1.7, s plus the order is another good signature.
    let over = BigUint::from_bytes_le(s) + number(ED25519_ORDER);
    let mut over = over.to_bytes_le();
    over.resize(32, 0);
    let mut identity = [0; 64];
    identity[0] = 1;
    let mut flipped = rsa.signature.clone();
    flipped[100] ^= 1;
    vec![
        (
            "Ed25519: s beyond the order",
            ed.with(&[r, &over].concat()),
            SIGNATURE,
        ),
        ("Ed25519: zeros", ed.with(&[0; 64]), SIGNATURE),
        ("Ed25519: the neutral point", ed.with(&identity), SIGNATURE),
        (
            "Ed25519: a byte short",
            ed.with(&ed.signature[..63]),
            SIGNATURE,
        ),
        (
            "Ed25519: a byte more",
            ed.with(&[&*ed.signature, &[0]].concat()),
            SIGNATURE,
        ),
        ("RSA: one bit", rsa.with(&flipped), SIGNATURE),
        ("RSA: zeros", rsa.with(&[0; 256]), SIGNATURE),
        (
            "RSA: a one",
            rsa.with(&[&[0; 255][..], &[1]].concat()),
            SIGNATURE,
        ),
        (
            "RSA: a zero before",
            rsa.with(&[&[0], &*rsa.signature].concat()),
            SIGNATURE,
        ),
        (
            "RSA: a byte more",
            rsa.with(&[&*rsa.signature, &[0]].concat()),
            SIGNATURE,
        ),
        (
            "RSA: a byte short",
            rsa.with(&rsa.signature[..255]),
            SIGNATURE,
        ),
        ("HMAC: half", hs.with(&hs.signature[..16]), SIGNATURE),
        ("HMAC: nothing", hs.with(b""), SIGNATURE),
        (
            "HMAC: a byte more",
            hs.with(&[&*hs.signature, &[0]].concat()),
            SIGNATURE,
        ),
        (
            "another token's signature",
            {
                let other = payload(Signer::Es256, now, &json!({"tenant": "norte"}));
                let header = base64url(r#"{"alg":"ES256","typ":"JWT","kid":"ec-1"}"#);
                let good = Good::of(Signer::Es256, now);
                format!(
                    "{header}.{}.{}",
                    base64url(other),
                    base64url(&good.signature)
                )
            },
            SIGNATURE,
        ),
    ]
}

/// The same bits written otherwise: each would be another token to a memory or a block list.
fn rewritten(now: i64) -> Vec<Row> {
    let good = Good::of(Signer::Es256, now);
    let token = good.token();
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("three parts")
    };
    // The last of 86 letters has four bits that mean nothing.
    let next = |text: &str| {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (head, last) = text.split_at(text.len() - 1);
        let at = alphabet.iter().position(|it| [*it] == *last.as_bytes());
        format!("{head}{}", char::from(alphabet[at.unwrap() + 1]))
    };
    let plain = |text: &str| text.replace('-', "+").replace('_', "/");
    // Enough letters of the other alphabet stand in one of these for sure.
    let standard = (0..).find_map(|number| {
        let changes = json!({"jti": format!("{number}?>~")});
        let claims = payload(Signer::Es256, now, &changes);
        let token = signed(r#"{"alg":"ES256","kid":"ec-1"}"#, &claims, Signer::Es256);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode_to_vec(signature).unwrap();
        let standard = STANDARD_NO_PAD.encode_to_string(bytes);
        (standard != signature).then(|| format!("{message}.{standard}"))
    });
    vec![
        (
            "padding behind the signature",
            format!("{token}=="),
            SIGNATURE,
        ),
        ("one sign of padding", format!("{token}="), SIGNATURE),
        (
            "bits behind the signature's end",
            format!("{header}.{claims}.{}", next(signature)),
            SIGNATURE,
        ),
        ("the other alphabet", standard.unwrap(), SIGNATURE),
        ("a letter more", format!("{token}A"), SIGNATURE),
        (
            "padding behind the header",
            format!("{header}=.{claims}.{signature}"),
            FORM,
        ),
        (
            "padding behind the claims",
            format!("{header}.{claims}==.{signature}"),
            FORM,
        ),
        (
            "a blank in the header",
            format!("{} {}.{claims}.{signature}", &header[..4], &header[4..]),
            FORM,
        ),
        (
            "a blank before the claims",
            format!("{header}. {claims}.{signature}"),
            FORM,
        ),
        (
            "a tab before the signature",
            format!("{header}.{claims}.\t{signature}"),
            SIGNATURE,
        ),
        (
            "a blank in the signature",
            format!("{header}.{claims}.{} {}", &signature[..9], &signature[9..]),
            SIGNATURE,
        ),
        ("a coded blank", format!("{token}%20"), SIGNATURE),
        ("a coded dot", token.replace('.', "%2E"), FORM),
        ("a dot before", format!(".{token}"), FORM),
        ("a dot behind", format!("{token}."), FORM),
        ("two dots", format!("{header}..{claims}.{signature}"), FORM),
        (
            "the header in the other alphabet",
            {
                let header = r#"{"alg":"ES256","kid":"ec-1","x":"???>>>~~~"}"#;
                let token = signed(
                    header,
                    &payload(Signer::Es256, now, &json!({})),
                    Signer::Es256,
                );
                let (coded, rest) = token.split_once('.').unwrap();
                assert_ne!(plain(coded), coded);
                format!("{}.{rest}", plain(coded))
            },
            FORM,
        ),
        (
            "the header with padding, and signed so",
            {
                let header = URL_SAFE.encode_to_string(r#"{"alg":"ES256","kid":"ec-1" }"#);
                assert!(header.ends_with('='));
                let message = format!("{header}.{claims}");
                let signature =
                    crypto::sign(message.as_bytes(), &Signer::Es256.key(), Algorithm::ES256);
                format!("{message}.{}", signature.unwrap())
            },
            FORM,
        ),
        (
            "the header with bits behind its end, and signed so",
            {
                let header = next(&base64url(r#"{"alg":"ES256","kid":"ec-1" }"#));
                let message = format!("{header}.{claims}");
                let signature =
                    crypto::sign(message.as_bytes(), &Signer::Es256.key(), Algorithm::ES256);
                format!("{message}.{}", signature.unwrap())
            },
            FORM,
        ),
    ]
}

fn other_forms(now: i64) -> Vec<Row> {
    let good = Good::of(Signer::Es256, now);
    let token = good.token();
    let parts: Vec<&str> = token.split('.').collect();
    let jwe = base64url(r#"{"alg":"dir","enc":"A256GCM"}"#);
    let jwe_rsa = base64url(r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF","cty":"JWT"}"#);
    let json = json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]});
    let long = |bytes: usize| {
        let short = payload(Signer::Es256, now, &json!({"x": ""}));
        let signed = |letters: usize| {
            let claims = short.replace(r#""x":"""#, &format!(r#""x":"{}""#, "x".repeat(letters)));
            signed(r#"{"alg":"ES256","kid":"ec-1"}"#, &claims, Signer::Es256)
        };
        (bytes * 3 / 4 - 500..)
            .map(signed)
            .find(|token| token.len() >= bytes)
            .unwrap()
    };
    vec![
        (
            "JWE",
            format!(
                "{jwe}..{}.{}.{}",
                base64url([0; 12]),
                parts[1],
                base64url([0; 16])
            ),
            FORM,
        ),
        (
            "JWE with a key",
            format!(
                "{jwe_rsa}.AAAA.{}.{}.{}",
                base64url([0; 12]),
                parts[1],
                base64url([0; 16])
            ),
            FORM,
        ),
        (
            "JWE's header on a signed token",
            format!("{jwe}.{}.{}", parts[1], parts[2]),
            ALGORITHM,
        ),
        ("JWS as JSON", json.to_string(), FORM),
        ("one word", "abc".to_owned(), FORM),
        ("dots alone", "..".to_owned(), FORM),
        ("two parts", format!("{}.{}", parts[0], parts[1]), FORM),
        ("four parts", format!("{token}.{}", parts[2]), FORM),
        ("detached", format!("{}..{}", parts[0], parts[2]), FORM),
        ("a byte over 8 KiB", long(8 * 1024 + 1), LONG),
        ("14 KiB", long(14 * 1024), LONG),
        (
            "a good token and 8 KiB behind",
            format!("{token}{}", "A".repeat(8 * 1024)),
            LONG,
        ),
    ]
}

fn attacks(now: i64, attacker: &Key, elsewhere: &str) -> Vec<Row> {
    [
        no_algorithm(now),
        confused_algorithms(now),
        injected_keys(now, attacker, elsewhere),
        odd_key_names(now),
        wrong_claims(now),
        odd_headers(now),
        odd_payloads(now),
        broken_ecdsa(now),
        broken_others(now),
        rewritten(now),
        other_forms(now),
    ]
    .concat()
}

/// Fails unless each is refused for its reason, in the form of RFC 6750 §3.
async fn all_refused(world: &World, rows: Vec<Row>) {
    for (what, token, reason) in rows {
        // Some begin with no token's mark, and then there is nothing to be looked for.
        if token.starts_with("eyJhbGciOi") {
            leaks::register_token(&token);
        }
        let request = world.bare(Method::GET, "/v1/ordenes").bearer_auth(&token);
        let reply = world.send(request).await;
        assert_eq!(reply.status, 401, "{what}: {}", reply.text());
        reply.problem(401, "invalid-token");
        assert_eq!(
            reply.header("www-authenticate"),
            format!(
                r#"Bearer realm="llavero", error="invalid_token", error_description="{reason}""#
            ),
            "{what}"
        );
    }
    assert!(world.received().is_empty(), "nothing reached the ERP");
}

#[tokio::test]
async fn every_attack_is_refused_for_its_reason_and_reaches_nobody() {
    let attackers = Key::es256("attackers");
    let attacker = Provider::start(&[&attackers]).await;
    let world = World::start().await;
    let now = world.clock.unix_seconds();
    // What the attacks begin with is good.
    for signer in [Signer::Es256, Signer::EdDsa, Signer::Rs256] {
        let token = Good::of(signer, now).token();
        world.get_as(&token, "/v1/me").await.ok(200);
    }
    let rows = attacks(now, &attackers, &attacker.keys_url());
    assert!(rows.len() > 150, "{}", rows.len());
    all_refused(&world, rows).await;
    assert_eq!(attacker.asked(), 0, "no token says where keys come from");
}

/// The same against the same keys, published over the network.
#[tokio::test]
async fn every_attack_is_refused_where_keys_are_published_too() {
    let attackers = Key::es256("attackers");
    let attacker = Provider::start(&[&attackers]).await;
    let provider = Provider::start(&[]).await;
    let jwks = std::fs::read(fixture("keys/jwks.json")).unwrap();
    provider.answers(crate::harness::provider::Manner::Bytes(jwks));
    let issuer = Signer::Es256.issuer();
    let world = World::configured(&format!(
        "auth:\n  jwks: {{allow_loopback_http: true}}\n  issuers:\n    \
           - {{issuer: \"{issuer}\", audience: llavero, algorithms: [ES256, EdDSA], jwks_url: \"{}\"}}\n    \
           - {{issuer: \"https://rsa.example.com/\", audience: llavero, algorithms: [RS256], public_key_file: \"{}\"}}\n    \
           - {{issuer: \"https://hs.example.com/\", audience: llavero, algorithms: [HS256], secret: \"{HS_SECRET}\"}}\n",
        provider.keys_url(),
        fixture("keys/rs256.public.pem").display(),
    ))
    .await;
    let now = world.clock.unix_seconds();
    let token = Good::of(Signer::Es256, now).token();
    world.get_as(&token, "/v1/me").await.ok(200);
    all_refused(&world, attacks(now, &attackers, &attacker.keys_url())).await;
    assert_eq!(attacker.asked(), 0);
    assert!(provider.asked() <= 4, "few fetches: {}", provider.asked());
}

/// RFC 7518 §3.4 asks for no low s, and providers' libraries produce either: to refuse the high
/// one would refuse half of all good tokens. It is no other token to anybody: nothing here tells
/// tokens apart by their signatures.
#[tokio::test]
async fn the_twin_of_an_ecdsa_signature_is_judged_like_the_original() {
    let world = World::start().await;
    let good = Good::of(Signer::Es256, world.clock.unix_seconds());
    let (r, s) = good.signature.split_at(32);
    let twin = number(P256_ORDER) - BigUint::from_bytes_be(s);
    for signature in [good.signature.clone(), [r, &bytes(&twin)].concat()] {
        let token = good.with(&signature);
        leaks::register_token(&token);
        let me = world.get_as(&token, "/v1/me").await.ok(200);
        assert_eq!(me["sub"], "ana");
    }
    let other = payload(
        Signer::Es256,
        world.clock.unix_seconds(),
        &json!({"sub": "root"}),
    );
    let (header, _) = good.message.split_once('.').unwrap();
    let forged = format!(
        "{header}.{}.{}",
        base64url(other),
        base64url([r, &bytes(&twin)].concat())
    );
    all_refused(
        &world,
        vec![("the twin on other claims", forged, SIGNATURE)],
    )
    .await;
}

/// A key made for one token, so that its signature has the s that we want: with 1 as the secret
/// number of the signature, r is the generator's x, and the key follows from both.
#[tokio::test]
async fn a_number_beyond_the_order_isnt_the_number_within() {
    let order = number(P256_ORDER);
    let provider = Provider::start(&[]).await;
    let world = World::configured(&format!(
        "auth:\n  jwks: {{allow_loopback_http: true}}\n  issuers:\n    \
           - {{issuer: \"{}\", audience: llavero, algorithms: [ES256], jwks_url: \"{}\"}}\n",
        provider.issuer(),
        provider.keys_url()
    ))
    .await;
    let claims = payload(
        Signer::Es256,
        world.clock.unix_seconds(),
        &json!({"iss": provider.issuer()}),
    );
    let message = format!(
        "{}.{}",
        base64url(r#"{"alg":"ES256","kid":"made"}"#),
        base64url(claims)
    );
    let hash = digest::digest(&digest::SHA256, message.as_bytes());
    let z = BigUint::from_bytes_be(hash.as_ref()) % &order;
    let (r, s) = (number(P256_GENERATOR_X), BigUint::from(7_u8));
    let private = (&s + &order - z) * r.modinv(&order).unwrap() % &order;
    let private = PrivateKey::from_private_key(&ECDH_P256, &bytes(&private)).unwrap();
    let public = private.compute_public_key().unwrap();
    let (x, y) = public.as_ref()[1..].split_at(32);
    let set = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "made", "x": base64url(x), "y": base64url(y),
    }]});
    provider.answers(crate::harness::provider::Manner::Bytes(
        set.to_string().into_bytes(),
    ));
    let token = |s: &BigUint| {
        let signature = [bytes(&r), bytes(s)].concat();
        format!("{message}.{}", base64url(signature))
    };
    world.get_as(&token(&s), "/v1/me").await.ok(200);
    // It fits into 32 bytes, and is the same to whoever only divides.
    let beyond = token(&(&s + &order));
    all_refused(&world, vec![("s beyond the order", beyond, SIGNATURE)]).await;
}
