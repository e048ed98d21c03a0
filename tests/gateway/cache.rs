//! The cache as a caller sees it.

use std::time::Duration;

use llavero_simulator::{Faults, StatusFault};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;

use crate::harness::{World, photo};

#[tokio::test]
async fn an_answer_is_fresh_for_its_ttl_and_says_so() {
    let world = World::start().await;
    for (path, ttl) in [("/v1/ordenes", 15), ("/v1/ordenes/11001", 30)] {
        let first = world.get(path).await;
        assert_eq!(
            first.header("cache-status"),
            "llavero; fwd=uri-miss; stored"
        );
        assert_eq!(first.header("age"), "0");
        assert_eq!(first.header("cache-control"), "private, no-cache");
        assert_eq!(first.header("vary"), "Authorization, Llavero-Tenant");
        world.clock.advance(Duration::from_secs(ttl - 5));
        let hit = world.get(path).await;
        assert_eq!(hit.header("cache-status"), "llavero; hit; ttl=5");
        assert_eq!(hit.header("age"), (ttl - 5).to_string());
        assert_eq!(
            (&hit.body, hit.header("etag")),
            (&first.body, first.header("etag"))
        );
        world.clock.advance(Duration::from_secs(5 + 30));
        let stale = world.get(path).await;
        assert_eq!(stale.header("cache-status"), "llavero; fwd=stale; stored");
    }
    assert_eq!(world.received().len(), 4);
}

#[tokio::test]
async fn equal_requests_at_once_are_one_request_to_the_erp() {
    let world = World::start().await;
    world.holds("carper");
    let all = futures_util::future::join_all((0..20).map(|_| world.get("/v1/ordenes/11001")));
    let (replies, ()) = tokio::join!(all, async {
        world.wait_until_authenticated(20).await;
        world.lets_go("carper");
    });
    assert_eq!(world.received().len(), 1);
    let statuses: Vec<_> = replies
        .iter()
        .map(|reply| reply.header("cache-status"))
        .collect();
    let led = statuses
        .iter()
        .filter(|it| **it == "llavero; fwd=uri-miss; stored")
        .count();
    let followed = statuses
        .iter()
        .filter(|it| **it == "llavero; fwd=uri-miss; collapsed")
        .count();
    assert_eq!((led, followed), (1, 19), "{statuses:?}");
}

#[tokio::test]
async fn the_first_to_ask_may_leave() {
    let world = World::start().await;
    world.holds("carper");
    let leader = world
        .request(Method::GET, "/v1/ordenes/11001")
        .header("x-request-id", "leader-who-left");
    let leader = tokio::spawn(leader.send());
    world.wait_until_received(1).await;
    let leaves = async {
        world.wait_until_authenticated(2).await;
        leader.abort();
        world.wait_until_left("leader-who-left").await;
        world.lets_go("carper");
    };
    let (stayed, ()) = tokio::join!(world.get("/v1/ordenes/11001"), leaves);
    stayed.ok(200);
    assert_eq!(
        stayed.header("cache-status"),
        "llavero; fwd=uri-miss; collapsed"
    );
    assert_eq!(world.received().len(), 1);
}

#[tokio::test]
async fn a_failure_is_not_kept() {
    let world = World::start().await;
    let once = StatusFault {
        times: Some(1),
        ..StatusFault::new(500)
    };
    world.faults("carper", Faults::from(once));
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(502, "upstream-error");
    world.get("/v1/ordenes/11001").await.ok(200);
}

#[tokio::test]
async fn a_change_drops_the_order_and_the_lists_under_every_credential() {
    let world = World::start().await;
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    let paths = [
        "/v1/ordenes?limit=3",
        "/v1/ordenes/11001",
        "/v1/ordenes/11003",
    ];
    for path in paths {
        world.get(path).await.ok(200);
        world.get_as(&tecnico, path).await.ok(200);
    }
    world
        .patch("/v1/ordenes/11001", json!({"status": "cancelada"}))
        .await
        .ok(200);
    for token in [world.token(&json!({})), tecnico] {
        let list = world.get_as(&token, paths[0]).await;
        assert_eq!(list.header("cache-status"), "llavero; fwd=stale; stored");
        assert_eq!(list.json()["results"][0]["status"], "cancelada");
        let orden = world.get_as(&token, paths[1]).await;
        assert_eq!(orden.header("cache-status"), "llavero; fwd=stale; stored");
        assert_eq!(orden.json()["status"], "cancelada");
        let other = world.get_as(&token, paths[2]).await;
        assert!(other.header("cache-status").starts_with("llavero; hit"));
    }
}

