//! Traces: what a request's spans are, whose trace they go on with, and that nothing waits for the
//! collector, nothing secret gets there and nothing of it gets to the ERP.

use std::time::Duration;

use llavero_simulator::{Faults, StatusFault};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;

use crate::harness::{
    DEFAULT_CREDENTIAL, Reply, World,
    collector::{Collector, Mood, hex},
    leaks, photo,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const ORDER: &str = "/v1/ordenes/11001";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// Spans are sent as soon as they end.
async fn world_of(collector: &Collector, more: &[(&str, &str)]) -> World {
    let mut variables = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
    ];
    variables.extend(more);
    World::traced(DEFAULT_CREDENTIAL, "", &variables).await
}

async fn traced() -> (World, Collector) {
    let collector = Collector::start().await;
    (world_of(&collector, &[]).await, collector)
}

fn id(reply: &Reply) -> &str {
    reply.header("x-request-id")
}

fn form() -> Form {
    Form::new()
        .text("proceso", "antes")
        .text("titulo", "titulo-de-la-foto")
        .part(
            "imagen",
            Part::bytes(photo("lumia-gps.jpg")).file_name("foto"),
        )
}

#[tokio::test]
async fn a_read_shows_what_it_waited_for() {
    let (world, collector) = traced().await;
    let miss = world.get(ORDER).await;
    let trace = collector.trace_of(id(&miss), 5).await;
    assert_eq!(
        trace.tree(),
        [
            "GET /v1/ordenes/{id}",
            "GET /v1/ordenes/{id} > auth",
            "GET /v1/ordenes/{id} > cache",
            "GET /v1/ordenes/{id} > cache > queue",
            "GET /v1/ordenes/{id} > cache > upstream",
        ]
    );
    assert_eq!(trace.span("server").parent_span_id, b"");
    assert_eq!(trace.span("upstream").kind, SpanKind::Client as i32);
    let said = trace.said("server");
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/ordenes/{id}"),
        ("llavero.cache.result", "miss"),
        ("llavero.request_id", id(&miss)),
        ("llavero.tenant", "carper"),
        ("network.protocol.version", "1.1"),
    ];
    assert_eq!(
        said,
        expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
    assert_eq!(trace.said("cache")["llavero.cache.result"], "miss");
    let upstream = trace.said("upstream");
    assert_eq!(upstream["http.request.method"], "GET");
    assert_eq!(upstream["http.response.status_code"], "200");
    assert_eq!(upstream.len(), 2, "and nothing else: {upstream:?}");

    let hit = world.get(ORDER).await;
    let trace = collector.trace_of(id(&hit), 3).await;
    assert_eq!(
        trace.tree(),
        [
            "GET /v1/ordenes/{id}",
            "GET /v1/ordenes/{id} > auth",
            "GET /v1/ordenes/{id} > cache",
        ]
    );
    assert_eq!(trace.said("cache")["llavero.cache.result"], "hit");
}

#[tokio::test]
async fn a_refresh_behind_an_old_answer_belongs_to_whom_it_was_given() {
    let (world, collector) = traced().await;
    world.get(ORDER).await;
    world.clock.advance(Duration::from_secs(31));
    let stale = world.get(ORDER).await;
    let trace = collector.trace_of(id(&stale), 5).await;
    assert_eq!(
        trace.said("cache")["llavero.cache.result"],
        "stale-while-revalidate"
    );
    let queue = trace.span("queue");
    assert_eq!(queue.parent_span_id, trace.span("cache").span_id);
}

#[tokio::test]
async fn times_are_the_clocks() {
    let (world, collector) = traced().await;
    world.holds("carper");
    let (sent, ()) = tokio::join!(world.get(ORDER), async {
        world.wait_until_received(1).await;
        world.clock.advance(Duration::from_secs(3));
        world.lets_go("carper");
    });
    let trace = collector.trace_of(id(&sent), 5).await;
    for name in ["server", "cache", "upstream"] {
        let span = trace.span(name);
        let took = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
        assert_eq!(took, Duration::from_secs(3), "{name}");
    }
    assert_eq!(
        trace.span("auth").end_time_unix_nano,
        trace.span("auth").start_time_unix_nano
    );
}

