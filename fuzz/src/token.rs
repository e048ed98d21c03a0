//! Tokens: any header and claims, signed by an issuer's key, by another, or by nobody.

use std::{
    fs,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use arbitrary::{Arbitrary, Unstructured};
use base64_simd::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use llavero::{
    clock::Clock,
    config::auth::{Auth, Claims, Issuer},
    config::secret::SecretSource,
    identity::{Identity, Refused},
};
use serde_json::Value;

use super::json;

/// It is 2100 here, so that a seed means the same on every day.
const NOW: i64 = 4_102_444_800;
const LEEWAY: i64 = 30;
const MAX_TOKEN_BYTES: usize = 8 * 1024;

const PEOPLE: &str = "https://id.example.com/";
const MACHINES: &str = "machines";
const AUDIENCE: &str = "llavero";

const PRIVATE_PEM: &str = include_str!("../../tests/fixtures/keys/es256.private.pem");
const PUBLIC_PEM: &str = include_str!("../../tests/fixtures/keys/es256.public.pem");
const SECRET: &str = "a secret of the machines, of forty-four bytes";

/// What a token is made of.
#[derive(Debug)]
struct Made {
    header: String,
    claims: String,
    signer: Signer,
    /// Another byte of the finished token, and what it becomes.
    forged: (u16, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Signer {
    /// The issuer `PEOPLE`, with ES256.
    People,
    /// The issuer `MACHINES`, with HS256.
    Machines,
    /// Somebody who takes the public key for a shared secret.
    Confuser,
    /// Somebody with a secret of their own.
    Stranger,
    Nobody,
}

#[derive(Debug, Arbitrary)]
struct Members(Vec<(Name, Odd)>);

#[derive(Debug, Arbitrary)]
enum Name {
    Known(u8),
    Any(String),
}

/// A value that makes sense somewhere, and nonsense in most places.
#[derive(Debug, Arbitrary)]
enum Odd {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    /// Seconds from now.
    Soon(i16),
    Word(u8),
    Text(String),
    List(Vec<Odd>),
    Object(Box<Members>),
}

const NAMES: &[&str] = &[
    "alg", "typ", "kid", "crit", "b64", "jku", "jwk", "iss", "aud", "sub", "exp", "nbf", "iat",
    "tenant", "scope", "email", "groups",
];
const WORDS: &[&str] = &[
    "ES256",
    "HS256",
    "none",
    "JWT",
    "at+jwt",
    "application/jwt",
    PEOPLE,
    MACHINES,
    AUDIENCE,
    "ana",
    "carper",
    "ordenes:read",
    "",
];

impl Members {
    fn text(&self) -> String {
        let members = self.0.iter().map(|(name, value)| {
            let name = match name {
                Name::Known(at) => NAMES[usize::from(*at) % NAMES.len()],
                Name::Any(name) => name,
            };
            format!("{}:{}", Value::from(name), value.text())
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

impl Odd {
    fn text(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Unsigned(number) => number.to_string(),
            Self::Float(number) => Value::from(*number).to_string(),
            Self::Soon(seconds) => (NOW + i64::from(*seconds)).to_string(),
            Self::Word(at) => Value::from(WORDS[usize::from(*at) % WORDS.len()]).to_string(),
            Self::Text(text) => Value::from(text.as_str()).to_string(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::text).collect();
                format!("[{}]", items.join(","))
            }
            Self::Object(members) => members.text(),
        }
    }
}

impl Made {
    /// From `t`, signer, place, byte, header, line end and claims; or from members of any kind.
    fn read(data: &[u8]) -> arbitrary::Result<Self> {
        let mut from = Unstructured::new(data);
        let is_text = u8::arbitrary(&mut from)? == b't';
        let signer = match u8::arbitrary(&mut from)? {
            b'p' => Signer::People,
            b'm' => Signer::Machines,
            _ => Signer::arbitrary(&mut from)?,
        };
        let forged = (u16::arbitrary(&mut from)?, u8::arbitrary(&mut from)?);
        let (header, claims) = if is_text {
            let text = String::from_utf8_lossy(from.take_rest()).into_owned();
            let (header, claims) = text.split_once('\n').unwrap_or((&text, ""));
            (header.to_owned(), claims.to_owned())
        } else {
            let header = Members::arbitrary(&mut from)?.text();
            (header, Members::arbitrary_take_rest(from)?.text())
        };
        Ok(Self {
            header,
            claims,
            signer,
            forged,
        })
    }

    fn token(&self) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode_to_string(text);
        let message = format!("{}.{}", encode(&self.header), encode(&self.claims));
        let (key, algorithm) = match self.signer {
            Signer::People => (&*PEOPLES_KEY, Algorithm::ES256),
            Signer::Machines => (&*MACHINES_KEY, Algorithm::HS256),
            Signer::Confuser => (&*CONFUSED_KEY, Algorithm::HS256),
            Signer::Stranger => (&*STRANGERS_KEY, Algorithm::HS256),
            Signer::Nobody => return format!("{message}."),
        };
        let signature = crypto::sign(message.as_bytes(), key, algorithm).expect("can be signed");
        format!("{message}.{signature}")
    }
}

static PEOPLES_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_ec_pem(PRIVATE_PEM.as_bytes()).expect("is a key"));
static MACHINES_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_secret(SECRET.as_bytes()));
static CONFUSED_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_secret(PUBLIC_PEM.as_bytes()));
static STRANGERS_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_secret(b"a secret that no issuer of the gateway has"));

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("people.pem"), PUBLIC_PEM).expect("can be written");
    let auth = Auth {
        leeway: Duration::from_secs(LEEWAY.unsigned_abs()),
        issuers: vec![
            Issuer {
                issuer: PEOPLE.to_owned(),
                audience: vec![AUDIENCE.to_owned(), "another".to_owned()],
                algorithms: vec![Algorithm::ES256],
                public_key_file: Some(dir.path().join("people.pem")),
                ..Issuer::default()
            },
            Issuer {
                issuer: MACHINES.to_owned(),
                audience: vec![AUDIENCE.to_owned()],
                algorithms: vec![Algorithm::HS256],
                secret: Some(SecretSource::Inline(SECRET.to_owned().into())),
                claims: Claims {
                    tenant: "app.tenants".to_owned(),
                    scope: "app.scopes".to_owned(),
                },
                default_scopes: vec!["ordenes:read".to_owned()],
                ..Issuer::default()
            },
        ],
        ..Auth::default()
    };
    let clock = Clock::manual();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs());
    clock.advance(
        then.duration_since(clock.wall())
            .expect("it isn't 2100 yet"),
    );
    Identity::load(&auth, dir.path(), &|_| None, clock).expect("keys that can be used")
});

