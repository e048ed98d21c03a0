//! One tenant never sees another, and a caller acts as whom the tenant's rules say.

use reqwest::Method;
use serde_json::json;

use crate::harness::{World, tokens::Signer, with_clave};

#[tokio::test]
async fn a_token_sees_its_own_tenants_orders_only() {
    let world = World::start().await;
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get("/v1/ordenes/11001").await.ok(200);
    world.get_as(&norte, "/v1/ordenes/21001").await.ok(200);
    world
        .get("/v1/ordenes/21001")
        .await
        .problem(404, "not-found");
    world
        .get_as(&norte, "/v1/ordenes/11001")
        .await
        .problem(404, "not-found");
    assert_eq!(world.get("/v1/ordenes").await.ok(200)["count"], 127);
    assert_eq!(
        world.get_as(&norte, "/v1/ordenes").await.ok(200)["count"],
        83
    );
    for received in world.received() {
        let own = received.path.contains(&received.clave.unwrap());
        assert!(own && received.credential.is_some());
    }
}

#[tokio::test]
async fn equal_requests_of_two_tenants_share_nothing_in_the_cache() {
    let world = World::start().await;
    let norte = world.token(&json!({"tenant": "norte"}));
    world.erp.put_orden(
        &with_clave("norte"),
        11001,
        json!({"id": 11001, "descripcion": "del norte"}),
    );
    let ours = world.get("/v1/ordenes/11001").await;
    let theirs = world.get_as(&norte, "/v1/ordenes/11001").await;
    assert!(theirs.header("cache-status").contains("fwd=uri-miss"));
    assert_ne!(ours.body, theirs.body);
    assert_eq!(theirs.ok(200)["descripcion"], "del norte");
    let again = world.get("/v1/ordenes/11001").await;
    assert!(again.header("cache-status").starts_with("llavero; hit"));
    assert_eq!(again.body, ours.body);
    let revalidated = world
        .bare(Method::GET, "/v1/ordenes/11001")
        .bearer_auth(&norte)
        .header("if-none-match", ours.header("etag"));
    assert_eq!(world.send(revalidated).await.status, 200);
}

#[tokio::test]
async fn two_credentials_of_a_tenant_share_nothing_in_the_cache() {
    let world = World::start().await;
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    // The technicians' user sees every other order.
    assert_eq!(world.get("/v1/ordenes/11002").await.status, 200);
    world
        .get_as(&tecnico, "/v1/ordenes/11002")
        .await
        .problem(404, "not-found");
    let all = world.get("/v1/ordenes").await.ok(200);
    let some = world.get_as(&tecnico, "/v1/ordenes").await.ok(200);
    assert_eq!((&all["count"], &some["count"]), (&json!(127), &json!(64)));
    let used: Vec<_> = world
        .received()
        .into_iter()
        .map(|it| it.credential.unwrap())
        .collect();
    assert_eq!(used, ["app", "tecnicos", "app", "tecnicos"]);
}

#[tokio::test]
async fn a_rule_narrows_scopes_and_never_widens_them() {
    let world = World::start().await;
    let lectora = world.token(&json!({"sub": "lectora"}));
    let me = world.get_as(&lectora, "/v1/me").await.ok(200);
    assert_eq!(me["scopes"], json!(["ordenes:read"]));
    let change = world
        .bare(Method::PATCH, "/v1/ordenes/11001")
        .bearer_auth(&lectora)
        .json(&json!({"status": 2}));
    world.send(change).await.problem(403, "insufficient-scope");
    let without = world.token(&json!({"sub": "lectora", "scope": "imagenes:write"}));
    world
        .get_as(&without, "/v1/ordenes")
        .await
        .problem(403, "insufficient-scope");
}

#[tokio::test]
async fn the_header_chooses_among_the_tokens_tenants() {
    let world = World::start().await;
    let both = world.token(&json!({"tenant": ["carper", "norte"]}));
    world
        .get_as(&both, "/v1/ordenes")
        .await
        .problem(400, "tenant-required");
    for (tenant, count) in [("carper", 127), ("norte", 83)] {
        let request = world
            .bare(Method::GET, "/v1/ordenes")
            .bearer_auth(&both)
            .header("llavero-tenant", tenant);
        assert_eq!(world.send(request).await.ok(200)["count"], count);
    }
    let me = world
        .bare(Method::GET, "/v1/me")
        .bearer_auth(&both)
        .header("llavero-tenant", "norte");
    assert_eq!(world.send(me).await.ok(200)["tenant"], "norte");
}