#[tokio::test]
async fn a_change_and_an_upload_show_their_parts() {
    let (world, collector) = traced().await;
    let change = world.patch(ORDER, json!({"status": "en_proceso"})).await;
    change.ok(200);
    let trace = collector.trace_of(id(&change), 4).await;
    assert_eq!(
        trace.tree(),
        [
            "PATCH /v1/ordenes/{id}",
            "PATCH /v1/ordenes/{id} > auth",
            "PATCH /v1/ordenes/{id} > queue",
            "PATCH /v1/ordenes/{id} > upstream",
        ]
    );
    assert_eq!(trace.said("upstream")["http.request.method"], "PATCH");

    let upload = world.upload(&format!("{ORDER}/imagenes"), form()).await;
    upload.ok(201);
    let trace = collector.trace_of(id(&upload), 7).await;
    let route = "POST /v1/ordenes/{id}/imagenes";
    assert_eq!(
        trace.tree(),
        [
            route.to_owned(),
            format!("{route} > auth"),
            format!("{route} > image"),
            format!("{route} > queue"),
            format!("{route} > receive"),
            format!("{route} > upstream"),
            format!("{route} > upstream > encode"),
        ]
    );
    let bytes = photo("lumia-gps.jpg").len().to_string();
    assert_eq!(trace.said("receive")["llavero.image.bytes"], bytes);
    assert_eq!(trace.said("encode")["llavero.image.bytes"], bytes);
}

#[tokio::test]
async fn failures_are_told_in_our_words() {
    let (world, collector) = traced().await;
    let refused = world.get_as(&world.token(&json!({"exp": 1})), ORDER).await;
    refused.problem(401, "invalid-token");
    let trace = collector.trace_of(id(&refused), 2).await;
    assert_eq!(
        trace.tree(),
        ["GET /v1/ordenes/{id}", "GET /v1/ordenes/{id} > auth"]
    );
    assert_eq!(trace.said("auth")["error.type"], "invalid-token");
    let server = trace.span("server");
    assert_eq!(
        trace.said("server")["llavero.problem.code"],
        "invalid-token"
    );
    assert!(!trace.said("server").contains_key("llavero.tenant"));
    assert_eq!(
        server.status.clone().unwrap_or_default().code,
        0,
        "a 4xx is no error of ours"
    );

    let status = Some(StatusFault::new(418));
    world.faults(
        "carper",
        Faults {
            status,
            ..Faults::default()
        },
    );
    let failed = world.get(ORDER).await;
    failed.problem(502, "upstream-error");
    let trace = collector.trace_of(id(&failed), 5).await;
    assert_eq!(trace.said("upstream")["error.type"], "status");
    assert_eq!(trace.said("upstream")["http.response.status_code"], "418");
    assert_eq!(trace.said("cache")["error.type"], "upstream-error");
    assert_eq!(trace.said("server")["error.type"], "upstream-error");
    let status = trace.span("server").status.clone().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert_eq!(status.message, "");

    let nowhere = world.bare(Method::GET, "/no/where?token=1");
    let nowhere = world.send(nowhere).await;
    let trace = collector.trace_of(id(&nowhere), 1).await;
    assert_eq!(trace.span("server").name, "GET");
    assert!(!collector.was_told("where"));
}

#[tokio::test]
async fn the_callers_trace_goes_on_here_and_no_further() {
    let (world, collector) = traced().await;
    let request = world.request(Method::GET, ORDER);
    let request = request
        .header("traceparent", traceparent("01"))
        .header("tracestate", "congo=t61rcWkgMzE")
        .header("baggage", "cliente=secreto-del-cliente");
    let reply = world.send(request).await;
    let trace = collector.trace_of(id(&reply), 5).await;
    let server = trace.span("server");
    assert_eq!(hex(&server.trace_id), TRACE);
    assert_eq!(hex(&server.parent_span_id), CALLER);
    assert_eq!(server.trace_state, "congo=t61rcWkgMzE");
    assert!(!collector.was_told("secreto-del-cliente"));

    world
        .upload(&format!("{ORDER}/imagenes"), form())
        .await
        .ok(201);
    let received = world.received();
    assert_eq!(received.len(), 2);
    let plain = World::start().await;
    plain.get(ORDER).await.ok(200);
    plain
        .upload(&format!("{ORDER}/imagenes"), form())
        .await
        .ok(201);
    for (with, without) in received.iter().zip(plain.received()) {
        assert_eq!(with.headers, without.headers, "the ERP sees no difference");
        assert!(
            !with
                .headers
                .iter()
                .any(|name| name.contains("trace") || name == "baggage")
        );
    }
}

#[tokio::test]
async fn log_lines_name_the_trace() {
    let (world, collector) = traced().await;
    let request = world.request(Method::GET, "/v1/me");
    let reply = world
        .send(request.header("traceparent", traceparent("01")))
        .await;
    let trace = collector.trace_of(id(&reply), 2).await;
    let [line] = &leaks::lines_with(id(&reply))[..] else {
        panic!("one line")
    };
    assert_eq!(line["span"]["trace_id"], TRACE);
    assert_eq!(line["span"]["span_id"], hex(&trace.span("server").span_id));

    // Without traces here, the caller's is named all the same.
    let plain = World::start().await;
    let request = plain.request(Method::GET, "/v1/me");
    let reply = plain
        .send(request.header("traceparent", traceparent("00")))
        .await;
    let [line] = &leaks::lines_with(id(&reply))[..] else {
        panic!("one line")
    };
    assert_eq!(line["span"]["trace_id"], TRACE);
    assert!(line["span"].get("span_id").is_none());
    let reply = plain.get("/v1/me").await;
    let [line] = &leaks::lines_with(id(&reply))[..] else {
        panic!("one line")
    };
    assert!(line["span"].get("trace_id").is_none());
}