/// Whether the token was accepted.
///
/// # Panics
/// A rule of tokens is broken.
pub fn check(data: &[u8]) -> bool {
    let Ok(made) = Made::read(data) else {
        return false;
    };
    let token = made.token();
    let accepted = check_token(&token, Some(&made));
    let (at, byte) = made.forged;
    let mut forged = token.clone().into_bytes();
    let at = usize::from(at) % forged.len();
    forged[at] = byte;
    // A header that isn't ASCII never gets that far.
    if let Ok(forged) = String::from_utf8(forged)
        && forged != token
    {
        assert!(!check_token(&forged, None), "a forged token was accepted");
    }
    // What was remembered hasn't become anything else's.
    assert_eq!(IDENTITY.remembered(&token).is_some(), accepted);
    accepted
}

/// `made` is what an honest token was made of; none of a forged one.
fn check_token(token: &str, made: Option<&Made>) -> bool {
    let was_remembered = IDENTITY.remembered(token).is_some();
    let verified = IDENTITY
        .verify(token)
        .now_or_never()
        .expect("fixed keys are there at once");
    let claims = match verified {
        Ok(claims) => claims,
        Err(refused) => {
            let is_remembered = was_remembered || IDENTITY.remembered(token).is_some();
            assert!(!is_remembered, "a refused token is remembered");
            assert!(
                matches!(refused, Refused::Invalid(_)),
                "fixed keys are there"
            );
            let told = format!("{refused} {refused:?}");
            let parts = token.split('.').filter(|part| part.len() > 12);
            assert!(parts.into_iter().all(|part| !told.contains(part)), "{told}");
            if let Some(made) = made {
                assert!(!told.contains("canary"), "{told}");
                assert!(!made.is_plainly_good(token), "{told}: {made:?}");
            }
            return false;
        }
    };
    let made = made.expect("a forged token was accepted");
    assert!(token.len() <= MAX_TOKEN_BYTES);
    assert!(is_sound(Some(made)), "{made:?}");
    let said: Value = serde_json::from_str(&made.claims).expect("accepted claims are JSON");
    assert_eq!(Some(&**claims.issuer()), said["iss"].as_str());
    assert_eq!(Some(&**claims.subject()), said["sub"].as_str());

    let remembered = IDENTITY.remembered(token).expect("is remembered");
    assert_eq!(remembered.issuer(), claims.issuer());
    assert_eq!(remembered.subject(), claims.subject());
    assert_eq!(remembered.expires_at(), claims.expires_at());
    assert_eq!(remembered.tenants(), claims.tenants());
    assert_eq!(remembered.scopes(), claims.scopes());
    for name in said.as_object().expect("an object").keys() {
        assert_eq!(claims.claim(name), said.get(name));
        assert_eq!(remembered.claim(name), said.get(name));
    }
    true
}

