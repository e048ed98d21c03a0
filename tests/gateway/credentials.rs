//! Credentials that log in, keys that are replaced, and an ERP that refuses them.

use futures_util::future::join_all;
use llavero_simulator::{
    Faults, Only, Paging, ReceivedRequest, StatusFault, TenantSeed, TokenKind, UserChange, UserSeed,
};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{Reply, World, key, leaks, password, photo, seconds, with_clave};

const ORDEN: &str = "/v1/ordenes/11001";
const JWT: &str = "{login: {username: app, password: {file: ../app.password}}}";
const KEY_LOGIN: &str =
    "{login: {username: app, password: {file: ../app.password}, mode: api_key}}";
/// The first is of the user `app`, the second of `tecnicos`, so that it shows which is used.
const PAIR: &str = "{api_key: [{file: ../carper-default.key}, {file: ../carper-tecnicos.key}]}";
/// The next one is nobody's yet.
const UNKNOWN_NEXT: &str =
    "{api_key: [{file: ../carper-default.key}, {file: ../carper-nobody.key}]}";
const ONLY_LOGINS: &str = "token/";

/// Orders that both users see.
fn orden(at: usize) -> String {
    format!("/v1/ordenes/{}", 11001 + 2 * (at % 60))
}

fn only(path: &str, faults: Faults) -> Faults {
    Faults {
        only: Some(Only {
            method: None,
            path_contains: Some(path.to_owned()),
        }),
        ..faults
    }
}

fn of_carper(world: &World, path: &str) -> Vec<ReceivedRequest> {
    let fits = |it: &ReceivedRequest| {
        it.clave == Some(with_clave("carper")) && it.path.contains(&format!("/{path}"))
    };
    world.received().into_iter().filter(fits).collect()
}

/// Logins and refreshes that the ERP received, and requests.
fn counts(world: &World) -> (usize, usize, usize) {
    let count = |path| of_carper(world, path).len();
    (
        count("token/") + count("login_usuario/"),
        count("refresh/"),
        count("ordenes_servicio"),
    )
}

fn revoke(world: &World, kind: TokenKind) {
    assert!(world.erp.revoke_tokens(&with_clave("carper"), Some(kind)));
}

fn change(world: &World, username: &str, change: UserChange) {
    assert!(
        world
            .erp
            .change_user(&with_clave("carper"), username, change)
    );
}

/// Nobody's key any more.
fn revoke_key(world: &World, username: &str) {
    let api_key = Some("of-nobody".to_owned());
    let password = None;
    change(world, username, UserChange { password, api_key });
}

async fn many(world: &World, number: usize) -> Vec<Reply> {
    let requests = (0..number).map(|at| {
        // Sixty different ones; equal ones are one to the ERP.
        let path = orden(at);
        async move { world.get(&path).await }
    });
    join_all(requests).await
}

/// How many log lines of this test hold a text.
fn count_lines(text: &str) -> usize {
    leaks::own_lines_with(text).len()
}

/// The log's lines of one request that say that its credential is refused.
fn told_of(reply: &Reply) -> Vec<Value> {
    let lines = leaks::lines_with(reply.header("x-request-id"));
    let fits = |line: &Value| line.to_string().contains("the ERP refuses this credential");
    lines.into_iter().filter(fits).collect()
}

async fn is_shown(world: &World, line: &str) -> bool {
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    world.send(ready).await.text().contains(line)
}

/// The other tenant has a key of its own and must notice nothing.
async fn norte_is_well(world: &World) {
    let norte = world.token(&json!({"tenant": "norte"}));
    let list = format!("/v1/ordenes?limit=1&offset={}", world.received().len() % 80);
    world.get_as(&norte, &list).await.ok(200);
}

