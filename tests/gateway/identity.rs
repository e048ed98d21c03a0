//! Whose token is accepted, and what is said of the others.

use std::{fs, time::Duration};

use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use llavero::{
    clock::Clock,
    config::auth,
    identity::{Identity, InvalidToken, Refused},
};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::harness::{
    World, leaks,
    provider::{Key, jwks},
    tokens::{self, Signer},
};

fn hs_claims(world: &World, changes: &Value) -> Map<String, Value> {
    let usual = tokens::claims(Signer::Hs256, world.clock.unix_seconds());
    let own = json!({"tenant": null, "scope": null, "app": {"tenants": ["carper"]}, "permisos": ["ordenes:read"]});
    tokens::with(tokens::with(usual, &own), changes)
}

#[tokio::test]
async fn each_issuer_is_accepted_with_its_own_algorithm_and_claims() {
    let world = World::start().await;
    for signer in Signer::ALL {
        let token = match signer {
            Signer::Hs256 => tokens::sign(
                &signer.header(),
                &hs_claims(&world, &json!({})),
                &signer.key(),
            ),
            _ => world.token_by(signer, &json!({})),
        };
        let me = world.get_as(&token, "/v1/me").await.ok(200);
        assert_eq!(me["issuer"], signer.issuer());
        assert_eq!(
            (&me["sub"], &me["tenant"]),
            (&json!("ana"), &json!("carper"))
        );
        world.get_as(&token, "/v1/ordenes/11001").await.ok(200);
    }
}

#[tokio::test]
async fn a_token_without_scopes_gets_the_issuers_default() {
    let world = World::start().await;
    let claims = hs_claims(&world, &json!({"permisos": null}));
    let token = tokens::sign(&Signer::Hs256.header(), &claims, &Signer::Hs256.key());
    let me = world.get_as(&token, "/v1/me").await.ok(200);
    assert_eq!(me["scopes"], json!(["ordenes:read"]));
}

#[tokio::test]
async fn me_says_when_the_token_ends_and_what_it_allows() {
    let world = World::start().await;
    let token = world.token(&json!({"exp": 4102444800i64, "tenant": ["norte", "carper", "nadie"], "scope": "ordenes:read otra:cosa"}));
    let me = world.get_as(&token, "/v1/me").await.ok(200);
    assert_eq!(
        me,
        json!({
            "issuer": "https://ec.example.com/", "sub": "ana", "expires": "2100-01-01T00:00:00Z",
            "tenants": ["carper", "norte"], "tenant": null, "scopes": ["ordenes:read"],
        })
    );
}

#[tokio::test]
async fn a_request_without_a_bearer_token_is_told_so() {
    let world = World::start().await;
    let bare = world.bare(Method::GET, "/v1/me");
    for request in [
        bare.try_clone().unwrap(),
        bare.try_clone()
            .unwrap()
            .header("authorization", "Basic YTpi"),
        bare.try_clone().unwrap().header("authorization", "Bearer"),
        bare.try_clone()
            .unwrap()
            .header("authorization", "Bearer   "),
        world.bare(
            Method::GET,
            &format!("/v1/me?access_token={}", world.token(&json!({}))),
        ),
    ] {
        let reply = world.send(request).await;
        reply.problem(401, "missing-token");
        assert_eq!(
            reply.header("www-authenticate"),
            r#"Bearer realm="llavero""#
        );
    }
}