/// Whether all that makes a token good is there: every rule said once more, without the
/// gateway's code.
fn is_sound(made: Option<&Made>) -> bool {
    let Some(made) = made else { return false };
    let read = |text: &str| {
        let value: Value = serde_json::from_str(text).ok()?;
        (value.is_object() && !json::has_a_name_twice(text)).then_some(value)
    };
    let (Some(header), Some(claims)) = (read(&made.header), read(&made.claims)) else {
        return false;
    };
    let signed = match claims["iss"].as_str() {
        Some(PEOPLE) => made.signer == Signer::People && header["alg"] == "ES256",
        Some(MACHINES) => made.signer == Signer::Machines && header["alg"] == "HS256",
        _ => false,
    };
    let audiences = match &claims["aud"] {
        Value::Array(all) => all.iter().collect(),
        one => vec![one],
    };
    let for_us = audiences
        .iter()
        .any(|&one| one == AUDIENCE || (one == "another" && claims["iss"] == PEOPLE));
    let seconds = |name: &str| claims.get(name).map(Value::as_f64);
    let (now, leeway) = (NOW as f64, LEEWAY as f64);
    let has_begun = |name: &str| match seconds(name) {
        None => true,
        Some(Some(from)) => from < now + leeway + 1.0,
        Some(None) => false,
    };
    signed
        && for_us
        && header.get("crit").is_none()
        && header.get("b64").is_none()
        && claims["sub"].as_str().is_some_and(|sub| !sub.is_empty())
        && matches!(seconds("exp"), Some(Some(exp)) if exp > now - leeway)
        && has_begun("nbf")
        && has_begun("iat")
}

impl Made {
    /// Whether nothing about a token is odd, so that refusing it would be a mistake.
    fn is_plainly_good(&self, token: &str) -> bool {
        let Ok(header) = serde_json::from_str::<Value>(&self.header) else {
            return false;
        };
        let Ok(claims) = serde_json::from_str::<Value>(&self.claims) else {
            return false;
        };
        let is_far = |name: &str| claims[name].as_i64().is_some_and(|seconds| seconds > NOW);
        token.len() <= MAX_TOKEN_BYTES
            && is_sound(Some(self))
            && self.claims.matches(['[', '{']).count() < 32
            && header.as_object().is_some_and(|header| header.len() == 1)
            && is_far("exp")
            && claims.get("nbf").is_none()
            && claims.get("iat").is_none()
    }
}
