//! Answers past their time: served while they are refreshed, served when the ERP
//! fails, and never where they are known to be wrong.

use llavero_simulator::Faults;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Reply, World, seconds, with_clave};

const ORDEN: &str = "/v1/ordenes/11001";

async fn get_with(world: &World, path: &str, cache_control: &str) -> Reply {
    let request = world
        .request(Method::GET, path)
        .header("cache-control", cache_control);
    world.send(request).await
}

/// Changes the order behind the gateway's back.
fn change_behind(world: &World, descripcion: &str) {
    let clave = with_clave("carper");
    let mut orden = world.erp.orden(&clave, 11001).unwrap();
    orden["descripcion"] = json!(descripcion);
    assert!(world.erp.put_orden(&clave, 11001, orden));
}

#[tokio::test]
async fn a_stale_answer_is_served_at_once_and_refreshed_once_behind_it() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    change_behind(&world, "nueva");
    world.clock.advance(seconds(42));
    world.holds("carper");
    for reply in futures_util::future::join_all((0..20).map(|_| world.get(ORDEN))).await {
        assert_eq!(
            reply.header("cache-status"),
            "llavero; hit; ttl=-12; detail=stale-while-revalidate"
        );
        assert_eq!(reply.header("age"), "42");
        assert_ne!(reply.json()["descripcion"], "nueva");
    }
    world.lets_go("carper");
    let fresh = loop {
        let reply = world.get(ORDEN).await;
        if reply.header("cache-status") == "llavero; hit; ttl=30" {
            break reply;
        }
    };
    assert_eq!(fresh.json()["descripcion"], "nueva");
    assert_eq!(fresh.header("age"), "0");
    assert_eq!(world.received().len(), 2, "one refresh for all");
}

#[tokio::test]
async fn past_that_window_the_erp_is_asked_first() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    change_behind(&world, "nueva");
    world.clock.advance(seconds(60));
    let reply = world.get(ORDEN).await;
    assert_eq!(reply.header("cache-status"), "llavero; fwd=stale; stored");
    assert_eq!(reply.json()["descripcion"], "nueva");
}

#[tokio::test]
async fn a_failing_refresh_neither_shows_nor_drops_what_is_kept() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    world.clock.advance(seconds(40));
    world.faults("carper", Faults::answering(500));
    for _ in 0..3 {
        let reply = world.get(ORDEN).await;
        reply.ok(200);
        assert!(
            reply
                .header("cache-status")
                .ends_with("stale-while-revalidate")
        );
    }
}

#[tokio::test]
async fn a_failing_erp_is_covered_by_older_answers_for_a_while() {
    for fault in [
        Faults::answering(500),
        Faults::answering(503),
        Faults::answering(429),
        Faults {
            html: true,
            ..Faults::default()
        },
        Faults {
            garbage: true,
            ..Faults::default()
        },
        Faults {
            truncate: true,
            ..Faults::default()
        },
        Faults::hanging(),
    ] {
        let world = World::start().await;
        let first = world.get(ORDEN).await;
        world.faults("carper", fault.clone());
        world.clock.advance(seconds(70));
        let reply = {
            let _time = world.time_flies();
            world.get(ORDEN).await
        };
        reply.ok(200);
        assert_eq!(reply.body, first.body);
        let status = reply.header("cache-status");
        assert!(
            status.starts_with("llavero; hit; ttl=-")
                && status.ends_with("; detail=stale-if-error"),
            "{status} for {fault:?}"
        );
        assert!(reply.header("age").parse::<u64>().unwrap() >= 70);
        // What says that it isn't good enough gets the truth, and so does what is too old.
        let _time = world.time_flies();
        let reply = get_with(&world, ORDEN, "no-cache").await;
        assert!(reply.status.is_server_error(), "{fault:?}");
        world.clock.advance(seconds(600));
        assert!(world.get(ORDEN).await.status.is_server_error(), "{fault:?}");
    }
}

#[tokio::test]
async fn an_answer_about_the_record_or_the_credential_is_no_failure() {
    for (status, code) in [
        (404, "not-found"),
        (401, "upstream-credential-rejected"),
        (403, "upstream-credential-rejected"),
    ] {
        let world = World::start().await;
        world.get(ORDEN).await.ok(200);
        world.clock.advance(seconds(70));
        world.faults("carper", Faults::answering(status));
        assert_eq!(world.get(ORDEN).await.json()["code"], code);
        // And it isn't brought back by a failure later.
        world.faults("carper", Faults::answering(500));
        world.get(ORDEN).await.problem(502, "upstream-error");
    }
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    world.clock.advance(seconds(70));
    world.faults(
        "carper",
        Faults {
            wrong_record: true,
            ..Faults::default()
        },
    );
    world.get(ORDEN).await.problem(502, "upstream-mismatch");
}

#[tokio::test]
async fn a_change_that_was_made_is_not_undone_by_a_failure() {
    let world = World::start().await;
    for path in [ORDEN, "/v1/ordenes?limit=3"] {
        world.get(path).await.ok(200);
    }
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    world.faults("carper", Faults::answering(500));
    for path in [ORDEN, "/v1/ordenes?limit=3"] {
        world.get(path).await.problem(502, "upstream-error");
    }
}

