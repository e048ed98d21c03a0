//! Single odd answers of an upstream, none of whose words may come through.

use std::time::Duration;

use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_json, method},
};

use crate::harness::{
    Reply, World,
    leaks::{CLAVE_MARK, KEY_MARK, UPSTREAM_MARK},
    photo,
};

/// The gateway before an upstream that answers everything so, with all that must not come through.
async fn before(answer: ResponseTemplate) -> (MockServer, World) {
    let server = MockServer::start().await;
    let answer = answer
        .insert_header("x-upstream", UPSTREAM_MARK)
        .insert_header("set-cookie", format!("s={UPSTREAM_MARK}"))
        .insert_header("server", UPSTREAM_MARK);
    Mock::given(wiremock::matchers::any())
        .respond_with(answer)
        .mount(&server)
        .await;
    let world = World::before_upstream(&format!("{}/{{clave}}/api/v2/", server.uri()), "").await;
    (server, world)
}

fn words() -> String {
    format!("<h1>{UPSTREAM_MARK}</h1> https://{CLAVE_MARK}-carper.admintotal.com/ {KEY_MARK}")
}

async fn each_operation(world: &World) -> [Reply; 4] {
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(photo("sony-rx1r.jpg")));
    [
        world.get("/v1/ordenes").await,
        world.get("/v1/ordenes/11001").await,
        world.patch("/v1/ordenes/11001", json!({"status": 2})).await,
        world.upload("/v1/ordenes/11001/imagenes", form).await,
    ]
}

#[tokio::test]
async fn each_status_has_its_problem_for_every_operation() {
    for (upstream, status, code) in [
        (301, 502, "upstream-error"),
        (302, 502, "upstream-error"),
        (304, 502, "upstream-error"),
        (400, 422, "upstream-validation"),
        (401, 502, "upstream-credential-rejected"),
        (403, 502, "upstream-credential-rejected"),
        (404, 404, "not-found"),
        (405, 502, "upstream-error"),
        (409, 502, "upstream-error"),
        (418, 502, "upstream-error"),
        (422, 422, "upstream-validation"),
        (429, 503, "upstream-rate-limited"),
        (500, 502, "upstream-error"),
        (503, 502, "upstream-error"),
        (599, 502, "upstream-error"),
    ] {
        let answer = ResponseTemplate::new(upstream)
            .insert_header(
                "location",
                format!("https://evil.example.com/?{UPSTREAM_MARK}").as_str(),
            )
            .insert_header(
                "www-authenticate",
                format!("Bearer realm={UPSTREAM_MARK}").as_str(),
            )
            .set_body_string(words());
        let (_server, world) = before(answer).await;
        let _time = world.time_flies();
        let [list, others @ ..] = each_operation(&world).await;
        // A list has no id that could be wrong.
        match upstream {
            404 => list.problem(502, "upstream-error"),
            _ => list.problem(status, code),
        };
        for reply in others {
            reply.problem(status, code);
            assert!(reply.header("www-authenticate").is_empty());
        }
    }
}

#[tokio::test]
async fn a_429_says_when_to_come_back() {
    for (sent, told) in [
        ("7", 7..=7),
        ("0", 1..=15),
        ("nonsense", 1..=15),
        ("99999999", 300..=300),
    ] {
        let (_server, world) =
            before(ResponseTemplate::new(429).insert_header("retry-after", sent)).await;
        let _time = world.time_flies();
        let reply = world.get("/v1/ordenes").await;
        reply.problem(503, "upstream-rate-limited");
        let seconds = reply.header("retry-after").parse::<u64>().unwrap();
        assert!(told.contains(&seconds), "{seconds} for {sent}");
    }
}

#[tokio::test]
async fn an_answer_of_another_form_is_an_error() {
    for body in [
        String::new(),
        words(),
        "null".to_owned(),
        "{\"count\": 1".to_owned(),
        format!("{{\"detail\": \"{UPSTREAM_MARK}\"}}"),
        format!("{{\"count\": 1, \"results\": \"{UPSTREAM_MARK}\"}}"),
        format!("{{\"count\": 1, \"results\": [5, \"{UPSTREAM_MARK}\"]}}"),
    ] {
        let (_server, world) =
            before(ResponseTemplate::new(200).set_body_raw(body.clone(), "application/json")).await;
        for (reply, codes) in each_operation(&world).await.into_iter().zip([
            &["upstream-error"][..],
            &["upstream-error", "upstream-mismatch"],
            &["upstream-error", "upstream-mismatch"],
            &["upstream-error"],
        ]) {
            // It took the photo, whatever it says of it.
            if reply.status == 201 {
                assert!(!reply.text().contains(UPSTREAM_MARK));
                continue;
            }
            let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
            assert!(codes.contains(&code.as_str()), "{body:?}: {}", reply.text());
            reply.problem(502, &code);
        }
    }
}