#[tokio::test]
async fn two_hundred_cold_requests_log_in_once() {
    for (credential, header) in [(JWT, "authorization"), (KEY_LOGIN, "api-key")] {
        let world = World::with_default(credential, "").await;
        for reply in many(&world, 200).await {
            reply.ok(200);
        }
        let (logins, refreshes, _) = counts(&world);
        assert_eq!((logins, refreshes), (1, 0), "{credential}");
        for request in of_carper(&world, "ordenes_servicio") {
            assert_eq!(request.credential.as_deref(), Some("app"));
            let secrets = ["authorization", "api-key"];
            let sent: Vec<_> = secrets
                .into_iter()
                .filter(|name| request.headers.iter().any(|it| it == name))
                .collect();
            assert_eq!(sent, [header]);
        }
        let login = of_carper(&world, "").remove(0);
        assert_eq!(login.method, "POST");
        assert!(
            !login
                .headers
                .iter()
                .any(|it| it == "authorization" || it == "api-key")
        );
        assert!(
            world
                .metrics()
                .await
                .contains(r#"llavero_logins_total{result="ok"} 1"#)
        );
        norte_is_well(&world).await;
    }
}

#[tokio::test]
async fn a_session_is_refreshed_before_it_ends_and_nobody_waits_for_it() {
    let world = World::with_default(JWT, "").await;
    world.get(&orden(0)).await.ok(200);
    world.clock.advance(seconds(239));
    world.get(&orden(1)).await.ok(200);
    assert_eq!(counts(&world), (1, 0, 2));
    world.clock.advance(seconds(1));
    // The refresh hangs; the request doesn't.
    let hang = Faults::hanging();
    world.faults("carper", only("refresh/", hang));
    world.get(&orden(2)).await.ok(200);
    world
        .wait_for_metric("llavero_upstream_requests_in_flight 1")
        .await;
    world.get(&orden(3)).await.ok(200);
    world.faults("carper", Faults::default());
    world.clock.advance(seconds(15));
    world
        .wait_for_metric(r#"llavero_login_refreshes_total{result="failed"} 1"#)
        .await;
    world.get(&orden(4)).await.ok(200);
    world
        .wait_for_metric(r#"llavero_login_refreshes_total{result="ok"} 1"#)
        .await;
    // The first one's life is over; what the refresh gave is good.
    world.clock.advance(seconds(200));
    world.get(&orden(5)).await.ok(200);
    assert_eq!(counts(&world), (1, 2, 6));
}

#[tokio::test]
async fn a_session_that_has_ended_is_refreshed_and_one_that_cant_be_logs_in_anew() {
    let world = World::with_default(JWT, "").await;
    world.get(&orden(0)).await.ok(200);
    world.clock.advance(seconds(301));
    for reply in many(&world, 50).await {
        reply.ok(200);
    }
    let (logins, refreshes, _) = counts(&world);
    assert_eq!((logins, refreshes), (1, 1));
    world.clock.advance(seconds(301));
    revoke(&world, TokenKind::Refresh);
    for reply in many(&world, 50).await {
        reply.ok(200);
    }
    let (logins, refreshes, _) = counts(&world);
    assert_eq!((logins, refreshes), (2, 2));
    norte_is_well(&world).await;
}

#[tokio::test]
async fn a_password_that_changes_shows_when_the_session_ends_and_not_before() {
    let world = World::with_default(JWT, "").await;
    world.get(&orden(0)).await.ok(200);
    let other = UserChange {
        password: Some("otra".to_owned()),
        api_key: None,
    };
    change(&world, "app", other);
    revoke(&world, TokenKind::Refresh);
    world.clock.advance(seconds(241));
    world.get(&orden(1)).await.ok(200);
    world
        .wait_for_metric(r#"llavero_logins_total{result="refused"} 1"#)
        .await;
    world.get(&orden(2)).await.ok(200);
    assert_eq!(counts(&world), (2, 1, 3));
    world.clock.advance(seconds(59));
    world
        .get(&orden(3))
        .await
        .problem(502, "upstream-credential-rejected");
    assert_eq!(counts(&world), (2, 1, 3), "the refusal is believed");
    let shown = "credential default of carper: refused by the ERP with 401";
    assert!(is_shown(&world, shown).await);
}

#[tokio::test]
async fn a_hundred_refused_requests_log_in_once_more_and_are_served() {
    for credential in [JWT, KEY_LOGIN] {
        let world = World::with_default(
            credential,
            "cache: {ttl: {list: 0s, detail: 0s}, stale_while_revalidate: 0s}\n",
        )
        .await;
        world.get(ORDEN).await.ok(200);
        world.erp.clear_requests();
        revoke(&world, TokenKind::Access);
        revoke_key(&world, "app");
        let lists = (0..100).map(|at| {
            let world = &world;
            async move { world.get(&format!("/v1/ordenes?limit=1&offset={at}")).await }
        });
        for reply in join_all(lists).await {
            reply.ok(200);
        }
        let (logins, refreshes, requests) = counts(&world);
        assert_eq!((logins, refreshes), (1, 0), "{credential}");
        assert!((101..=105).contains(&requests), "{requests}");
        norte_is_well(&world).await;
    }
}

#[tokio::test]
async fn an_erp_that_refuses_every_token_sees_one_more_login_and_no_loop() {
    let world = World::with_default(JWT, "").await;
    let expired = Faults {
        expired_tokens: true,
        ..Faults::default()
    };
    world.faults("carper", expired);
    for reply in many(&world, 100).await {
        reply.problem(502, "upstream-credential-rejected");
    }
    let (logins, refreshes, requests) = counts(&world);
    assert_eq!((logins, refreshes), (2, 0));
    assert!((60..=65).contains(&requests), "{requests}");
    assert!(
        is_shown(
            &world,
            "credential default of carper: refused by the ERP with 401 for 0 s"
        )
        .await
    );
    world
        .wait_for_metric("llavero_credentials_rejected 1")
        .await;
    norte_is_well(&world).await;

    // Another login is tried after a while, and then more seldom.
    for (advance, logins) in [(9, 2), (1, 3), (59, 3), (1, 4), (119, 4), (1, 5)] {
        world.clock.advance(seconds(advance));
        for reply in many(&world, 20).await {
            reply.problem(502, "upstream-credential-rejected");
        }
        assert_eq!(counts(&world).0, logins);
    }

    world.faults("carper", Faults::default());
    world.get(ORDEN).await.ok(200);
    assert_eq!(counts(&world).0, 5);
    world
        .wait_for_metric("llavero_credentials_rejected 0")
        .await;
    world
        .wait_for_metric(r#"llavero_credential_rejected{tenant="carper",credential="default"} 0"#)
        .await;
    assert!(!is_shown(&world, "credential default").await);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_a_minute_and_then_less() {
    for credential in [JWT, KEY_LOGIN] {
        let world = World::with_default(credential, "").await;
        let wrong = UserChange {
            password: Some("otra".to_owned()),
            api_key: None,
        };
        change(&world, "app", wrong);
        for (advance, tried) in [(0, 1), (59, 1), (1, 2), (119, 2), (1, 3)] {
            world.clock.advance(seconds(advance));
            for reply in many(&world, 20).await {
                reply.problem(502, "upstream-credential-rejected");
            }
            world
                .patch(ORDEN, json!({"status": "cancelada"}))
                .await
                .problem(502, "upstream-credential-rejected");
            assert_eq!(counts(&world), (tried, 0, 0), "{credential}");
        }
        let refused = r#"llavero_logins_total{result="refused"} 3"#;
        world.wait_for_metric(refused).await;
        norte_is_well(&world).await;
        // The old one is good again.
        let right = UserChange {
            password: Some(password()),
            api_key: None,
        };
        change(&world, "app", right);
        world.clock.advance(seconds(240));
        world.get(ORDEN).await.ok(200);
    }
}

#[tokio::test]
async fn a_login_that_fails_is_shared_by_those_who_waited() {
    let hang = Faults::hanging();
    let html = Faults {
        html: true,
        ..Faults::default()
    };
    let garbage = Faults {
        garbage: true,
        ..Faults::default()
    };
    let truncate = Faults {
        truncate: true,
        ..Faults::default()
    };
    let redirect = Faults {
        redirect: Some("http://127.0.0.1:9/".to_owned()),
        ..Faults::default()
    };
    for (fault, answer, code) in [
        (hang, 504, "upstream-timeout"),
        (Faults::answering(500), 502, "upstream-error"),
        (Faults::answering(404), 502, "upstream-error"),
        (html, 502, "upstream-error"),
        (garbage, 502, "upstream-error"),
        (truncate, 502, "upstream-error"),
        (redirect, 502, "upstream-error"),
        (Faults::answering(204), 502, "upstream-error"),
        (Faults::answering(403), 502, "upstream-credential-rejected"),
        (Faults::answering(400), 502, "upstream-credential-rejected"),
    ] {
        let world = World::with_default(JWT, "upstream:\n  queue_timeout: 1m\n").await;
        let fault = Faults {
            hold: true,
            ..fault
        };
        world.faults("carper", only(ONLY_LOGINS, fault.clone()));
        let all = many(&world, 60);
        let time = async {
            world
                .wait_for_metric("llavero_upstream_requests_waiting 55")
                .await;
            while counts(&world).0 == 0 {
                tokio::task::yield_now().await;
            }
            assert!(world.erp.let_go(&with_clave("carper")));
            if fault.hang {
                world.clock.advance(seconds(15));
            }
        };
        let (replies, ()) = tokio::join!(all, time);
        for reply in replies {
            let problem = reply.problem(answer, code);
            let detail = problem["detail"].as_str().unwrap();
            assert!(!detail.contains("may have been made"), "{detail}");
        }
        assert_eq!(counts(&world), (1, 0, 0), "{fault:?}");
        norte_is_well(&world).await;
        // The failure isn't kept for those who come later.
        world.faults("carper", Faults::default());
        world.clock.advance(seconds(60));
        world.get(ORDEN).await.ok(200);
    }
}

#[tokio::test]
async fn a_login_that_is_limited_pauses_the_credential_and_is_made_after_it() {
    let world = World::with_default(JWT, "").await;
    let limited = Faults::from(StatusFault {
        retry_after: Some("3".to_owned()),
        times: Some(1),
        ..StatusFault::new(429)
    });
    world.faults("carper", only(ONLY_LOGINS, limited));
    let all = many(&world, 20);
    let time = async {
        while counts(&world).0 == 0 {
            tokio::task::yield_now().await;
        }
        world
            .wait_for_metric("llavero_upstream_requests_in_flight 0")
            .await;
        world.wait_until_authenticated(20).await;
        assert_eq!(counts(&world), (1, 0, 0), "nobody goes during the pause");
        world.clock.advance(seconds(4));
    };
    let (replies, ()) = tokio::join!(all, time);
    for reply in replies {
        reply.ok(200);
    }
    assert_eq!(counts(&world).0, 2);
}

#[tokio::test]
async fn a_login_that_fails_for_a_moment_is_made_again_and_an_outage_opens_the_breaker() {
    let world = World::with_default(JWT, "").await;
    let _time = world.time_flies();
    // What comes before pays for retries.
    for at in 0..20 {
        world.get(&orden(at)).await.ok(200);
    }
    revoke(&world, TokenKind::Access);
    let once = Faults::from(StatusFault {
        times: Some(1),
        ..StatusFault::new(503)
    });
    world.faults("carper", only(ONLY_LOGINS, once));
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    revoke(&world, TokenKind::Access);
    world.faults("carper", only(ONLY_LOGINS, Faults::answering(503)));
    world.clock.advance(seconds(30));
    for at in 20..40 {
        world.get(&format!("/v1/ordenes?limit=1&offset={at}")).await;
    }
    let open = "breaker of carper: ";
    assert!(is_shown(&world, open).await);
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get_as(&norte, "/v1/ordenes").await.ok(200);
    world.faults("carper", Faults::default());
    world.clock.advance(seconds(72));
    world.get(&orden(50)).await;
    world
        .wait_for_metric(r#"llavero_upstream_breaker_state{tenant="carper"} 0"#)
        .await;
    world.get(&orden(50)).await.ok(200);
}

#[tokio::test]
async fn writes_are_sent_again_after_a_401_and_arrive_once() {
    let world = World::with_default(JWT, "").await;
    world.get(ORDEN).await.ok(200);
    revoke(&world, TokenKind::Access);
    let image = photo("sony-rx1r.jpg");
    let form = Form::new()
        .part("imagen", Part::bytes(image.clone()).file_name("foto.jpg"))
        .text("proceso", "antes");
    let before = world.erp.orden(&with_clave("carper"), 11001).unwrap();
    let uploaded = world
        .upload(&format!("{ORDEN}/imagenes"), form)
        .await
        .ok(201);
    let id = uploaded["id"].as_u64().unwrap();
    assert_eq!(world.erp.imagen(&with_clave("carper"), id), Some(image));
    let after = world.erp.orden(&with_clave("carper"), 11001).unwrap();
    let archivos = |orden: &Value| orden["archivos"].as_array().unwrap().len();
    assert_eq!(archivos(&after), archivos(&before) + 1);
    let uploads = of_carper(&world, "ordenes_servicio/11001/adjuntar_imagen/");
    let answered: Vec<_> = uploads.iter().map(|it| it.status).collect();
    assert_eq!(answered, [Some(401), Some(201)]);

    world.clock.advance(seconds(10));
    revoke(&world, TokenKind::Access);
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    assert_eq!(counts(&world).0, 3);
}

#[tokio::test]
async fn a_403_is_no_reason_to_log_in_anew() {
    let world = World::with_default(JWT, "").await;
    world.get(&orden(0)).await.ok(200);
    world.faults(
        "carper",
        only("ordenes_servicio/11001", Faults::answering(403)),
    );
    for _ in 0..3 {
        world
            .patch(ORDEN, json!({"status": "cancelada"}))
            .await
            .problem(502, "upstream-credential-rejected");
    }
    world.get(&orden(5)).await.ok(200);
    assert_eq!(counts(&world), (1, 0, 5));
}

#[tokio::test]
async fn one_order_that_is_always_refused_costs_no_login_each_time() {
    let world = World::with_default(JWT, "").await;
    world.get(&orden(5)).await.ok(200);
    world.faults(
        "carper",
        only("ordenes_servicio/11001", Faults::answering(401)),
    );
    for at in 6..16 {
        world
            .patch(ORDEN, json!({"status": "cancelada"}))
            .await
            .problem(502, "upstream-credential-rejected");
        world.get(&orden(at)).await.ok(200);
    }
    assert_eq!(counts(&world).0, 2);
}

#[tokio::test]
async fn a_credential_that_is_refused_is_shown_and_told_of_once() {
    let world = World::start().await;
    revoke_key(&world, "app");
    for at in 0..5 {
        let reply = world.get(&orden(at)).await;
        reply.problem(502, "upstream-credential-rejected");
        let told = told_of(&reply);
        assert_eq!(told.len(), usize::from(at == 0));
        for line in told {
            assert_eq!(line["level"], "ERROR");
        }
    }
    let gauge = |value| {
        format!("llavero_credential_rejected{{tenant=\"carper\",credential=\"default\"}} {value}")
    };
    world.wait_for_metric(&gauge(1)).await;
    world.clock.advance(seconds(7));
    let shown = "credential default of carper: refused by the ERP with 401 for 7 s";
    assert!(is_shown(&world, shown).await);
    norte_is_well(&world).await;
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    world.get_as(&tecnico, ORDEN).await.ok(200);
    world
        .wait_for_metric("llavero_credentials_rejected 1")
        .await;

    // Back and forth within a minute is told of once.
    for (at, told) in [(10, 0), (11, 0), (12, 1)] {
        if told == 1 {
            world.clock.advance(seconds(60));
        }
        let api_key = Some(key("carper", "default"));
        let password = None;
        change(&world, "app", UserChange { password, api_key });
        world.get(&orden(at)).await.ok(200);
        world.wait_for_metric(&gauge(0)).await;
        assert!(!is_shown(&world, "credential default").await);
        revoke_key(&world, "app");
        let reply = world.get(&orden(at + 20)).await;
        reply.problem(502, "upstream-credential-rejected");
        assert_eq!(told_of(&reply).len(), told);
        world.wait_for_metric(&gauge(1)).await;
    }
}

/// The cheap requests with which keys are tried, where the test itself asks for no list.
fn probes(world: &World) -> Vec<ReceivedRequest> {
    let mut probes = of_carper(world, "ordenes_servicio/");
    probes.retain(|it| it.query.as_deref() == Some("limit=1"));
    probes
}

/// Waits for so many of them to be answered, and for the gateway to have seen that.
async fn wait_for_probes(world: &World, number: usize) {
    let answered = || {
        let probes = probes(world);
        probes.iter().filter(|it| it.status.is_some()).count()
    };
    let begun = std::time::Instant::now();
    while answered() < number {
        assert!(begun.elapsed() < seconds(30), "no probe comes");
        tokio::task::yield_now().await;
    }
    world
        .wait_for_metric("llavero_upstream_requests_in_flight 0")
        .await;
}

#[tokio::test]
async fn a_next_key_is_tried_and_takes_over_before_the_old_one_is_revoked() {
    let world = World::with_default(PAIR, "").await;
    wait_for_probes(&world, 1).await;
    let user = |request: &ReceivedRequest| request.credential.clone().unwrap_or_default();
    assert_eq!(user(&probes(&world)[0]), "tecnicos");
    world.get(ORDEN).await.ok(200);
    let used = of_carper(&world, "ordenes_servicio/11001");
    assert_eq!(user(&used[0]), "tecnicos", "it took over");
    revoke_key(&world, "app");
    for reply in many(&world, 40).await {
        reply.ok(200);
    }
    let received = of_carper(&world, "");
    assert!(received.iter().all(|it| it.status == Some(200)));
    for _ in 0..3 {
        world.clock.advance(seconds(30));
        world.get(ORDEN).await.ok(200);
    }
    assert_eq!(probes(&world).len(), 1, "there is nothing left to try");
    norte_is_well(&world).await;
}

#[tokio::test]
async fn a_next_key_that_is_refused_is_tried_again_until_it_is_good() {
    let warning = "the ERP refuses this credential's next key";
    let warned = count_lines(warning);
    let world = World::with_default(UNKNOWN_NEXT, "").await;
    for round in 1..4 {
        wait_for_probes(&world, round).await;
        world.get(&orden(round)).await.ok(200);
        let used = of_carper(&world, "").pop().unwrap();
        assert_eq!(used.credential.as_deref(), Some("app"));
        assert_eq!(probes(&world).len(), round);
        assert_eq!(probes(&world)[round - 1].status, Some(401));
        world.clock.advance(seconds(30));
    }
    wait_for_probes(&world, 4).await;
    assert!(
        !is_shown(&world, "credential default").await,
        "the present key is well"
    );
    let told = count_lines(warning) - warned;
    let api_key = Some(key("carper", "nobody"));
    let password = None;
    change(&world, "tecnicos", UserChange { password, api_key });
    world.clock.advance(seconds(30));
    wait_for_probes(&world, 5).await;
    world.get(ORDEN).await.ok(200);
    let used = of_carper(&world, "ordenes_servicio/11001").pop().unwrap();
    assert_eq!(used.credential.as_deref(), Some("tecnicos"));
    assert_eq!(told, 1, "it is told of once");

    // Nothing has tried the next key when the present one is revoked: the requests find out.
    let world = World::with_default(UNKNOWN_NEXT, "").await;
    wait_for_probes(&world, 1).await;
    let api_key = Some(key("carper", "nobody"));
    let password = None;
    change(&world, "tecnicos", UserChange { password, api_key });
    revoke_key(&world, "app");
    for reply in many(&world, 100).await {
        reply.ok(200);
    }
    let refused = of_carper(&world, "");
    let refused = refused.iter().filter(|it| it.status == Some(401)).count();
    assert!(
        (2..=6).contains(&refused),
        "{refused}: whoever came later used the other at once"
    );
    world
        .patch(ORDEN, json!({"status": "cancelada"}))
        .await
        .ok(200);
    // Nothing loops where both are bad.
    revoke_key(&world, "tecnicos");
    let before = world.received().len();
    world
        .patch(ORDEN, json!({"status": "en_proceso"}))
        .await
        .problem(502, "upstream-credential-rejected");
    assert_eq!(world.received().len(), before + 2);
    // And the first comes back, where it is good again.
    let api_key = Some(key("carper", "default"));
    change(
        &world,
        "app",
        UserChange {
            password: None,
            api_key,
        },
    );
    let before = world.received().len();
    world
        .patch(ORDEN, json!({"status": "terminada"}))
        .await
        .ok(200);
    // A key that was refused as well took nothing over: the other one was still active.
    assert_eq!(world.received().len(), before + 2);
    norte_is_well(&world).await;
}

#[tokio::test]
async fn a_refresh_token_that_changes_with_each_refresh_is_kept_up_with() {
    let world = World::with_default(JWT, "").await;
    let user = UserSeed::new("app", password(), key("carper", "default"));
    let seed = TenantSeed::new(with_clave("carper")).orders(127, 11001);
    world.erp.add_tenant(TenantSeed {
        rotate_refresh: true,
        ..seed.user(user)
    });
    for at in 0..5 {
        world.get(&orden(at)).await.ok(200);
        world.clock.advance(seconds(301));
    }
    assert_eq!(counts(&world), (1, 4, 5));
}

#[tokio::test]
async fn who_leaves_takes_no_login_along() {
    let world = World::with_default(JWT, "").await;
    world.holds("carper");
    let leaves = world
        .request(reqwest::Method::GET, &orden(0))
        .header("x-request-id", "who-waited-for-a-login");
    let leaves = tokio::spawn(leaves.send());
    world.wait_until_received(1).await;
    let path = orden(1);
    let (stays, ()) = tokio::join!(world.get(&path), async {
        world.wait_until_authenticated(2).await;
        leaves.abort();
        world.wait_until_left("who-waited-for-a-login").await;
        world.lets_go("carper");
    });
    stays.ok(200);
    assert_eq!(counts(&world).0, 1);
}

#[tokio::test]
async fn a_logins_cursor_leads_on_and_is_no_other_credentials() {
    let world = World::with_default(JWT, "").await;
    world.faults(
        "carper",
        Faults {
            paging: Some(Paging::Page),
            ..Faults::default()
        },
    );
    let first = world.get("/v1/ordenes?limit=50").await.ok(200);
    let next = first["next"].as_str().unwrap().to_owned();
    assert!(next.contains("cursor="), "{next}");
    let second = world.get(&next).await.ok(200);
    assert_eq!(second["results"][0]["id"], 11051);
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    world
        .get_as(&tecnico, &next)
        .await
        .problem(400, "invalid-parameter");
}

/// Each would count as another wrong password.
#[tokio::test]
async fn a_login_that_gives_no_session_is_not_tried_again_at_once() {
    let html = Faults {
        html: true,
        ..Faults::default()
    };
    let garbage = Faults {
        garbage: true,
        ..Faults::default()
    };
    let redirect = Faults {
        redirect: Some("http://127.0.0.1:9/".to_owned()),
        ..Faults::default()
    };
    for fault in [
        html,
        garbage,
        redirect,
        Faults::answering(404),
        Faults::answering(423),
        Faults::answering(204),
    ] {
        let world = World::with_default(JWT, "").await;
        world.faults("carper", only(ONLY_LOGINS, fault.clone()));
        for _ in 0..4 {
            assert_eq!(world.get(ORDEN).await.status, 502);
        }
        assert_eq!(counts(&world), (1, 0, 0), "{fault:?}");
        world.clock.advance(seconds(60));
        assert_eq!(world.get(ORDEN).await.status, 502);
        assert_eq!(counts(&world), (2, 0, 0), "{fault:?}");
    }
}