/// Fails unless the token is refused as invalid, everywhere in the same form.
async fn refused(world: &World, why: &str, token: &str) {
    let reply = world.get_as(token, "/v1/ordenes").await;
    assert_eq!(reply.status, 401, "{why}: {}", reply.text());
    reply.problem(401, "invalid-token");
    let challenge = reply.header("www-authenticate");
    assert!(
        challenge
            .starts_with(r#"Bearer realm="llavero", error="invalid_token", error_description=""#),
        "{why}: {challenge}"
    );
}

#[tokio::test]
async fn the_leeway_is_kept() {
    let world = World::start().await;
    let now = world.clock.unix_seconds();
    for changes in [
        json!({"exp": now - 29}),
        json!({"nbf": now + 29}),
        json!({"iat": now + 29}),
        json!({"iat": null}),
        json!({"aud": ["x", "other"]}),
        json!({"exp": (now + 60) as f64 + 0.5}),
    ] {
        let token = world.token(&changes);
        let reply = world.get_as(&token, "/v1/me").await;
        assert_eq!(reply.status, 200, "{changes}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_token_ends_while_time_passes() {
    let world = World::start().await;
    let token = world.token(&json!({}));
    world.get_as(&token, "/v1/me").await.ok(200);
    world.clock.advance(Duration::from_secs(3631));
    refused(&world, "an hour later", &token).await;
}

#[tokio::test]
async fn headers_that_bring_keys_are_ignored() {
    let world = World::start().await;
    let claims = tokens::claims(Signer::Es256, world.clock.unix_seconds());
    let part = |text: String| URL_SAFE_NO_PAD.encode_to_string(text.as_bytes());
    // Signed with a good key all the same.
    let header = json!({
        "alg": "ES256", "kid": "ec-1", "jku": "https://evil.example.com/jwks.json",
        "x5u": "https://evil.example.com/x5u",
        "jwk": {"kty": "oct", "k": "AAAA"},
    });
    let message = format!(
        "{}.{}",
        part(header.to_string()),
        part(serde_json::to_string(&claims).unwrap())
    );
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &Signer::Es256.key(), Algorithm::ES256);
    let pointing = format!("{message}.{}", signature.unwrap());
    leaks::register_token(&pointing);
    let reply = world.get_as(&pointing, "/v1/me").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn two_tokens_are_none() {
    let world = World::start().await;
    let good = world.token(&json!({}));
    let twice = world
        .bare(Method::GET, "/v1/me")
        .bearer_auth(&good)
        .header("authorization", format!("Bearer {good}"));
    world.send(twice).await.problem(401, "invalid-token");
}

/// How tokens were judged so far: remembered, verified.
async fn judged(world: &World) -> [u32; 2] {
    let metrics = world.metrics().await;
    ["remembered", "verified"].map(|result| {
        let series = format!(r#"llavero_token_verifications_total{{result="{result}"}} "#);
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
        count.unwrap().parse().unwrap()
    })
}

#[tokio::test]
async fn a_token_is_verified_once_and_looked_at_each_time() {
    let world = World::start().await;
    let now = world.clock.unix_seconds();
    let token = world.token(&json!({"exp": now + 100, "tenant": "carper"}));
    for _ in 0..3 {
        let me = world.get_as(&token, "/v1/me").await.ok(200);
        assert_eq!(
            (&me["sub"], &me["tenant"]),
            (&json!("ana"), &json!("carper"))
        );
    }
    assert_eq!(judged(&world).await, [2, 1]);
    let other = world.token(&json!({"exp": now + 100, "tenant": "norte"}));
    let me = world.get_as(&other, "/v1/me").await.ok(200);
    assert_eq!(me["tenant"], "norte");
    world.clock.advance(Duration::from_secs(129));
    world.get_as(&token, "/v1/me").await.ok(200);
    assert_eq!(judged(&world).await, [3, 2]);
    world.clock.advance(Duration::from_secs(1));
    refused(&world, "ended while it was remembered", &token).await;
    refused(&world, "and again", &token).await;
    assert_eq!(judged(&world).await, [3, 2]);
}

#[tokio::test]
async fn a_refused_token_is_refused_until_it_is_good() {
    let world = World::start().await;
    let early = world.token(&json!({"nbf": world.clock.unix_seconds() + 60}));
    refused(&world, "too early", &early).await;
    world.clock.advance(Duration::from_secs(30));
    world.get_as(&early, "/v1/me").await.ok(200);
    assert_eq!(judged(&world).await, [0, 1]);
}

/// An identity of one issuer whose keys are in a file of its own.
struct Filed {
    dir: tempfile::TempDir,
    identity: Identity,
    clock: Clock,
}

impl Filed {
    fn with(keys: &[&Key]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        fs::write(&file, jwks(keys).to_string()).unwrap();
        let auth = auth::Auth {
            issuers: vec![auth::Issuer {
                issuer: "https://id.example.com/".to_owned(),
                audience: vec!["llavero".to_owned()],
                algorithms: vec![Algorithm::ES256],
                jwks_file: Some(file),
                ..auth::Issuer::default()
            }],
            ..auth::Auth::default()
        };
        let clock = Clock::manual();
        let identity = Identity::load(&auth, dir.path(), &|_| None, clock.clone()).unwrap();
        Self {
            dir,
            identity,
            clock,
        }
    }

    fn rewrite(&self, text: &str) {
        fs::write(self.dir.path().join("keys.json"), text).unwrap();
    }

    fn token(&self, key: &Key) -> String {
        key.token("https://id.example.com/", &self.clock, &json!({}))
    }
}

#[tokio::test]
async fn files_are_read_again_and_what_they_no_longer_hold_is_forgotten() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let filed = Filed::with(&[&old]);
    let (olds, news) = (filed.token(&old), filed.token(&new));
    let claims = filed.identity.verify(&olds).await.unwrap();
    assert!(claims.is_of_the_only_issuer());
    assert!(filed.identity.remembered(&olds).is_some());

    filed.rewrite(&jwks(&[&old]).to_string());
    filed.identity.reload_files(&|_| None).unwrap();
    assert!(filed.identity.remembered(&olds).is_some(), "the same keys");

    for broken in ["", "{}", &jwks(&[&old, &old]).to_string()] {
        filed.rewrite(broken);
        let errors = filed.identity.reload_files(&|_| None).unwrap_err();
        assert_eq!(errors[0].key(), "auth.issuers[0].jwks_file");
        assert!(filed.identity.remembered(&olds).is_some(), "the last good");
    }

    filed.rewrite(&jwks(&[&new]).to_string());
    filed.identity.reload_files(&|_| None).unwrap();
    assert!(filed.identity.remembered(&olds).is_none());
    assert_eq!(
        filed.identity.verify(&olds).await.unwrap_err(),
        Refused::Invalid(InvalidToken::UnknownKey)
    );
    filed.identity.verify(&news).await.unwrap();
    assert!(filed.identity.remembered(&news).is_some());
}

#[tokio::test]
async fn an_operation_needs_its_scope_and_says_which() {
    let world = World::start().await;
    let token = world.token(&json!({"scope": ["imagenes:write", "proxy:read"]}));
    for (method, path, scope) in [
        (Method::GET, "/v1/ordenes", "ordenes:read"),
        (Method::GET, "/v1/ordenes/11001", "ordenes:read"),
        (Method::PATCH, "/v1/ordenes/11001", "ordenes:write"),
    ] {
        let reply = world
            .send(world.bare(method, path).bearer_auth(&token))
            .await;
        reply.problem(403, "insufficient-scope");
        assert_eq!(
            reply.header("www-authenticate"),
            format!(r#"Bearer realm="llavero", error="insufficient_scope", scope="{scope}""#)
        );
    }
    let reader = world.token(&json!({"scope": "ordenes:read"}));
    let upload = world
        .bare(Method::POST, "/v1/ordenes/11001/imagenes")
        .bearer_auth(&reader);
    let reply = world.send(upload).await;
    reply.problem(403, "insufficient-scope");
    assert!(reply.header("www-authenticate").contains("imagenes:write"));
    assert!(world.received().is_empty(), "nothing reached the ERP");
}