#[tokio::test]
async fn links_to_strange_places_never_come_through() {
    for next in [
        json!("https://evil.example.com/ordenes_servicio/?offset=50"),
        json!("//evil.example.com/?limit=5"),
        json!("javascript:alert(1)"),
        json!("?limit=5&offset=5&host=evil.example.com"),
        json!("../../otra/?page=2"),
        json!(format!(
            "https://{CLAVE_MARK}-norte.admintotal.com/api/v2/clientes/?cursor={UPSTREAM_MARK}"
        )),
        json!(7),
        json!({}),
    ] {
        let body = json!({"count": 100, "next": next, "previous": next, "results": [{"id": 1, "status": 1}]});
        let (server, world) = before(ResponseTemplate::new(200).set_body_json(body)).await;
        let reply = world.get("/v1/ordenes").await;
        assert!(!reply.text().contains("evil") && !reply.header("link").contains("evil"));
        let Some(link) = reply.ok(200)["next"].as_str().map(str::to_owned) else {
            continue;
        };
        assert!(link.starts_with("/v1/ordenes?"), "{link}");
        world.get(&link).await;
        for request in server.received_requests().await.unwrap() {
            assert_eq!(
                request.url.path(),
                format!("/{CLAVE_MARK}-carper/api/v2/ordenes_servicio/")
            );
        }
    }
}

#[tokio::test]
async fn a_refused_field_is_named_as_ours_without_the_erps_words() {
    let refusal = json!({"status": [words()], "descripción": [words()], "algo_suyo": [words()]});
    let (_server, world) = before(ResponseTemplate::new(400).set_body_json(refusal)).await;
    let reply = world
        .patch(
            "/v1/ordenes/11001",
            json!({"status": 2, "descripcion": "x"}),
        )
        .await;
    reply.problem(422, "upstream-validation");
    assert_eq!(reply.named(), ["/status", "/descripcion"]);
}

#[tokio::test]
async fn the_description_goes_out_under_the_configured_name() {
    let server = MockServer::start().await;
    Mock::given(method("PATCH"))
        .and(body_json(json!({"status": 2, "descripción": "<p>x</p>"})))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": 11001, "status": 2})))
        .mount(&server)
        .await;
    let settings = "upstream:\n  descripcion_field: descripción\n";
    let world =
        World::before_upstream(&format!("{}/{{clave}}/api/v2/", server.uri()), settings).await;
    world
        .patch(
            "/v1/ordenes/11001",
            json!({"status": "en_proceso", "descripcion": "<p>x</p>"}),
        )
        .await
        .ok(200);
}

#[tokio::test]
async fn an_enormous_answer_is_not_read() {
    let (_server, world) =
        before(ResponseTemplate::new(200).set_body_bytes(vec![b' '; 17 * 1024 * 1024])).await;
    world
        .get("/v1/ordenes")
        .await
        .problem(502, "upstream-error");
}

#[tokio::test]
async fn a_byte_order_mark_and_another_media_type_are_forgiven() {
    let body = "\u{feff}{\"id\": \"11001\", \"status\": \" 2 \"}";
    let (_server, world) = before(ResponseTemplate::new(200).set_body_raw(body, "text/html")).await;
    assert_eq!(
        world.get("/v1/ordenes/11001").await.ok(200)["status"],
        "en_proceso"
    );
}

#[tokio::test]
async fn an_erp_that_is_not_there_or_hangs_is_told_apart() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let world = World::before_upstream(&format!("http://{free}/{{clave}}/api/v2/"), "").await;
    let _time = world.time_flies();
    for reply in each_operation(&world).await {
        reply.problem(502, "upstream-error");
    }
    let world = World::start().await;
    let _time = world.time_flies();
    world.faults(
        "carper",
        llavero_simulator::Faults {
            hang: true,
            ..Default::default()
        },
    );
    for reply in each_operation(&world).await {
        reply.problem(504, "upstream-timeout");
    }
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get_as(&norte, "/v1/ordenes").await.ok(200);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let world = World::configured(
        "upstream:\n  max_concurrency: 1\n  queue_timeout: 50ms\n  timeout: 1s\n",
    )
    .await;
    world.faults(
        "carper",
        llavero_simulator::Faults {
            hang: true,
            ..Default::default()
        },
    );
    let first = world.get("/v1/ordenes/11001");
    let second = async {
        while world.received().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = world.get("/v1/ordenes/11002");
        let wait = async {
            world
                .wait_for_metric("llavero_upstream_requests_waiting 1")
                .await;
            world.clock.advance(Duration::from_millis(50));
        };
        let (second, ()) = tokio::join!(second, wait);
        world.clock.advance(Duration::from_secs(1));
        second
    };
    let (first, second) = tokio::join!(first, second);
    first.problem(504, "upstream-timeout");
    second.problem(503, "overloaded");
    assert!(second.header("retry-after").parse::<u64>().unwrap() >= 1);
    let request = world.request(Method::GET, "/v1/me");
    world.send(request).await.ok(200);
}
