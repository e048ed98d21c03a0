//! What a token costs when it comes for the first time and when it comes again:
//! `cargo bench --bench tokens`. A few seconds, no network.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and it measures the machine's own time"
)]

use std::{
    fs,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use llavero::{clock::Clock, config::auth, identity::Identity};
use serde_json::json;

const ISSUER: &str = "https://id.example.com/";
/// How long each measurement takes, and how often it is repeated, in turn with the others.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test` builds and runs benchmarks too, and wants nothing measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys");
    println!("| algorithm | bytes | verified | remembered | ratio |");
    println!("|---|---|---|---|---|");
    for (algorithm, name, from_pem) in [
        (
            Algorithm::RS256,
            "rs256",
            EncodingKey::from_rsa_pem as FromPem,
        ),
        (Algorithm::ES256, "es256", EncodingKey::from_ec_pem),
        (Algorithm::EdDSA, "eddsa", EncodingKey::from_ed_pem),
    ] {
        let settings = auth::Auth {
            issuers: vec![auth::Issuer {
                issuer: ISSUER.to_owned(),
                audience: vec!["llavero".to_owned()],
                algorithms: vec![algorithm],
                public_key_file: Some(keys.join(format!("{name}.public.pem"))),
                ..auth::Issuer::default()
            }],
            ..auth::Auth::default()
        };
        let identity = Identity::load(&settings, &keys, &|_| None, Clock::system()).unwrap();
        let private = fs::read(keys.join(format!("{name}.private.pem"))).unwrap();
        let token = token(algorithm, &from_pem(&private).unwrap());
        identity.verify(&token).await.unwrap();
        let (mut verified, mut remembered) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let (mut times, begun) = (0, Instant::now());
            while begun.elapsed() < ROUND {
                black_box(identity.verify(black_box(&token)).await.unwrap());
                times += 1;
            }
            verified = verified.min(begun.elapsed() / times);
            let (mut times, begun) = (0, Instant::now());
            while begun.elapsed() < ROUND {
                black_box(identity.remembered(black_box(&token)).unwrap());
                times += 1;
            }
            remembered = remembered.min(begun.elapsed() / times);
        }
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "| {algorithm:?} | {} | {:.2} µs | {:.2} µs | {:.1} |",
            token.len(),
            micros(verified),
            micros(remembered),
            micros(verified) / micros(remembered)
        );
    }
}

/// Of the size that providers' tokens have.
fn token(algorithm: Algorithm, key: &EncodingKey) -> String {
    let claims = json!({
        "iss": ISSUER, "aud": ["llavero", "https://id.example.com/userinfo"], "sub": "auth0|6f1a2b3c4d5e",
        "azp": "Zx81Zx81Zx81Zx81Zx81Zx81Zx81Zx81", "jti": "0192f7a2-6d3c-7c11-9d5f-3f1d3c1b2a10",
        "iat": 1_700_000_000, "exp": 4_102_444_800_u64, "email": "ana@example.com", "name": "Ana García",
        "tenant": ["carper", "norte"], "scope": "openid profile ordenes:read ordenes:write imagenes:write",
    });
    encode(&Header::new(algorithm), &claims, key).unwrap()
}
