//! What operators see: probes, metrics, the request line, the drain.

use llavero_simulator::Faults;
use reqwest::{
    Method, multipart,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{World, leaks, photo};

async fn admin(world: &World, path: &str) -> (u16, String) {
    let reply = world
        .send(world.client.get(format!("{}{path}", world.admin)))
        .await;
    (reply.status.as_u16(), reply.text())
}

#[tokio::test]
async fn the_admin_port_answers_probes_and_nothing_else() {
    let world = World::start().await;
    assert_eq!(admin(&world, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(admin(&world, "/readyz").await, (200, "ready\n".to_owned()));
    let (status, verbose) = admin(&world, "/readyz?verbose").await;
    assert_eq!(status, 200);
    assert!(
        verbose.contains("tenants: 2") && verbose.contains("mistakes: 0"),
        "{verbose}"
    );
    let (_, version) = admin(&world, "/version").await;
    assert!(version.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(admin(&world, "/v1/ordenes").await.0, 404);
    let reply = world
        .send(world.client.post(format!("{}/livez", world.admin)))
        .await;
    reply.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn metrics_count_what_happened_under_bounded_labels() {
    let world = World::start().await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world.get("/v1/ordenes/11001").await.ok(200);
    world
        .get("/v1/ordenes/99999")
        .await
        .problem(404, "not-found");
    let odd = Method::from_bytes(b"WHATEVER").unwrap();
    world.send(world.request(odd, "/v1/some/where/else")).await;
    let (_, metrics) = admin(&world, "/metrics").await;
    for line in [
        r#"http_server_request_duration_seconds_count{http_route="/v1/ordenes/{id}",http_request_method="GET",http_response_status_code="200"} 2"#,
        r#"http_server_request_duration_seconds_count{http_route="/v1/ordenes/{id}",http_request_method="GET",http_response_status_code="404"} 1"#,
        r#"http_client_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200"} 1"#,
        r#"llavero_cache_requests_total{result="hit"} 1"#,
        r#"llavero_cache_requests_total{result="miss"} 1"#,
        "llavero_ready 1",
        "llavero_tenants 2",
        "llavero_tenant_config_errors 0",
        "llavero_upstream_wait_seconds_count 2",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(metrics.contains(r#"http_request_method="_OTHER""#));
    assert!(!metrics.contains("99999") && !metrics.contains("some/where"));
}

/// The lines of one request, by its id.
async fn lines_of(
    world: &World,
    id: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Vec<Value> {
    let mut request = world.request(method, path).header("x-request-id", id);
    if let Some(body) = body {
        request = request.json(&body);
    }
    world.send(request).await;
    leaks::lines_with(id)
}

fn request_line(lines: &[Value]) -> &Value {
    let found: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    let [line] = found[..] else {
        panic!("one line a request: {lines:?}")
    };
    line
}

#[tokio::test]
async fn each_request_leaves_one_line() {
    let world = World::start().await;
    let lines = lines_of(
        &world,
        "line-of-a-read",
        Method::GET,
        "/v1/ordenes/11001",
        None,
    )
    .await;
    let line = request_line(&lines);
    assert_eq!(
        (
            &line["level"],
            &line["method"],
            &line["route"],
            &line["status"]
        ),
        (
            &json!("INFO"),
            &json!("GET"),
            &json!("/v1/ordenes/{id}"),
            &json!(200)
        )
    );
    let span = &line["span"];
    assert_eq!(
        (&span["tenant"], &span["credential"], &span["sub"]),
        (&json!("carper"), &json!("default"), &json!("ana"))
    );
    assert_eq!(span["orden"], 11001);
    assert!(span.get("received_bytes").is_none());
    assert!(line["duration_ms"].is_number() && line["timestamp"].is_string());

    let lines = lines_of(
        &world,
        "line-of-a-failure",
        Method::GET,
        "/v1/ordenes?limit=0",
        None,
    )
    .await;
    assert_eq!(request_line(&lines)["code"], "invalid-parameter");
    let token_in_path = format!("/v1/{}", world.token(&json!({})));
    let lines = lines_of(&world, "line-of-nowhere", Method::GET, &token_in_path, None).await;
    assert_eq!(request_line(&lines)["status"], 404);
}

#[tokio::test]
async fn the_line_of_an_upload_says_for_which_order_and_how_large() {
    let world = World::start().await;
    let image = photo("sony-rx1r.jpg");
    let size = image.len();
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(image));
    let request = world
        .request(Method::POST, "/v1/ordenes/11001/imagenes")
        .header("x-request-id", "line-of-an-upload")
        .multipart(form);
    world.send(request).await.ok(201);
    let lines = leaks::lines_with("line-of-an-upload");
    let span = &request_line(&lines)["span"];
    assert_eq!(
        (&span["orden"], &span["received_bytes"]),
        (&json!(11001), &json!(size))
    );
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_leaves_and_the_drain_waits_for_it() {
    let mut world = World::configured("server:\n  drain_delay: 0s\n  shutdown_grace: 0s\n").await;
    world.holds("carper");
    let leaving = world
        .request(Method::PATCH, "/v1/ordenes/11001")
        .header("x-request-id", "caller-who-left")
        .json(&json!({"status": "cancelada"}));
    let leaving = tokio::spawn(leaving.send());
    world.wait_until_received(1).await;
    leaving.abort();
    let left = world.wait_until_left("caller-who-left").await;
    assert_eq!(
        (&left["code"], &left["level"]),
        (&json!("client-left"), &json!("INFO"))
    );
    world.shutdown.cancel();
    while TcpStream::connect(world.address()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!world.served.is_finished(), "the drain waits");
    world.lets_go("carper");
    (&mut world.served).await.unwrap().unwrap();
    let record = world.record_of("caller-who-left").await;
    assert_eq!(record["outcome"], "done");
}

#[tokio::test]
async fn a_drain_turns_readiness_off_finishes_requests_and_takes_no_more() {
    for delay in ["1h", "0s"] {
        let mut world = World::configured(&format!(
            "server:\n  drain_delay: {delay}\n  shutdown_grace: 1h\n"
        ))
        .await;
        world.holds("carper");
        let request = world.request(Method::GET, "/v1/ordenes/11001");
        let in_flight = tokio::spawn(request.send());
        world.wait_until_received(1).await;
        world.shutdown.cancel();
        let (status, _) = loop {
            let seen = admin(&world, "/readyz").await;
            if seen.0 != 200 {
                break seen;
            }
        };
        assert_eq!(status, 503);
        assert!(world.metrics().await.contains("\nllavero_ready 0\n"));
        assert_eq!(admin(&world, "/livez").await.0, 200, "draining isn't dying");
        if delay == "1h" {
            // Within the delay new connections are still taken.
            assert_eq!(world.get("/v1/me").await.status, 200);
            world.lets_go("carper");
            assert_eq!(in_flight.await.unwrap().unwrap().status(), 200);
            world.at_once.cancel();
        } else {
            while TcpStream::connect(world.address()).await.is_ok() {
                tokio::task::yield_now().await;
            }
            world.lets_go("carper");
            assert_eq!(in_flight.await.unwrap().unwrap().status(), 200);
        }
        (&mut world.served).await.unwrap().unwrap();
        let refused = world.request(Method::GET, "/v1/me").send().await;
        assert!(refused.unwrap_err().is_connect());
    }
}

#[tokio::test]
async fn a_browser_of_an_allowed_origin_may_read_errors_and_headers() {
    let world = World::configured(
        "server:\n  drain_delay: 0s\n  cors: {allowed_origins: [\"https://app.example.com\"]}\n",
    )
    .await;
    let preflight = world
        .bare(Method::OPTIONS, "/v1/ordenes/11001")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization, content-type, if-match",
        );
    let reply = world.send(preflight).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "https://app.example.com"
    );
    assert!(
        reply
            .header("access-control-allow-methods")
            .contains("PATCH")
    );
    let refused = world
        .bare(Method::GET, "/v1/ordenes")
        .header("origin", "https://app.example.com");
    let reply = world.send(refused).await;
    reply.problem(401, "missing-token");
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "https://app.example.com"
    );
    let exposed = reply.header("access-control-expose-headers");
    for name in [
        "x-request-id",
        "etag",
        "cache-status",
        "retry-after",
        "ratelimit",
        "server-timing",
        "link",
    ] {
        assert!(exposed.split(',').any(|it| it == name), "{name}");
    }
    let other = world
        .bare(Method::GET, "/v1/ordenes")
        .header("origin", "https://evil.example.com");
    assert_eq!(
        world
            .send(other)
            .await
            .header("access-control-allow-origin"),
        ""
    );
}

#[tokio::test]
async fn a_refused_token_is_explained_in_the_log_and_never_stored() {
    let world = World::start().await;
    let expired = world.token(&json!({"exp": 1}));
    let request = world
        .bare(Method::GET, "/v1/ordenes")
        .header("x-request-id", "an-expired-token")
        .bearer_auth(expired);
    let reply = world.send(request).await;
    reply.problem(401, "invalid-token");
    assert_eq!(reply.header("cache-control"), "private, no-store");
    assert_eq!(reply.header("vary"), "Authorization, Llavero-Tenant");
    let lines = leaks::lines_with("an-expired-token");
    assert_eq!(request_line(&lines)["cause"], "the token has expired");
}

#[tokio::test]
async fn a_refused_photo_is_explained_in_the_log() {
    let world = World::start().await;
    let part = |bytes: Vec<u8>| multipart::Part::bytes(bytes).file_name("secreto.jpg");
    let form = || multipart::Form::new().text("proceso", "antes");
    let good = || part(photo("no-exif.jpg"));
    for (at, (form, status, cause)) in [
        (
            form().part("imagen", part(photo("iphone.heic"))),
            415,
            "the file is an image of a format that isn't taken: heic",
        ),
        (
            form().part("imagen", part(b"secreto".to_vec())),
            422,
            "the file isn't an image",
        ),
        (
            form().part("imagen", part(Vec::new())),
            422,
            "the file is empty",
        ),
        (
            form().part("imagen", part(photo("truncated.jpg"))),
            422,
            "the image is incomplete or damaged",
        ),
        (
            form().part("imagen", part(photo("bomb-60000x60000.png"))),
            422,
            "the image has 3600000000 pixels",
        ),
        (form(), 422, "the form lacks a part"),
        (
            form().part("imagen", good()).text("secreto", "1"),
            422,
            "a part that isn't known",
        ),
        (
            form().part("imagen", good()).text("proceso", "antes"),
            422,
            "a part was sent twice",
        ),
        (
            form().part("imagen", good()).text("titulo", "secreto\nx"),
            422,
            "proceso or titulo isn't valid",
        ),
        (
            form().part("imagen", part(vec![0; (12 << 20) + 1])),
            413,
            "imagen has more than 12582912 bytes",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("a-refused-photo-{at}");
        let request = world
            .request(Method::POST, "/v1/ordenes/11001/imagenes")
            .header("x-request-id", &id)
            .multipart(form);
        assert_eq!(world.send(request).await.status, status, "{cause}");
        let lines = leaks::lines_with(&id);
        assert_eq!(request_line(&lines)["cause"], cause);
        assert!(!request_line(&lines).to_string().contains("secreto"));
    }
}

#[tokio::test]
async fn a_failure_of_the_erp_is_a_warning() {
    let world = World::start().await;
    world.faults("carper", Faults::answering(500));
    let lines = lines_of(
        &world,
        "line-of-a-502",
        Method::GET,
        "/v1/ordenes/11001",
        None,
    )
    .await;
    assert_eq!(request_line(&lines)["level"], "WARN");
}

#[tokio::test]
async fn a_caller_who_leaves_has_a_line_too() {
    let world = World::start().await;
    world.faults("carper", Faults::hanging());
    let leaving = world
        .request(Method::GET, "/v1/ordenes/11001")
        .header("x-request-id", "line-of-one-who-left");
    let leaving = tokio::spawn(leaving.send());
    world.wait_until_received(1).await;
    leaving.abort();
    let line = world.wait_until_left("line-of-one-who-left").await;
    assert_eq!(line["route"], "/v1/ordenes/{id}");
}

#[tokio::test]
async fn a_second_signal_cuts_the_drain_short() {
    let world = World::configured("server:\n  drain_delay: 1h\n  shutdown_grace: 1h\n").await;
    world.faults("carper", Faults::hanging());
    let in_flight = tokio::spawn(world.request(Method::GET, "/v1/ordenes/11001").send());
    while world.received().is_empty() {
        tokio::task::yield_now().await;
    }
    world.shutdown.cancel();
    world.at_once.cancel();
    assert!(in_flight.await.unwrap().is_err());
    world.served.abort();
}
