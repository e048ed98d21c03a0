//! The gateway's own limits: per user, per tenant, and per address without a good token;
//! and whose address that is.

use std::time::Duration;

use llavero_simulator::Faults;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Reply, World, leaks, tokens::Signer};

/// Three at once, one more each second; four for the tenant; two failures.
const SMALL: &str = "limits:\n  \
    user: {requests: 60, per: 1m, burst: 3}\n  \
    tenant: {requests: 60, per: 1m, burst: 5}\n  \
    failures: {requests: 60, per: 1m, burst: 2}\n";

fn fields(reply: &Reply) -> (&str, &str) {
    (reply.header("ratelimit-policy"), reply.header("ratelimit"))
}

#[tokio::test]
async fn a_user_may_ask_so_much_and_is_told_how_much_is_left() {
    let world = World::configured(SMALL).await;
    for current in [
        r#""user";r=2;t=1, "tenant";r=4;t=1"#,
        r#""user";r=1;t=2, "tenant";r=3;t=2"#,
        r#""user";r=0;t=3, "tenant";r=2;t=3"#,
    ] {
        let reply = world.get("/v1/ordenes/11001").await;
        reply.ok(200);
        assert_eq!(
            fields(&reply),
            (
                r#""user";q=60;w=60;llavero-burst=3, "tenant";q=60;w=60;llavero-burst=5"#,
                current
            )
        );
    }
    let asked = world.received().len();
    world.clock.advance(Duration::from_millis(400));
    let reply = world.get("/v1/ordenes/11002").await;
    let problem = reply.problem(429, "rate-limited");
    assert_eq!(reply.header("retry-after"), "1", "600 ms, rounded up");
    assert_eq!(
        fields(&reply).1,
        r#""user";r=0;t=3, "tenant";r=2;t=3"#,
        "the tenant's isn't spent"
    );
    assert_eq!(reply.header("cache-control"), "private, no-store");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("You asked more than one user may: 60 requests in a minute, 3 of them"),
        "{detail}"
    );
    assert_eq!(world.received().len(), asked, "nothing is asked of the ERP");
    world.clock.advance(Duration::from_millis(600));
    world.get("/v1/ordenes/11002").await.ok(200);
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"llavero_rate_limited_total{limit="user"} 1"#));
}

#[tokio::test]
async fn all_users_of_a_tenant_share_its_limit_and_its_log_line() {
    let world = World::configured(SMALL).await;
    let token = |sub: &str, tenant: &str| world.token(&json!({"sub": sub, "tenant": tenant}));
    for sub in ["u1", "u2", "u3", "u4", "u5"] {
        world.get_as(&token(sub, "carper"), "/v1/me").await.ok(200);
    }
    for at in 0..3 {
        let request = world
            .bare(Method::GET, "/v1/me")
            .header("x-request-id", format!("tenants-limit-{at}"))
            .bearer_auth(token("u6", "carper"));
        let reply = world.send(request).await;
        let problem = reply.problem(429, "rate-limited");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .starts_with("All users of your company together")
        );
        assert_eq!(reply.header("retry-after"), "1");
    }
    // Another tenant's isn't touched.
    world.get_as(&token("u1", "norte"), "/v1/me").await.ok(200);
    let warnings: usize = (0..3)
        .flat_map(|at| leaks::lines_with(&format!("tenants-limit-{at}")))
        .filter(|line| {
            line["level"] == "WARN" && line["message"].as_str().unwrap().contains("limits.tenant")
        })
        .count();
    assert_eq!(warnings, 1, "one, not one a request");
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"llavero_rate_limited_total{limit="tenant"} 3"#));
}

#[tokio::test]
async fn a_user_is_a_subject_of_an_issuer_at_a_tenant() {
    let world = World::configured("limits:\n  user: {requests: 60, per: 1m, burst: 1}\n").await;
    let several = json!({"tenant": ["carper", "norte"]});
    let all = [
        (world.token(&json!({})), None),
        (world.token(&json!({"sub": "beto"})), None),
        (world.token_by(Signer::Rs256, &json!({})), None),
        (world.token(&several), Some("norte")),
        // For no tenant yet.
        (world.token(&several), None),
    ];
    for expected in [200, 429] {
        for (token, tenant) in &all {
            let mut request = world.bare(Method::GET, "/v1/me").bearer_auth(token);
            if let Some(tenant) = tenant {
                request = request.header("llavero-tenant", *tenant);
            }
            let reply = world.send(request).await;
            assert_eq!(reply.status, expected, "{}", reply.text());
        }
    }
    // Chosen or the only one, it is the same tenant.
    let request = world
        .bare(Method::GET, "/v1/me")
        .header("llavero-tenant", "carper")
        .bearer_auth(world.token(&several));
    world.send(request).await.problem(429, "rate-limited");
}

