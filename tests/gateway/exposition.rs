//! What `/metrics` has, whatever happens: the names that operators and their dashboards rely on.

use std::time::Duration;

use llavero::problem::Code;
use llavero_simulator::{Faults, StatusFault};
use serde_json::json;

use crate::harness::{DEFAULT_CREDENTIAL, World, collector::Collector};

/// A sample's value.
#[track_caller]
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let Some(value) = line else {
        panic!("{name} isn't in\n{metrics}")
    };
    value.parse().unwrap()
}

#[tokio::test]
async fn the_process_is_told_under_the_usual_names() {
    let world = World::start().await;
    let metrics = world.metrics().await;
    let now = world.clock.unix_seconds() as f64;
    let started = value(&metrics, "process_start_time_seconds");
    assert!(
        started <= now + 2.0 && started > now - 86_400.0,
        "{started}"
    );
    assert!(value(&metrics, "process_cpu_seconds_total") > 0.0);
    let resident = value(&metrics, "process_resident_memory_bytes");
    assert!(resident > 1e6 && resident < value(&metrics, "process_virtual_memory_bytes"));
    let open = value(&metrics, "process_open_fds");
    assert!(open >= 3.0 && open < value(&metrics, "process_max_fds"));
    assert!(value(&metrics, "process_threads") >= 2.0);
    let build = format!(
        "llavero_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert!((value(&metrics, &build) - 1.0).abs() < f64::EPSILON);
    assert!(value(&metrics, "llavero_log_lines_lost_total").abs() < f64::EPSILON);
}

#[tokio::test]
async fn problems_are_counted_by_code() {
    let world = World::start().await;
    world
        .get("/v1/ordenes/99999")
        .await
        .problem(404, "not-found");
    world.get("/v1/ordenes?x=1").await;
    world.get("/v1/ordenes?x=2").await;
    world.get("/v1/ordenes/11001").await.ok(200);
    let metrics = world.metrics().await;
    let count = |code: &str| {
        value(
            &metrics,
            &format!("llavero_problems_total{{code=\"{code}\"}}"),
        )
    };
    assert!((count("not-found") - 1.0).abs() < f64::EPSILON);
    assert!((count("unknown-parameter") - 2.0).abs() < f64::EPSILON);
    let is_counted = |line: &&str| line.starts_with("llavero_problems_total{");
    let counted = metrics.lines().filter(is_counted);
    assert_eq!(counted.clone().count(), Code::ALL.len(), "each is there");
    assert_eq!(counted.filter(|it| !it.ends_with(" 0")).count(), 2);
}

/// An increase of what wasn't there before isn't seen.
#[tokio::test]
async fn series_are_there_before_their_first_event() {
    let world = World::start().await;
    let metrics = world.metrics().await;
    for (name, label, values) in [
        (
            "problems",
            "code",
            &["internal", "overloaded", "upstream-error", "not-found"][..],
        ),
        ("rate_limited", "limit", &["user", "tenant", "failures"]),
        (
            "upstream_retries",
            "reason",
            &["connect", "unavailable", "rate-limited"],
        ),
        ("write_traces", "result", &["found", "absent"]),
        ("logins", "result", &["ok", "refused", "failed"]),
        ("login_refreshes", "result", &["ok", "refused", "failed"]),
        (
            "cache_requests",
            "result",
            &[
                "hit",
                "stale-while-revalidate",
                "stale-if-error",
                "collapsed",
                "miss",
                "stale",
                "requested",
            ],
        ),
        (
            "idempotency_requests",
            "result",
            &["first", "replayed", "running", "mismatch", "doubtful"],
        ),
    ] {
        for value in values {
            let line = format!("llavero_{name}_total{{{label}=\"{value}\"}} 0");
            assert!(metrics.lines().any(|it| it == line), "{line}");
        }
    }
}

#[tokio::test]
async fn a_credential_that_pauses_is_told() {
    let world = World::start().await;
    let pauses = async || value(&world.metrics().await, "llavero_upstream_pauses");
    let verbose = async || {
        let request = world.client.get(format!("{}/readyz?verbose", world.admin));
        world.send(request).await.text()
    };
    assert!(pauses().await.abs() < f64::EPSILON);
    let status = StatusFault {
        retry_after: Some("20".to_owned()),
        ..StatusFault::new(429)
    };
    world.faults("carper", Faults::from(status));
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(503, "upstream-rate-limited");
    assert!((pauses().await - 1.0).abs() < f64::EPSILON);
    let told = "credential default of carper: pauses for 20 s, since the ERP limits the rate\n";
    assert!(verbose().await.contains(told), "{}", verbose().await);
    world.clock.advance(Duration::from_secs(21));
    assert!(pauses().await.abs() < f64::EPSILON);
    assert!(!verbose().await.contains("pauses"));
}

#[tokio::test]
async fn a_pace_that_was_learnt_is_told_until_it_lapses() {
    const SERIES: &str = r#"llavero_upstream_pace_seconds{tenant="carper",credential="default"} "#;
    let world = World::start().await;
    let pace = async || {
        let metrics = world.metrics().await;
        let series = metrics.lines().find_map(|it| it.strip_prefix(SERIES));
        series.map(|seconds| seconds.parse::<f64>().unwrap())
    };
    let verbose = async || {
        let request = world.client.get(format!("{}/readyz?verbose", world.admin));
        world.send(request).await.text()
    };
    world.get("/v1/ordenes/11001").await.ok(200);
    let status = StatusFault {
        retry_after: Some("20".to_owned()),
        times: Some(1),
        ..StatusFault::new(429)
    };
    world.faults(
        "carper",
        Faults {
            status: Some(status),
            ..Faults::default()
        },
    );
    world
        .get("/v1/ordenes/11002")
        .await
        .problem(503, "upstream-rate-limited");
    assert_eq!(pace().await, None, "a pause isn't a pace");
    world.clock.advance(Duration::from_secs(20));
    world.get("/v1/ordenes/11003").await.ok(200);
    // The slowest that is believed is one in two seconds, and the ERP's window isn't quite ours.
    let seconds = pace().await.expect("it is told");
    assert!((seconds - 2.04).abs() < 0.001, "{seconds}");
    let told = "credential default of carper: a request each 2.040 s where it asks much, since the ERP limited the rate\n";
    assert!(verbose().await.contains(told), "{}", verbose().await);
    world.clock.advance(Duration::from_secs(60));
    world.get("/v1/ordenes/11004").await.ok(200);
    assert_eq!(pace().await, None);
    assert!(!verbose().await.contains("a request each"));
}

/// The names of the contract with operators, but those that have a sample only once a breaker has opened or
/// an issuer's keys were fetched: the tests of these look for them.
#[tokio::test]
async fn every_metric_that_is_promised_exists() {
    let collector = Collector::start().await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())];
    let world = World::traced(DEFAULT_CREDENTIAL, "", &variables).await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world
        .get_as(&world.token(&json!({"exp": 1})), "/v1/me")
        .await;
    let metrics = world.metrics().await;
    let families: Vec<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    for family in [
        "http_server_request_duration_seconds histogram",
        "http_client_request_duration_seconds histogram",
        "llavero_cache_requests_total counter",
        "llavero_cache_bytes gauge",
        "llavero_upstream_wait_seconds histogram",
        "llavero_upload_bytes_total counter",
        "llavero_tenants gauge",
        "llavero_tenant_config_errors gauge",
        "llavero_problems_total counter",
        "llavero_trace_spans_total counter",
        "llavero_build_info gauge",
    ] {
        assert!(
            families.contains(&family),
            "{family} isn't among {families:#?}"
        );
    }
    // The buckets that the OpenTelemetry HTTP conventions advise.
    for name in ["server", "client"] {
        let bounds: Vec<_> = metrics
            .lines()
            .filter(|line| {
                line.starts_with(&format!("http_{name}_request_duration_seconds_bucket"))
            })
            .filter(|line| line.contains("_code=\"200\""))
            .map(|line| {
                line.split("le=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
            })
            .collect();
        assert_eq!(
            bounds,
            [
                "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0",
                "2.5", "5.0", "7.5", "10.0", "+Inf"
            ]
        );
    }
}
