//! An ERP that is slow, limits, fails or is gone, under more callers than it can serve.

use std::time::Duration;

use futures_util::future::join_all;
use llavero_simulator::{Faults, Only, StatusFault};
use reqwest::{Method, multipart};
use serde_json::json;

use crate::harness::{Reply, World, photo, seconds};

const ORDEN: &str = "/v1/ordenes/11001";

fn orden(at: usize) -> String {
    format!("/v1/ordenes/{}", 11001 + at % 127)
}

fn failing(status: u16, times: Option<u32>) -> Faults {
    Faults::from(StatusFault {
        times,
        ..StatusFault::new(status)
    })
}

fn slow(milliseconds: u64) -> Faults {
    Faults {
        delay: Some(milliseconds),
        ..Faults::default()
    }
}

/// How many answers are that problem.
fn count(replies: &[Reply], status: u16, code: &str) -> usize {
    let fits = |reply: &&Reply| reply.status == status && reply.json()["code"] == code;
    replies.iter().filter(fits).count()
}

#[tokio::test]
async fn five_hundred_equal_requests_are_one_to_the_erp() {
    let world = World::start().await;
    world.holds("carper");
    let all = join_all((0..500).map(|_| world.get(ORDEN)));
    let (replies, ()) = tokio::join!(all, async {
        world.wait_until_authenticated(500).await;
        world.lets_go("carper");
    });
    assert_eq!(world.received().len(), 1);
    for reply in &replies {
        reply.ok(200);
        assert_eq!(reply.body, replies[0].body);
        assert_eq!(reply.header("etag"), replies[0].header("etag"));
    }
}