#[tokio::test]
async fn every_answer_to_a_known_caller_has_the_fields_and_no_other() {
    let world = World::configured(
        "server:\n  drain_delay: 0s\n  cors: {allowed_origins: [\"https://app.example.com\"]}\n",
    )
    .await;
    let etag = world.get("/v1/ordenes/11001").await;
    let etag = etag.header("etag").to_owned();
    let not_modified = world
        .request(Method::GET, "/v1/ordenes/11001")
        .header("if-none-match", etag);
    let denied = world.token(&json!({"tenant": "no-such"}));
    let wrong_scope = world.token(&json!({"scope": "ordenes:read"}));
    let tenant = r#""user";q=4000000000;w=1;llavero-burst=4000000000, "tenant";q=4000000000;w=1;llavero-burst=4000000000"#;
    let user = r#""user";q=4000000000;w=1;llavero-burst=4000000000"#;
    let patch = |token: &str| {
        world
            .bare(Method::PATCH, "/v1/ordenes/11001")
            .bearer_auth(token)
            .json(&json!({"status": 1}))
    };
    for (request, status, policy) in [
        (world.request(Method::GET, "/v1/ordenes/11001"), 200, tenant),
        (not_modified, 304, tenant),
        (world.request(Method::GET, "/v1/ordenes?x=1"), 400, tenant),
        (world.request(Method::GET, "/v1/ordenes/1"), 404, tenant),
        (world.request(Method::GET, "/v1/nada"), 404, tenant),
        (world.request(Method::DELETE, "/v1/ordenes"), 405, tenant),
        (world.request(Method::HEAD, "/v1/me"), 200, tenant),
        (patch(&wrong_scope), 403, tenant),
        // Nobody's tenant.
        (patch(&denied), 403, user),
        (
            world
                .request(Method::GET, "/v1/me")
                .header("llavero-tenant", "norte"),
            403,
            user,
        ),
        (world.bare(Method::GET, "/v1/me"), 401, ""),
        (world.bare(Method::GET, "/v1/me").bearer_auth("x"), 401, ""),
        (world.bare(Method::GET, "/openapi.json"), 200, ""),
        (world.bare(Method::GET, "/docs/"), 200, ""),
        (world.bare(Method::GET, "/problems"), 200, ""),
        (world.request(Method::GET, "/nowhere"), 404, ""),
        (
            world
                .bare(Method::OPTIONS, "/v1/ordenes")
                .header("origin", "https://app.example.com")
                .header("access-control-request-method", "GET"),
            200,
            "",
        ),
    ] {
        let shown = format!("{request:?}");
        let reply = world.send(request).await;
        assert_eq!(reply.status, status, "{shown}: {}", reply.text());
        assert_eq!(reply.header("ratelimit-policy"), policy, "{shown}");
        assert_eq!(reply.header("ratelimit").is_empty(), policy.is_empty());
    }
    world.faults("carper", Faults::answering(500));
    let _time = world.time_flies();
    let reply = world.get("/v1/ordenes?limit=1").await;
    assert_eq!((reply.status.as_u16(), fields(&reply).0), (502, tenant));
}

#[tokio::test]
async fn what_is_kept_has_the_fields_of_who_asks() {
    let world = World::configured(SMALL).await;
    let beto = world.token(&json!({"sub": "beto"}));
    let first = world.get("/v1/ordenes/11001").await;
    assert!(first.header("cache-status").contains("stored"));
    let hit = world.get_as(&beto, "/v1/ordenes/11001").await;
    assert!(hit.header("cache-status").contains("hit"));
    assert_eq!(
        fields(&hit).1,
        r#""user";r=2;t=1, "tenant";r=3;t=2"#,
        "not those of the one who fetched it"
    );
}