#[tokio::test]
async fn who_decides_what_is_sampled() {
    let (world, collector) = traced().await;
    let ask = async |world: &World, parent: &str| {
        let request = world
            .request(Method::GET, "/v1/me")
            .header("traceparent", parent);
        world.send(request).await
    };
    let unsampled = ask(&world, &traceparent("00")).await;
    let line = &leaks::lines_with(id(&unsampled))[0];
    assert_eq!(
        line["span"]["trace_id"], TRACE,
        "it has its trace, which nobody records"
    );
    for broken in [
        "",
        "00",
        &traceparent("0"),
        &traceparent("01").to_uppercase(),
    ] {
        let reply = ask(&world, broken).await;
        let trace = collector.trace_of(id(&reply), 2).await;
        let server = trace.span("server");
        assert_ne!(hex(&server.trace_id), TRACE, "{broken:?}");
        assert_eq!(server.parent_span_id, b"", "{broken:?}");
    }
    // By now the first would have come.
    assert!(!collector.was_told(id(&unsampled)));

    let all = world_of(&collector, &[("OTEL_TRACES_SAMPLER", "always_on")]).await;
    let reply = ask(&all, &traceparent("00")).await;
    let trace = collector.trace_of(id(&reply), 2).await;
    assert_eq!(hex(&trace.span("server").parent_span_id), CALLER);

    let none = world_of(
        &collector,
        &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")],
    )
    .await;
    let own = none.get("/v1/me").await;
    let asked_for = ask(&none, &traceparent("01")).await;
    collector.trace_of(id(&asked_for), 2).await;
    assert!(!collector.was_told(id(&own)));
}

#[tokio::test]
async fn a_collector_that_is_down_or_slow_holds_up_nobody() {
    let collector = Collector::start().await;
    let settings = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
    ];
    let world = world_of(&collector, &settings).await;
    collector.is(Mood::Hangs);
    for _ in 0..40 {
        world.get("/v1/me").await.ok(200);
    }
    // 80 spans, of which 8 wait and 4 are under way at most.
    let metrics = world.metrics().await;
    let count = |metrics: &str, result: &str| -> u64 {
        let name = format!("llavero_trace_spans_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    };
    assert!(count(&metrics, "dropped") >= 80 - 12, "{metrics}");
    assert_eq!(count(&metrics, "exported"), 0);
    assert_eq!(collector.requests(), 1, "one at a time");

    // It gives up by its timeouts, and goes on once the collector is there again.
    let time = world.time_flies();
    while count(&world.metrics().await, "failed") == 0 {
        tokio::task::yield_now().await;
    }
    drop(time);
    collector.is(Mood::Takes);
    let time = world.time_flies();
    while count(&world.metrics().await, "exported") == 0 {
        world.get("/v1/me").await.ok(200);
    }
    drop(time);
    collector.spans();

    // Nobody is there at all, and what isn't worth trying again isn't.
    let gone = World::traced(
        DEFAULT_CREDENTIAL,
        "",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ],
    )
    .await;
    gone.get(ORDER).await.ok(200);
    let refusing = Collector::start().await;
    refusing.is(Mood::Answers(401));
    let refused = world_of(&refusing, &[]).await;
    refused.get("/v1/me").await.ok(200);
    refused
        .wait_for_metric("llavero_trace_spans_total{result=\"failed\"} 2")
        .await;
    assert!(refusing.requests() <= 2);
}

#[tokio::test]
async fn a_batch_that_may_be_sent_again_is() {
    let (world, collector) = traced().await;
    collector.is(Mood::Answers(503));
    let reply = world.get("/v1/me").await;
    while collector.requests() == 0 {
        tokio::task::yield_now().await;
    }
    collector.is(Mood::Takes);
    let _time = world.time_flies();
    collector.trace_of(id(&reply), 2).await;
    world
        .wait_for_metric("llavero_trace_spans_total{result=\"exported\"} 2")
        .await;
    world
        .wait_for_metric("llavero_trace_spans_total{result=\"failed\"} 0")
        .await;
}

const QUICK: &str = "server:\n  drain_delay: 0s\n  shutdown_grace: 1s\n";