#[tokio::test]
async fn an_upload_drops_the_order_too_and_another_tenants_stays() {
    let world = World::start().await;
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get("/v1/ordenes/11001").await.ok(200);
    world.get_as(&norte, "/v1/ordenes/21001").await.ok(200);
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(photo("sony-rx1r.jpg")));
    world
        .upload("/v1/ordenes/11001/imagenes", form)
        .await
        .ok(201);
    assert!(
        world
            .get("/v1/ordenes/11001")
            .await
            .header("cache-status")
            .contains("stale")
    );
    assert!(
        world
            .get_as(&norte, "/v1/ordenes/21001")
            .await
            .header("cache-status")
            .contains("hit")
    );
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_drops_too() {
    let world = World::start().await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world.faults(
        "carper",
        Faults {
            truncate: true,
            ..Faults::default()
        },
    );
    world
        .patch("/v1/ordenes/11001", json!({"status": "terminada"}))
        .await
        .problem(502, "upstream-error");
    world.faults("carper", Faults::default());
    assert_eq!(
        world.get("/v1/ordenes/11001").await.ok(200)["status"],
        "terminada"
    );
}

#[tokio::test]
async fn what_was_asked_before_a_change_is_not_kept_after_it() {
    let world = World::start().await;
    world.holds("carper");
    let read = world.get("/v1/ordenes/11001");
    let change = async {
        world.wait_until_received(1).await;
        world.faults("carper", Faults::default());
        let changed = world
            .patch("/v1/ordenes/11001", json!({"status": "cancelada"}))
            .await;
        world.lets_go("carper");
        changed
    };
    let (read, changed) = tokio::join!(read, change);
    read.ok(200);
    changed.ok(200);
    let after = world.get("/v1/ordenes/11001").await;
    assert_eq!(
        after.header("cache-status"),
        "llavero; fwd=uri-miss; stored",
        "the answer that came late was not kept at all"
    );
    assert_eq!(after.json()["status"], "cancelada");
}

#[tokio::test]
async fn no_cache_goes_to_the_erp_and_refreshes() {
    let world = World::start().await;
    world.get("/v1/ordenes/11001").await.ok(200);
    for directive in ["no-cache", "max-age=0", "private, No-Cache"] {
        let request = world
            .request(Method::GET, "/v1/ordenes/11001")
            .header("cache-control", directive);
        let reply = world.send(request).await;
        assert_eq!(reply.header("cache-status"), "llavero; fwd=request; stored");
    }
    assert_eq!(world.received().len(), 4);
    assert!(
        world
            .get("/v1/ordenes/11001")
            .await
            .header("cache-status")
            .starts_with("llavero; hit")
    );
}

#[tokio::test]
async fn a_validator_that_holds_is_answered_without_the_bytes() {
    let world = World::start().await;
    let first = world.get("/v1/ordenes/11001").await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    for (validator, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"x\", {etag}"), 304),
        ("*".to_owned(), 304),
        ("\"x\"".to_owned(), 200),
        (etag.trim_matches('"').to_owned(), 200),
    ] {
        let request = world
            .request(Method::GET, "/v1/ordenes/11001")
            .header("if-none-match", &validator);
        let reply = world.send(request).await;
        assert_eq!(reply.status, status, "{validator}");
        assert_eq!(reply.header("etag"), etag);
        assert_eq!(reply.body.is_empty(), status == 304);
        assert!(reply.header("cache-status").starts_with("llavero; hit"));
    }
    world
        .patch("/v1/ordenes/11001", json!({"status": "cancelada"}))
        .await
        .ok(200);
    let request = world
        .request(Method::GET, "/v1/ordenes/11001")
        .header("if-none-match", &etag);
    assert_eq!(world.send(request).await.status, 200, "it changed");
}

#[tokio::test]
async fn a_head_has_the_gets_fields_and_no_bytes() {
    let world = World::start().await;
    let get = world.get("/v1/ordenes/11001").await;
    let head = world
        .send(world.request(Method::HEAD, "/v1/ordenes/11001"))
        .await;
    assert_eq!(head.status, 200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("etag"), get.header("etag"));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

#[tokio::test]
async fn a_ttl_of_nothing_keeps_nothing() {
    let world = World::configured("cache: {ttl: {list: 0s, detail: 0s}}\n").await;
    for _ in 0..2 {
        world.get("/v1/ordenes/11001").await.ok(200);
    }
    assert_eq!(world.received().len(), 2);
}

#[tokio::test]
async fn the_store_is_bounded_by_bytes() {
    let world = World::configured("cache: {max_bytes: 1MiB}\n").await;
    for offset in 0..27 {
        let path = format!("/v1/ordenes?limit=100&offset={offset}");
        assert!(world.get(&path).await.body.len() > 50_000);
    }
    let metrics = format!("{}/metrics", world.admin);
    let metrics = world.client.get(metrics).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let held: u64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("llavero_cache_bytes "))
        .unwrap()
        .parse()
        .unwrap();
    assert!((500_000..=1_200_000).contains(&held), "{held} bytes");
}