#[tokio::test]
async fn a_change_of_unknown_outcome_leaves_the_older_answer_for_failures_only() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    world.faults("carper", Faults::answering(500));
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .problem(502, "upstream-error");
    let reply = world.get(ORDEN).await;
    reply.ok(200);
    assert_eq!(
        reply.header("cache-status"),
        "llavero; hit; ttl=0; detail=stale-if-error"
    );
    // It may still be carried out: until that is settled, answers are passed on and not kept.
    world.faults("carper", Faults::default());
    for _ in 0..2 {
        let reply = world.get(ORDEN).await;
        assert_eq!(reply.header("cache-status"), "llavero; fwd=stale");
    }
    world.clock.advance(seconds(30));
    let reply = world.get(ORDEN).await;
    assert_eq!(reply.header("cache-status"), "llavero; fwd=stale; stored");
}

#[tokio::test]
async fn a_change_that_was_certainly_not_made_drops_nothing() {
    let world = World::start().await;
    let _time = world.time_flies();
    for status in [400, 404, 429] {
        world.faults("carper", Faults::default());
        get_with(&world, ORDEN, "no-cache").await.ok(200);
        world.faults("carper", Faults::answering(status));
        let reply = world.patch(ORDEN, json!({"status": "cancelada"})).await;
        assert!(!reply.status.is_success());
        let reply = world.get(ORDEN).await;
        reply.ok(200);
        let cache_status = reply.header("cache-status");
        assert!(!cache_status.contains("fwd"), "{cache_status}");
        world.clock.advance(seconds(60));
    }
}

#[tokio::test]
async fn a_caller_says_how_old_an_answer_may_be() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    world.clock.advance(seconds(10));
    let reply = get_with(&world, ORDEN, "max-age=10").await;
    assert_eq!(reply.header("cache-status"), "llavero; hit; ttl=20");
    let reply = get_with(&world, ORDEN, "max-age=9").await;
    assert_eq!(reply.header("cache-status"), "llavero; fwd=request; stored");
    assert_eq!(reply.header("age"), "0");
    let reply = get_with(&world, "/v1/ordenes/11003", "max-age=9").await;
    assert_eq!(
        reply.header("cache-status"),
        "llavero; fwd=uri-miss; stored"
    );
    assert_eq!(world.received().len(), 3);
}

#[tokio::test]
async fn only_if_cached_never_asks_the_erp() {
    let world = World::start().await;
    let reply = get_with(&world, ORDEN, "only-if-cached").await;
    reply.problem(504, "not-cached");
    assert!(world.received().is_empty());
    world.get(ORDEN).await.ok(200);
    let reply = get_with(&world, ORDEN, "only-if-cached").await;
    assert_eq!(reply.header("cache-status"), "llavero; hit; ttl=30");
    world.clock.advance(seconds(40));
    let reply = get_with(&world, ORDEN, "only-if-cached, max-age=600").await;
    assert_eq!(
        reply.header("cache-status"),
        "llavero; hit; ttl=-10; detail=stale-while-revalidate"
    );
    world.clock.advance(seconds(40));
    let reply = get_with(&world, ORDEN, "only-if-cached").await;
    reply.problem(504, "not-cached");
    assert_eq!(world.received().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_not_kept_does_not_say_that_it_is() {
    let windows =
        "cache: {ttl: {list: 0s, detail: 0s}, stale_while_revalidate: 0s, stale_if_error: 0s}\n";
    let world = World::configured(windows).await;
    for _ in 0..2 {
        let reply = world.get(ORDEN).await;
        assert_eq!(reply.header("cache-status"), "llavero; fwd=uri-miss");
    }
}

#[tokio::test]
async fn a_record_that_is_gone_is_not_brought_back_by_an_answer_that_comes_late() {
    let world = World::start().await;
    world.holds("carper");
    let slow = world.get(ORDEN);
    let gone = async {
        world.wait_until_received(1).await;
        world.faults("carper", Faults::answering(404));
        let gone = get_with(&world, ORDEN, "no-cache").await;
        assert!(world.erp.let_go(&with_clave("carper")));
        gone
    };
    let (slow, gone) = tokio::join!(slow, gone);
    slow.ok(200);
    gone.problem(404, "not-found");
    world.get(ORDEN).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_condition_looks_anew_and_not_through_somebody_elses_eyes() {
    let world = World::start().await;
    let first = world.get(ORDEN).await;
    let etag = first.header("etag").to_owned();
    world.holds("carper");
    let look = get_with(&world, ORDEN, "no-cache");
    let change = async {
        world.wait_until_received(2).await;
        world.faults("carper", Faults::default());
        let change = world
            .request(Method::PATCH, ORDEN)
            .header("if-match", &etag)
            .json(&json!({"status": "cancelada"}));
        let changed = world.send(change).await;
        world.lets_go("carper");
        changed
    };
    let (look, change) = tokio::join!(look, change);
    look.ok(200);
    change.ok(200);
    let methods: Vec<_> = world.received().into_iter().map(|it| it.method).collect();
    assert_eq!(methods, ["GET", "GET", "GET", "PATCH"]);
}

#[tokio::test]
async fn a_ttl_of_nothing_keeps_nothing_for_failures_either() {
    let world = World::configured("cache: {ttl: {detail: 0s}}\n").await;
    world.get(ORDEN).await.ok(200);
    world.faults("carper", Faults::answering(500));
    world.get(ORDEN).await.problem(502, "upstream-error");
}

#[tokio::test]
async fn a_page_that_says_200_to_a_change_may_be_anybodys() {
    let world = World::start().await;
    world.get(ORDEN).await.ok(200);
    let html = Faults {
        html: true,
        ..Faults::default()
    };
    world.faults("carper", html);
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .problem(502, "upstream-error");
    let reply = world.get(ORDEN).await;
    reply.ok(200);
    assert!(reply.header("cache-status").ends_with("stale-if-error"));
}