#[tokio::test]
async fn the_end_sends_what_has_not_been_sent_and_waits_for_no_sick_collector() {
    for mood in [Mood::Takes, Mood::Hangs] {
        let collector = Collector::start().await;
        collector.is(mood);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
            ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ];
        let mut world = World::traced(DEFAULT_CREDENTIAL, QUICK, &variables).await;
        let reply = world.get(ORDER).await;
        assert_eq!(collector.requests(), 0, "a batch waits");
        world.shutdown.cancel();
        (&mut world.served).await.unwrap().unwrap();
        assert_eq!(collector.requests(), 1);
        if mood == Mood::Takes {
            collector.trace_of(id(&reply), 5).await;
        }
    }
}

#[tokio::test]
async fn nothing_secret_and_nobody_is_in_a_trace() {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-clave-del-colector=abre-te%20sesamo",
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=pruebas",
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
    ];
    let login = "{login: {username: app, password: {file: ../app.password}}}";
    let world = World::traced(login, "", &variables).await;
    let first = world.get(&format!("{ORDER}?")).await;
    let trace = collector.trace_of(id(&first), 6).await;
    assert_eq!(
        trace.span("login").parent_span_id,
        trace.span("cache").span_id
    );
    let sub = json!({"sub": "quien-es-quien"});
    let request = world.bare(Method::POST, &format!("{ORDER}/imagenes"));
    let request = request.bearer_auth(world.token(&sub)).multipart(form());
    let upload = world.send(request).await;
    upload.ok(201);
    let bad = world
        .get_as(&format!("{}x", world.token(&sub)), ORDER)
        .await;
    let change = world
        .patch(ORDER, json!({"descripcion": "<p>palabras del cliente</p>"}))
        .await;
    let page = world.get("/v1/ordenes?status=abierta&limit=2").await;
    let token_as_path = world.bare(Method::GET, &format!("/v1/ordenes/{}", world.token(&sub)));
    let stray = world.send(token_as_path).await;
    for (reply, spans) in [
        (&upload, 7),
        (&bad, 2),
        (&change, 4),
        (&page, 5),
        (&stray, 2),
    ] {
        collector.trace_of(id(reply), spans).await;
    }
    // The collector has searched it all for tokens, keys, passwords and claves.
    collector.spans();
    let words = [
        "quien-es-quien",
        "titulo-de-la-foto",
        "palabras del cliente",
        "eyJ",
        "127.0.0.1",
        "Bearer",
        "abre-te",
        "api/v2",
        "11001",
        "abierta",
    ];
    for word in words {
        assert!(!collector.was_told(word), "{word}");
    }
    for headers in collector.headers() {
        assert_eq!(headers["x-clave-del-colector"], "abre-te sesamo");
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert!(!headers.contains_key("authorization") && !headers.contains_key("traceparent"));
    }
    for resource in collector.resources() {
        assert_eq!(resource["service.name"], "llavero");
        assert_eq!(resource["deployment.environment.name"], "pruebas");
    }
    assert!(leaks::lines_with("abre-te").is_empty());
    leaks::assert_none_logged();
}

#[tokio::test]
async fn two_gateways_in_one_process_stay_apart() {
    let ((one, first), (two, second)) = tokio::join!(traced(), traced());
    let (a, b) = tokio::join!(one.get(ORDER), two.get(ORDER));
    first.trace_of(id(&a), 5).await;
    second.trace_of(id(&b), 5).await;
    assert_eq!((first.spans().len(), second.spans().len()), (5, 5));
}

#[tokio::test]
async fn exemplars_lead_from_a_duration_to_a_trace_where_the_scraper_can_read_them() {
    let (world, collector) = traced().await;
    let reply = world.get("/v1/me").await;
    let trace = collector.trace_of(id(&reply), 2).await;
    let unsampled = world.request(Method::GET, "/v1/ordenes/11002");
    world
        .send(unsampled.header("traceparent", traceparent("00")))
        .await;
    let metrics = async |accept: &str| {
        let request = world.client.get(format!("{}/metrics", world.admin));
        world.send(request.header("accept", accept)).await
    };
    let open = metrics("application/openmetrics-text; version=1.0.0").await;
    assert_eq!(
        open.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let exemplar = format!("# {{trace_id=\"{}\"}}", hex(&trace.span("server").trace_id));
    let text = open.text();
    let bucket = text.lines().find(|line| line.contains(&exemplar)).unwrap();
    assert!(
        bucket.starts_with("http_server_request_duration_seconds_bucket{"),
        "{bucket}"
    );
    assert!(text.ends_with("# EOF\n"));
    assert!(
        !text.contains(TRACE),
        "what isn't recorded can't be looked at"
    );

    let plain = metrics("text/plain").await;
    assert_eq!(
        plain.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(!plain.text().contains("trace_id") && !plain.text().contains("# EOF"));
    assert!(
        plain
            .text()
            .contains("\n# TYPE llavero_cache_requests_total counter\n")
    );
}
