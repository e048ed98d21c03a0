//! Whose token is accepted, and what is said of the others.

use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::harness::{
    World, fixture, leaks,
    tokens::{self, HS_SECRET, Signer},
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
async fn wrong_claims_are_refused() {
    let world = World::start().await;
    let now = world.clock.unix_seconds();
    for (why, changes) in [
        (
            "another issuer",
            json!({"iss": "https://evil.example.com/"}),
        ),
        ("no issuer", json!({"iss": null})),
        (
            "the issuer's name nearly",
            json!({"iss": "https://ec.example.com"}),
        ),
        ("the issuer as a number", json!({"iss": 5})),
        ("another audience", json!({"aud": "somebody-else"})),
        ("no audience", json!({"aud": null})),
        ("an empty list of audiences", json!({"aud": []})),
        ("expired beyond the leeway", json!({"exp": now - 31})),
        ("no expiry", json!({"exp": null})),
        ("an expiry that isn't a time", json!({"exp": "tomorrow"})),
        ("not yet valid", json!({"nbf": now + 31})),
        ("a nbf that isn't a time", json!({"nbf": "yesterday"})),
        ("issued in the future", json!({"iat": now + 31})),
        ("no subject", json!({"sub": null})),
        ("an empty subject", json!({"sub": ""})),
        ("a subject that isn't text", json!({"sub": 7})),
    ] {
        refused(&world, why, &world.token(&changes)).await;
    }
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
    world.clock.advance(std::time::Duration::from_secs(3631));
    refused(&world, "an hour later", &token).await;
}

/// A token put together by hand, signed by nobody or with whatever is given.
fn forged(header: &Value, claims: &Map<String, Value>, signature: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode_to_string(text.as_bytes());
    let claims = serde_json::to_string(claims).unwrap();
    let token = format!(
        "{}.{}.{signature}",
        part(&header.to_string()),
        part(&claims)
    );
    leaks::register_token(&token);
    token
}

#[tokio::test]
async fn forged_and_confused_signatures_are_refused() {
    let world = World::start().await;
    let now = world.clock.unix_seconds();
    let claims = tokens::claims(Signer::Es256, now);
    let rsa_claims = tokens::claims(Signer::Rs256, now);
    let good = world.token(&json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();

    refused(
        &world,
        "alg none",
        &forged(&json!({"alg": "none"}), &claims, ""),
    )
    .await;
    refused(
        &world,
        "alg none with a signature",
        &forged(&json!({"alg": "none"}), &claims, signature),
    )
    .await;
    refused(
        &world,
        "no signature",
        &forged(&json!({"alg": "ES256", "kid": "ec-1"}), &claims, ""),
    )
    .await;
    refused(
        &world,
        "another token's signature",
        &forged(
            &json!({"alg": "ES256", "kid": "ec-1", "typ": "JWT"}),
            &tokens::with(claims.clone(), &json!({"tenant": "norte"})),
            signature,
        ),
    )
    .await;
    // The public key as an HMAC secret, the classic confusion.
    let pem = std::fs::read(fixture("keys/rs256.public.pem")).unwrap();
    let confused = tokens::sign(
        &Header::new(Algorithm::HS256),
        &rsa_claims,
        &EncodingKey::from_secret(&pem),
    );
    refused(&world, "the public key as a secret", &confused).await;
    let shared = EncodingKey::from_secret(HS_SECRET.as_bytes());
    let crossed = tokens::sign(&Header::new(Algorithm::HS256), &claims, &shared);
    refused(&world, "another issuer's secret", &crossed).await;
    let crossed = tokens::sign(&Signer::Es256.header(), &rsa_claims, &Signer::Es256.key());
    refused(&world, "another issuer's key", &crossed).await;
    let mut header = Signer::Rs256.header();
    header.alg = Algorithm::PS256;
    let other = tokens::sign(&header, &rsa_claims, &Signer::Rs256.key());
    refused(&world, "an algorithm that isn't pinned", &other).await;
    let mut header = Signer::EdDsa.header();
    header.kid = Some("ec-1".to_owned());
    let other = tokens::sign(&header, &claims, &Signer::EdDsa.key());
    refused(&world, "a key under another's kid", &other).await;
    let mut header = Signer::Es256.header();
    header.kid = Some("ec-2".to_owned());
    let other = tokens::sign(&header, &claims, &Signer::Es256.key());
    refused(&world, "an unknown kid", &other).await;
    refused(&world, "a flipped signature", &{
        let last = if signature.ends_with('A') { 'Q' } else { 'A' };
        format!("{signed}.{}{last}", &signature[..signature.len() - 1])
    })
    .await;
}

#[tokio::test]
async fn headers_that_want_more_are_refused_or_ignored() {
    let world = World::start().await;
    let claims = tokens::claims(Signer::Es256, world.clock.unix_seconds());
    // Signed with a good key, so that only the header can be the reason.
    let sign_header = |header: Value| {
        let part = |text: String| URL_SAFE_NO_PAD.encode_to_string(text.as_bytes());
        let message = format!(
            "{}.{}",
            part(header.to_string()),
            part(serde_json::to_string(&claims).unwrap())
        );
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &Signer::Es256.key(), Algorithm::ES256)
                .unwrap();
        let token = format!("{message}.{signature}");
        leaks::register_token(&token);
        token
    };
    let critical = sign_header(json!({"alg": "ES256", "kid": "ec-1", "crit": ["exp"], "exp": 1}));
    refused(&world, "an unknown crit", &critical).await;
    let pointing = sign_header(json!({
        "alg": "ES256", "kid": "ec-1", "jku": "https://evil.example.com/jwks.json",
        "x5u": "https://evil.example.com/x5u",
        "jwk": {"kty": "oct", "k": "AAAA"},
    }));
    let reply = world.get_as(&pointing, "/v1/me").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn what_is_no_token_is_refused_in_the_same_form() {
    let world = World::start().await;
    let good = world.token(&json!({}));
    for (why, token) in [
        ("one word", "abc".to_owned()),
        ("two parts", "abc.def".to_owned()),
        ("four parts", format!("{good}.x")),
        ("five parts, as JWE has", "a.b.c.d.e".to_owned()),
        ("a blank inside", good.replacen('.', ". ", 1)),
        ("another alphabet", good.replace('.', "/")),
        ("empty parts", "..".to_owned()),
        ("over 8 KiB", format!("{good}{}", "x".repeat(8 * 1024))),
    ] {
        refused(&world, why, &token).await;
    }
    let twice = world
        .bare(Method::GET, "/v1/me")
        .bearer_auth(&good)
        .header("authorization", format!("Bearer {good}"));
    world.send(twice).await.problem(401, "invalid-token");
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