#[tokio::test]
async fn an_unknown_tenant_and_anothers_are_one_answer() {
    let world = World::start().await;
    let mut answers = Vec::new();
    for wanted in [
        "norte",
        "nadie",
        "CARPER",
        "carper norte",
        "",
        "../norte",
        &with_clave("carper")[..0],
    ] {
        let request = world
            .request(Method::GET, "/v1/ordenes")
            .header("llavero-tenant", wanted)
            .header("x-request-id", "the-same");
        let reply = world.send(request).await;
        reply.problem(403, "tenant-not-allowed");
        answers.push(reply.body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "every refusal reads the same");
    for tenant in [json!("nadie"), json!([]), json!(null), json!(5), json!("")] {
        let token = world.token(&json!({ "tenant": tenant }));
        world
            .get_as(&token, "/v1/ordenes")
            .await
            .problem(403, "tenant-not-allowed");
    }
    let twice = world
        .request(Method::GET, "/v1/ordenes")
        .header("llavero-tenant", "carper")
        .header("llavero-tenant", "norte");
    world.send(twice).await.problem(400, "invalid-parameter");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn nothing_of_the_callers_headers_reaches_the_erp() {
    let world = World::start().await;
    let request = world
        .request(Method::GET, "/v1/ordenes/11001")
        .header("api-key", "mine")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-anything", "else")
        .header("accept-language", "es")
        .header("origin", "https://app.example.com");
    world.send(request).await.ok(200);
    let [received] = &world.received()[..] else {
        panic!("one request")
    };
    let allowed = ["accept", "accept-encoding", "api-key", "host", "user-agent"];
    assert_eq!(received.headers, allowed);
    assert_eq!(received.credential.as_deref(), Some("app"));
}

/// A tenant's file with those rules.
fn with_users(world: &World, users: &str) {
    let file = format!(
        "clave: {}\ncredentials: {{default: {{api_key: {{file: ../carper-default.key}}}}, tecnicos: {{api_key: {{file: ../carper-tecnicos.key}}}}}}\nusers:\n{users}",
        with_clave("carper")
    );
    world.replace_file("tenants/carper.yaml", &file);
}

#[tokio::test]
async fn a_tenant_may_name_its_people_instead_of_the_token() {
    let world = World::start().await;
    let nobody = world.token(&json!({"tenant": null}));
    world
        .get_as(&nobody, "/v1/ordenes/11001")
        .await
        .problem(403, "tenant-not-allowed");
    world
        .reloaded(|| {
            with_users(&world, "\
                - {match: {iss: 'https://ec.example.com/', sub: ana}, credential: default}\n\
                - {match: {iss: 'https://ec.example.com/', email: [luis@example.com, Eva@Example.com]}, credential: tecnicos, scopes: [ordenes:read]}\n\
                - {match: {sub: sin-emisor}, credential: default}\n\
                - {match: {iss: 'https://rsa.example.com/', sub: otra}, credential: default}\n\
                - {match: {iss: 'https://ec.example.com/', group: plantilla}, credential: default}\n");
        })
        .await;
    world.get_as(&nobody, "/v1/ordenes/11001").await.ok(200);
    // Whoever a token names another tenant for has that one only.
    let elsewhere = world.token(&json!({"tenant": "norte"}));
    world
        .get_as(&elsewhere, "/v1/ordenes/11001")
        .await
        .problem(404, "not-found");
    // Another issuer's ana is somebody else.
    let other = world.token_by(Signer::Rs256, &json!({"tenant": null}));
    world
        .get_as(&other, "/v1/ordenes/11001")
        .await
        .problem(403, "tenant-not-allowed");
    for (claims, may) in [
        (json!({"sub": "x", "email": "luis@example.com"}), true),
        (
            json!({"sub": "x", "email": "eva@example.com", "email_verified": true}),
            true,
        ),
        (
            json!({"sub": "x", "email": "eva@example.com", "email_verified": false}),
            false,
        ),
        (
            json!({"sub": "x", "email": "eva@example.com", "email_verified": "false"}),
            false,
        ),
        (
            json!({"sub": "x", "email": "eva@example.com", "email_verified": 0}),
            false,
        ),
        (json!({"sub": "x", "email": ["luis@example.com"]}), false),
        (json!({"sub": "x", "email": "a luis@example.com"}), false),
        // A rule that names nobody in person opens no tenant, nor does one for any issuer's.
        (json!({"sub": "x", "groups": ["plantilla"]}), false),
        (json!({"sub": "sin-emisor"}), false),
        (json!({"sub": "otra", "groups": ["plantilla"]}), false),
    ] {
        let mut with = claims.clone();
        with["tenant"] = json!(null);
        let answer = world.get_as(&world.token(&with), "/v1/ordenes/11001").await;
        let expected = if may { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{claims}");
    }
    let narrowed = world.token(&json!({"sub": "x", "tenant": null, "email": "luis@example.com"}));
    let me = world.get_as(&narrowed, "/v1/me").await.ok(200);
    assert_eq!(
        (&me["tenant"], &me["scopes"]),
        (&json!("carper"), &json!(["ordenes:read"]))
    );
}

#[tokio::test]
async fn a_rule_may_ask_for_any_claim() {
    let world = World::start().await;
    world
        .reloaded(|| {
            with_users(
                &world,
                "\
                - {match: {group: [jefes, Field Technicians]}, credential: tecnicos}\n\
                - {match: {app.nivel: '3'}, credential: tecnicos}\n\
                - {match: {externo: 'true', scope: [a, b]}, credential: tecnicos}\n\
                - {match: {}, credential: default}\n",
            );
        })
        .await;
    for (claims, tecnicos) in [
        (json!({"groups": ["otros", "Field Technicians"]}), true),
        (json!({"group": "jefes"}), true),
        (json!({"groups": ["jefe"]}), false),
        (json!({"groups": "otros jefes"}), false),
        (json!({"app": {"nivel": 3}}), true),
        (json!({"app": {"nivel": [1, 3]}}), true),
        (json!({"app": {"nivel": 33}}), false),
        (json!({"app": {"nivel": "x 3"}}), false),
        (json!({"externo": true, "scope": "ordenes:read b"}), true),
        (json!({"externo": true}), false),
        (
            json!({"externo": {"true": true}, "scope": "ordenes:read a"}),
            false,
        ),
    ] {
        // The technicians' user doesn't see this order.
        let answer = world
            .get_as(&world.token(&claims), "/v1/ordenes/11002")
            .await;
        let expected = if tecnicos { 404 } else { 200 };
        assert_eq!(answer.status, expected, "{claims}");
    }
}