#[tokio::test]
async fn a_hanging_erp_costs_its_own_tenant_only() {
    let world = World::start().await;
    world.faults("carper", Faults::hanging());
    let norte = world.token(&json!({"tenant": "norte"}));
    let stuck = join_all((0..200).map(|at| {
        // Lists, since there are more of them than orders.
        let path = format!("/v1/ordenes?limit=1&offset={at}");
        let world = &world;
        async move { world.get(&path).await }
    }));
    let meanwhile = async {
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 5")
            .await;
        world
            .wait_for_metric("llavero_upstream_requests_waiting 195")
            .await;
        for at in 0..20 {
            let path = format!("/v1/ordenes/{}", 21001 + at);
            world.get_as(&norte, &path).await.ok(200);
            world.get_as(&norte, &path).await.ok(200);
        }
        world.clock.advance(seconds(10));
        world
            .wait_for_metric("llavero_upstream_requests_waiting 0")
            .await;
        world.clock.advance(seconds(5));
    };
    let (replies, ()) = tokio::join!(stuck, meanwhile);
    let with = |status, code| count(&replies, status, code);
    assert_eq!(with(503, "overloaded"), 195);
    assert_eq!(with(504, "upstream-timeout"), 5);
    for reply in replies.iter().filter(|reply| reply.status == 503) {
        assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    world
        .wait_for_metric("llavero_upstream_requests_in_flight 0")
        .await;
}

#[tokio::test]
async fn after_a_429_everybody_waits_and_then_one_goes_first() {
    let world = World::start().await;
    world.faults(
        "carper",
        Faults::from(StatusFault {
            retry_after: Some("3".to_owned()),
            times: Some(1),
            ..StatusFault::new(429)
        }),
    );
    let requests = join_all((0..6).map(|at| {
        let world = &world;
        async move {
            while at > 0 && world.received().is_empty() {
                tokio::task::yield_now().await;
            }
            world.get(&orden(at)).await
        }
    }));
    let time = async {
        world
            .wait_for_metric("llavero_upstream_requests_waiting 6")
            .await;
        world.clock.advance(seconds(2));
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 0")
            .await;
        assert_eq!(world.received().len(), 1);
        world.clock.advance(seconds(1));
    };
    let (replies, ()) = tokio::join!(requests, time);
    for reply in replies {
        reply.ok(200);
    }
    let received = world.received();
    assert_eq!(received.len(), 7);
    assert_eq!(received[1].at_once, 1, "one tries first");
    assert!(received[2].at_once <= 2, "then two");
}

#[tokio::test]
async fn a_read_is_sent_again_after_502_503_and_504_and_a_write_is_not() {
    for status in [502, 503, 504] {
        let world = World::start().await;
        let _time = world.time_flies();
        // Five requests pay for one more.
        for at in 10..15 {
            world.get(&orden(at)).await.ok(200);
        }
        world.faults("carper", failing(status, Some(1)));
        world.get(ORDEN).await.ok(200);
        assert_eq!(world.received().len(), 5 + 2, "{status}");
        let metrics = world.metrics().await;
        assert!(metrics.contains(r#"llavero_upstream_retries_total{reason="unavailable"} 1"#));

        world.faults("carper", failing(status, Some(1)));
        world
            .patch(ORDEN, json!({"status": "cancelada"}))
            .await
            .problem(502, "upstream-error");
        assert_eq!(world.received().len(), 5 + 3, "{status}");
    }
}

#[tokio::test]
async fn nothing_else_is_sent_again() {
    let world = World::start().await;
    let _time = world.time_flies();
    for at in 10..40 {
        world.get(&orden(at)).await.ok(200);
    }
    let before = world.received().len();
    for fault in [
        failing(500, Some(1)),
        Faults {
            truncate: true,
            ..Faults::default()
        },
        Faults {
            html: true,
            ..Faults::default()
        },
        Faults::hanging(),
    ] {
        world.faults("carper", fault);
        assert!(world.get(ORDEN).await.status.is_server_error());
    }
    assert_eq!(world.received().len(), before + 4);
}

#[tokio::test]
async fn a_change_is_sent_again_after_429_since_it_was_not_taken() {
    let world = World::start().await;
    let _time = world.time_flies();
    world.faults("carper", failing(429, Some(1)));
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    assert_eq!(world.received().len(), 2);
}

#[tokio::test]
async fn an_erp_that_fails_sees_a_fifth_more_than_it_is_asked() {
    let world = World::start().await;
    let _time = world.time_flies();
    // Orders fail and lists don't, so the breaker stays closed.
    world.faults(
        "carper",
        Faults {
            only: Some(Only {
                method: None,
                path_contains: Some("ordenes_servicio/11".to_owned()),
            }),
            ..failing(503, None)
        },
    );
    for at in 0..100 {
        world.get(&orden(at)).await.problem(502, "upstream-error");
        let list = format!("/v1/ordenes?limit=1&offset={at}");
        world.get(&list).await.ok(200);
    }
    let received = world.received().len();
    assert!((201..=240).contains(&received), "{received} for 200");
}

#[tokio::test]
async fn after_five_failures_nothing_is_sent_until_a_trial_succeeds() {
    let world = World::start().await;
    world.faults("carper", failing(500, None));
    for at in 0..5 {
        world.get(&orden(at)).await.problem(502, "upstream-error");
    }
    let reply = world.get(ORDEN).await;
    reply.problem(503, "upstream-unavailable");
    let wait = reply.header("retry-after").parse::<u64>().unwrap();
    assert!((5..=6).contains(&wait), "{wait}");
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .problem(503, "upstream-unavailable");
    assert_eq!(world.received().len(), 5);
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await;
    assert_eq!(ready.status, 200, "the others are served");
    assert!(ready.text().contains("breaker of carper: open"));
    let metric = |state| format!(r#"llavero_upstream_breaker_state{{tenant="carper"}} {state}"#);
    world.wait_for_metric(&metric(2)).await;
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get_as(&norte, "/v1/ordenes").await.ok(200);

    // A trial that fails opens it again, for longer.
    world.clock.advance(seconds(6));
    world.get(ORDEN).await.problem(503, "upstream-unavailable");
    world.wait_for_metric(&metric(2)).await;
    world.clock.advance(seconds(6));
    world.get(ORDEN).await.problem(503, "upstream-unavailable");
    let to_carper = |world: &World| {
        let received = world.received();
        let theirs = received
            .into_iter()
            .filter(|it| it.clave.as_deref().is_some_and(|it| it.ends_with("carper")));
        theirs.collect::<Vec<_>>()
    };
    let trials = to_carper(&world);
    assert_eq!(trials.len(), 6);
    assert_eq!(
        (trials[5].method.as_str(), trials[5].query.as_deref()),
        ("GET", Some("limit=1"))
    );

    world.faults("carper", Faults::default());
    world.clock.advance(seconds(6));
    // The change waits for the trial, and isn't what tries.
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    world.wait_for_metric(&metric(0)).await;
    let sent = to_carper(&world);
    let methods: Vec<_> = sent[6..].iter().map(|it| it.method.as_str()).collect();
    assert_eq!(methods, ["GET", "PATCH"]);
}

#[tokio::test]
async fn what_waits_when_the_breaker_opens_is_not_sent_any_more() {
    let world = World::configured("upstream:\n  queue_timeout: 10m\n").await;
    world.faults("carper", Faults::hanging());
    let all = join_all((0..40).map(|at| {
        let (world, path) = (&world, orden(at));
        async move { world.get(&path).await }
    }));
    let time = async {
        world
            .wait_for_metric("llavero_upstream_requests_waiting 35")
            .await;
        world.clock.advance(seconds(15));
        // Those before the fifth failure give their turns on; the fifth opens it.
        world
            .wait_for_metric("llavero_upstream_requests_waiting 0")
            .await;
        world.clock.advance(seconds(15));
    };
    let (replies, ()) = tokio::join!(all, time);
    let with = |status, code| count(&replies, status, code);
    let sent = with(504, "upstream-timeout");
    assert!((5..=9).contains(&sent), "{sent} were sent");
    assert_eq!(with(503, "upstream-unavailable"), 40 - sent);
    assert_eq!(world.received().len(), sent);
}

#[tokio::test]
async fn an_erp_that_is_gone_for_ten_minutes() {
    // Somewhat longer than the default, since time flies in here.
    let world = World::configured("cache: {stale_if_error: 15m}\n").await;
    for at in 0..5 {
        world.get(&orden(at)).await.ok(200);
    }
    world.erp_goes_down().await;
    let mut refused_at_once = 0;
    for _ in 0..60 {
        world.clock.advance(seconds(10));
        let _time = world.time_flies();
        for at in 0..5 {
            let reply = world.get(&orden(at)).await;
            reply.ok(200);
            let status = reply.header("cache-status");
            let age = reply.header("age").parse::<u64>().unwrap();
            assert_eq!(age >= 30, status.contains("; detail=stale-"), "{status}");
        }
        let reply = world.patch(ORDEN, json!({"status": "cancelada"})).await;
        match reply.status.as_u16() {
            502 => {
                reply.problem(502, "upstream-error");
            }
            _ => {
                reply.problem(503, "upstream-unavailable");
                assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
                refused_at_once += 1;
            }
        }
        if reply.status == 503 && world.get(&orden(77)).await.status == 503 {
            refused_at_once += 1;
        }
    }
    assert!(refused_at_once > 100, "{refused_at_once} of 120");
    assert_eq!(
        world.received().len(),
        5,
        "nothing reached it, and nothing waits to"
    );

    world.erp_comes_back().await;
    world.clock.advance(seconds(72));
    world.get(&orden(50)).await;
    world
        .wait_for_metric(r#"llavero_upstream_breaker_state{tenant="carper"} 0"#)
        .await;
    world.faults("carper", slow(5));
    let replies = join_all((0..100).map(|at| {
        let (world, path) = (&world, orden(at));
        async move { world.get(&path).await }
    }));
    for reply in replies.await {
        reply.ok(200);
    }
    let received = world.received();
    let at_once: Vec<_> = received.iter().skip(5).map(|it| it.at_once).collect();
    assert!(at_once.iter().all(|it| *it <= 5), "{at_once:?}");
    assert!(
        at_once[..4].iter().all(|it| *it <= 2),
        "gently: {at_once:?}"
    );
    let read = world.get(ORDEN).await;
    assert_ne!(
        read.json()["status"],
        "cancelada",
        "no refused change came late"
    );
}

#[tokio::test]
async fn a_callers_batch_does_not_delay_another_caller() {
    let world = World::start().await;
    world.faults("carper", slow(10));
    let poller = world.token(&json!({"sub": "poller"}));
    let batch = join_all((0..120).map(|at| {
        let (world, poller, path) = (&world, &poller, orden(at));
        async move { world.get_as(poller, &path).await }
    }));
    let single = async {
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 5")
            .await;
        while world.received().len() < 20 {
            tokio::task::yield_now().await;
        }
        let before = world.received().len();
        world.get("/v1/ordenes?limit=7").await.ok(200);
        let received = world.received();
        let served = received
            .iter()
            .position(|it| it.query.as_deref().is_some_and(|it| it.contains("limit=7")));
        served.unwrap() - before
    };
    let (replies, turns) = tokio::join!(batch, single);
    assert!(turns <= 10, "it waited {turns} turns");
    for reply in replies {
        reply.ok(200);
    }
}

#[tokio::test]
async fn who_leaves_while_waiting_frees_the_place() {
    let world = World::start().await;
    world.faults("carper", Faults::hanging());
    let leaving: Vec<_> = (0..40)
        .map(|at| tokio::spawn(world.request(reqwest::Method::GET, &orden(at)).send()))
        .collect();
    world
        .wait_for_metric("llavero_upstream_requests_waiting 35")
        .await;
    world.wait_until_received(5).await;
    for leaves in leaving {
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
    }
    world
        .wait_for_metric("llavero_upstream_requests_waiting 0")
        .await;
    world.faults("carper", Faults::default());
    let stuck = world.received().len();
    assert!(stuck <= 5, "{stuck} were sent");
    let next = world.get("/v1/ordenes?limit=1");
    let time = async {
        world
            .wait_for_metric("llavero_upstream_requests_waiting 1")
            .await;
        // Those that were sent end by their own time.
        world.clock.advance(seconds(15) - Duration::from_millis(1));
        world.clock.advance(Duration::from_millis(1));
    };
    let (next, ()) = tokio::join!(next, time);
    assert!(next.status == 200 || next.status == 503, "{}", next.text());
    assert_eq!(
        world.received().len(),
        stuck + usize::from(next.status == 200)
    );
}

#[tokio::test]
async fn one_bad_order_is_no_outage() {
    let world = World::start().await;
    world.faults(
        "carper",
        Faults {
            only: Some(Only {
                method: None,
                path_contains: Some("ordenes_servicio/11001".to_owned()),
            }),
            ..failing(500, None)
        },
    );
    for at in 0..30 {
        world.get(ORDEN).await.problem(502, "upstream-error");
        world.get(&orden(1 + at)).await.ok(200);
        world.get(ORDEN).await.problem(502, "upstream-error");
    }
    for _ in 0..30 {
        world.get(ORDEN).await.problem(502, "upstream-error");
    }
    world.get(&orden(90)).await.ok(200);
}

#[tokio::test]
async fn a_path_that_is_always_limited_is_asked_three_times_at_most() {
    let world = World::start().await;
    let _time = world.time_flies();
    // What comes before pays for retries.
    for at in 10..60 {
        world.get(&orden(at)).await.ok(200);
    }
    let before = world.received().len();
    world.faults(
        "carper",
        Faults {
            only: Some(Only {
                method: None,
                path_contains: Some("ordenes_servicio/11001".to_owned()),
            }),
            status: Some(StatusFault {
                retry_after: Some("0".to_owned()),
                ..StatusFault::new(429)
            }),
            ..Faults::default()
        },
    );
    world.get(ORDEN).await.problem(503, "upstream-rate-limited");
    let sent = world.received().len() - before;
    assert!((1..=3).contains(&sent), "{sent} requests for a read");
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .problem(503, "upstream-rate-limited");
    let sent = world.received().len() - before - sent;
    assert!((1..=3).contains(&sent), "{sent} requests for a change");
}

#[tokio::test]
async fn when_the_breaker_opens_nobody_waits_on_whatever_credential() {
    let world = World::configured("upstream:\n  queue_timeout: 10m\n").await;
    world.faults("carper", Faults::hanging());
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    let first = join_all((0..5).map(|at| {
        let (world, path) = (&world, orden(at));
        async move { world.get(&path).await }
    }));
    let later = async {
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 5")
            .await;
        world.clock.advance(seconds(10));
        let later = join_all((0..15).map(|at| {
            let (world, tecnico, path) = (&world, &tecnico, orden(20 + at));
            async move { world.get_as(tecnico, &path).await }
        }));
        let time = async {
            world
                .wait_for_metric("llavero_upstream_requests_in_flight 10")
                .await;
            world
                .wait_for_metric("llavero_upstream_requests_waiting 10")
                .await;
            world.clock.advance(seconds(5));
            // The second five still hang, and nobody waits for their places.
            world
                .wait_for_metric("llavero_upstream_requests_waiting 0")
                .await;
            world
                .wait_for_metric("llavero_upstream_requests_in_flight 5")
                .await;
            world.clock.advance(seconds(10));
        };
        tokio::join!(later, time).0
    };
    let (first, later) = tokio::join!(first, later);
    for reply in first {
        reply.problem(504, "upstream-timeout");
    }
    let refused = later
        .iter()
        .filter(|reply| reply.json()["code"] == "upstream-unavailable");
    assert_eq!(refused.count(), 10);
}

#[tokio::test]
async fn who_joins_a_fetch_of_a_long_batch_does_not_wait_in_its_lane() {
    let world = World::start().await;
    world.faults("carper", slow(10));
    let poller = world.token(&json!({"sub": "poller"}));
    let batch = join_all((0..120).map(|at| {
        let (world, poller, path) = (&world, &poller, orden(at));
        async move { world.get_as(poller, &path).await }
    }));
    // Nearly the last that the poller asks for.
    let last = "ordenes_servicio/11120/";
    let single = async {
        while world.received().len() < 10 {
            tokio::task::yield_now().await;
        }
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 5")
            .await;
        let before = world.received().len();
        let path = "/v1/ordenes/11120";
        let reply = world.get(path).await;
        reply.ok(200);
        let received = world.received();
        let served = received.iter().position(|it| it.path.ends_with(last));
        served.unwrap().saturating_sub(before)
    };
    let (replies, turns) = tokio::join!(batch, single);
    assert!(turns <= 10, "it waited {turns} turns");
    for reply in replies {
        reply.ok(200);
    }
}

/// As many uploads as that caller may have under way with `max_concurrency`, and then as a colleague may beside them.
#[tokio::test]
async fn one_callers_photos_leave_room_for_reads_changes_and_a_colleagues_photo() {
    for (max_concurrency, own, all) in [(5, 3, 4), (2, 1, 1)] {
        let settings = format!(
            "upstream:\n  upload_timeout: 30s\n  max_concurrency: {max_concurrency}\nimages: {{dedupe_window: 0}}\n"
        );
        let world = World::configured(&settings).await;
        let only_uploads = Only {
            method: Some("POST".to_owned()),
            path_contains: None,
        };
        world.faults(
            "carper",
            Faults {
                only: Some(only_uploads),
                ..Faults::hanging()
            },
        );
        let token = |subject: &str| {
            let scope = "ordenes:read ordenes:write imagenes:write";
            world.token(&json!({"sub": subject, "scope": scope}))
        };
        let (ana, beto) = (token("ana"), token("beto"));
        let upload = |token: &str, at: usize| {
            let image = multipart::Part::bytes(photo("sony-rx1r.jpg"));
            let image = image.file_name("foto.jpg").mime_str("image/jpeg").unwrap();
            let form = multipart::Form::new().part("imagen", image);
            let request = world
                .bare(Method::POST, &format!("{}/imagenes", orden(at)))
                .bearer_auth(token)
                .multipart(form.text("proceso", "antes"));
            world.send(request)
        };
        let batch = join_all((0..10).map(|at| upload(&ana, at)));
        let colleague = upload(&beto, 20);
        let is_under_way = async |uploads: usize, waiting: usize| {
            let line = format!("llavero_upstream_requests_in_flight {uploads}");
            world.wait_for_metric(&line).await;
            let line = format!("llavero_upstream_requests_waiting {waiting}");
            world.wait_for_metric(&line).await;
        };
        let rest = async {
            is_under_way(own, 10 - own).await;
            let others = async {
                is_under_way(all, 11 - all).await;
                for at in 30..40 {
                    world.get_as(&beto, &orden(at)).await.ok(200);
                    world.get_as(&ana, &orden(at + 20)).await.ok(200);
                }
                let request = world.bare(Method::PATCH, ORDEN).bearer_auth(&beto);
                let change = request.json(&json!({"status": "cancelada"}));
                world.send(change).await.ok(200);
                is_under_way(all, 11 - all).await;
                world.clock.advance(seconds(10));
                is_under_way(all, 0).await;
                world.clock.advance(seconds(20));
            };
            tokio::join!(colleague, others).0
        };
        let (batch, colleague) = tokio::join!(batch, rest);
        assert_eq!(count(&batch, 504, "upstream-timeout"), own);
        assert_eq!(count(&batch, 503, "overloaded"), 10 - own);
        let is_sent = colleague.status == 504;
        assert_eq!(is_sent, all > own, "{}", colleague.text());
    }
}