#[tokio::test]
async fn a_refused_caller_is_refused_before_the_scope_and_the_body() {
    let world = World::configured(SMALL).await;
    for _ in 0..3 {
        world.get("/v1/me").await.ok(200);
    }
    let reader = json!({"scope": "ordenes:read"});
    for request in [
        world
            .bare(Method::PATCH, "/v1/ordenes/11001")
            .bearer_auth(world.token(&reader)),
        world
            .request(Method::PATCH, "/v1/ordenes/11001")
            .header("content-type", "text/plain")
            .body(vec![b'x'; 300_000]),
        world.request(Method::GET, "/v1/nada"),
    ] {
        world.send(request).await.problem(429, "rate-limited");
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn who_cant_act_for_the_tenant_is_counted_too() {
    let world = World::configured(SMALL).await;
    let outsider = world.token(&json!({"tenant": "no-such"}));
    for _ in 0..3 {
        let reply = world.get_as(&outsider, "/v1/ordenes").await;
        reply.problem(403, "tenant-not-allowed");
    }
    let reply = world.get_as(&outsider, "/v1/ordenes").await;
    reply.problem(429, "rate-limited");
}

/// A request that a proxy passes on.
async fn through(world: &World, client: &str, token: Option<&str>) -> Reply {
    let mut request = world
        .bare(Method::GET, "/v1/me")
        .header("x-forwarded-for", client);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    world.send(request).await
}

/// A proxy at this machine is trusted.
fn behind_a_proxy() -> String {
    format!("server:\n  drain_delay: 0s\n  trusted_proxies: [127.0.0.0/8]\n{SMALL}")
}

#[tokio::test]
async fn an_address_without_good_tokens_is_refused_before_they_are_looked_at() {
    let world = World::configured(&behind_a_proxy()).await;
    let expired = world.token(&json!({"exp": 1}));
    let bad = "192.0.2.66";
    through(&world, bad, None)
        .await
        .problem(401, "missing-token");
    let reply = through(&world, bad, Some(&expired)).await;
    reply.problem(401, "invalid-token");
    for token in [None, Some("nonsense"), Some(&*expired)] {
        let reply = through(&world, bad, token).await;
        let problem = reply.problem(429, "rate-limited");
        assert_eq!(reply.header("retry-after"), "1");
        assert_eq!(fields(&reply), ("", ""));
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("from your address without a token")
        );
    }
    // Others aren't.
    through(&world, "192.0.2.67", None)
        .await
        .problem(401, "missing-token");
    let good = world.token(&json!({}));
    through(&world, "192.0.2.67", Some(&good)).await.ok(200);
    // What was refused isn't counted, so it ends.
    world.clock.advance(Duration::from_secs(1));
    through(&world, bad, None)
        .await
        .problem(401, "missing-token");
    through(&world, bad, None)
        .await
        .problem(429, "rate-limited");
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"llavero_rate_limited_total{limit="failures"} 4"#));
}

#[tokio::test]
async fn good_tokens_and_denied_callers_are_no_failures() {
    let world = World::configured("limits:\n  failures: {requests: 1, per: 1h, burst: 1}\n").await;
    let outsider = world.token(&json!({"tenant": "no-such"}));
    for _ in 0..5 {
        world.get("/v1/me").await.ok(200);
        let reply = world.get_as(&outsider, "/v1/ordenes").await;
        reply.problem(403, "tenant-not-allowed");
    }
}

#[tokio::test]
async fn the_request_line_has_the_clients_address() {
    let world = World::configured(&behind_a_proxy()).await;
    for (id, forwarded, client) in [
        (
            "client-of-a-proxy",
            Some("6.6.6.6, 192.0.2.1, 127.0.0.9"),
            "192.0.2.1",
        ),
        ("client-of-nobody", None, "127.0.0.1"),
        (
            "client-of-garbage",
            Some("6.6.6.6, 192.0.2.1;"),
            "127.0.0.1",
        ),
    ] {
        let mut request = world
            .bare(Method::GET, "/v1/nada")
            .header("x-request-id", id);
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        world.send(request).await;
        let lines = leaks::lines_with(id);
        let line = lines.iter().find(|line| line["message"] == "request");
        assert_eq!(line.unwrap()["client"], client);
    }
}

#[tokio::test]
async fn a_proxy_that_isnt_trusted_is_told_once() {
    let world = World::configured(SMALL).await;
    let told = || leaks::own_lines_with("server.trusted_proxies");
    let before = told().len();
    // Whatever they say, they share one address and its limit.
    for (at, expected) in [401, 401, 429].into_iter().enumerate() {
        let request = world
            .bare(Method::GET, "/v1/me")
            .header("x-request-id", format!("untrusted-proxy-{at}"))
            .header("forwarded", format!("for=192.0.2.{at}"));
        let reply = world.send(request).await;
        assert_eq!(reply.status, expected, "{}", reply.text());
    }
    let [line] = &told()[before..] else {
        panic!("is told once: {:?}", told())
    };
    assert_eq!(line["level"], "WARN");
    assert!(!line.to_string().contains("192.0.2."), "{line}");
}
