//! The audit: one record for each write whatever becomes of it, one for each denied
//! attempt, none for what is neither.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use llavero::{
    app::App,
    clock::Clock,
    config::Config,
    identity::Identity,
    server::{self, Drain, Stop},
    telemetry::audit::{Attempt, AuditLog, Outcome, Trail},
    tenants::Registry,
};
use llavero_simulator::{Faults, Only};
use prometheus_client::{encoding::text::encode, registry::Registry as MetricRegistry};
use reqwest::{
    Method, RequestBuilder,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::harness::{World, leaks, photo, with_clave};

const PATCH: &str = "/v1/ordenes/11001";
const UPLOAD: &str = "/v1/ordenes/11001/imagenes";

fn change(world: &World, id: &str) -> RequestBuilder {
    world
        .request(Method::PATCH, PATCH)
        .header("x-request-id", id)
        .json(&json!({"status": "cancelada"}))
}

fn upload(world: &World, id: &str) -> RequestBuilder {
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(photo("sony-rx1r.jpg")));
    world
        .request(Method::POST, UPLOAD)
        .header("x-request-id", id)
        .multipart(form)
}

/// A record without its time, whose form is checked.
fn timeless(mut record: Value) -> Value {
    let time = record.as_object_mut().unwrap().remove("time").unwrap();
    let time = time.as_str().unwrap();
    let form: String = time
        .chars()
        .map(|it| if it.is_ascii_digit() { '0' } else { it })
        .collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z");
    record
}

/// What every record of `ana` for `carper` has, and more.
fn record(id: &str, more: &Value) -> Value {
    let mut record = json!({
        "target": "audit", "request_id": id, "client": "127.0.0.1",
        "issuer": "https://ec.example.com/", "sub": "ana", "tenant": "carper", "credential": "default",
        "operation": "modificar_orden", "orden": 11001,
    });
    let all = record.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => _ = all.remove(name),
            value => _ = all.insert(name.clone(), value.clone()),
        }
    }
    record
}

#[tokio::test]
async fn a_write_leaves_one_whole_record_of_what_the_erp_made_of_it() {
    let world = World::start().await;
    let _time = world.time_flies();
    world.send(change(&world, "made")).await.ok(200);
    assert_eq!(
        timeless(world.record_of("made").await),
        record("made", &json!({"outcome": "done", "upstream_status": 200}))
    );
    let archivo = world.send(upload(&world, "uploaded")).await.ok(201);
    let sha256 = "b18f195ae3ac02b34ec58051f579d934d12361eb558ed22a96435cf6fcd18a12";
    assert_eq!(
        timeless(world.record_of("uploaded").await),
        record(
            "uploaded",
            &json!({
                "operation": "adjuntar_imagen", "proceso": "antes", "outcome": "done", "upstream_status": 201,
                "archivo": archivo["id"], "image_sha256": sha256, "image_bytes": 40678
            })
        )
    );
    let status = Faults::answering;
    let truncated = Faults {
        truncate: true,
        ..Faults::default()
    };
    for (id, faults, more) in [
        (
            "erp-refuses",
            status(400),
            json!({"outcome": "refused", "code": "upstream-validation", "upstream_status": 400}),
        ),
        (
            "erp-limits",
            status(429),
            json!({"outcome": "refused", "code": "upstream-rate-limited", "upstream_status": 429}),
        ),
        (
            "erp-fails",
            status(500),
            json!({"outcome": "unknown", "upstream_status": 500}),
        ),
        ("erp-breaks-off", truncated, json!({"outcome": "unknown"})),
    ] {
        world.faults("carper", faults);
        world.send(change(&world, id)).await;
        assert_eq!(timeless(world.record_of(id).await), record(id, &more));
    }
    world.faults("carper", Faults::default());
    let stale = change(&world, "has-changed").header("if-match", "\"x\"");
    world.send(stale).await.problem(412, "precondition-failed");
    assert_eq!(
        timeless(world.record_of("has-changed").await),
        record(
            "has-changed",
            &json!({"outcome": "refused", "code": "precondition-failed"})
        )
    );
    assert_eq!(world.audit().await.len(), 7, "one a write");
}

#[tokio::test]
async fn a_record_says_which_of_the_erps_files_a_photo_became_and_how_that_is_known() {
    let world = World::start().await;
    let _time = world.time_flies();
    let silent = Faults {
        accept_then_hang: true,
        only: Some(Only {
            method: Some("POST".to_owned()),
            path_contains: None,
        }),
        ..Faults::default()
    };
    let sha256 = "b18f195ae3ac02b34ec58051f579d934d12361eb558ed22a96435cf6fcd18a12";
    let of_photo = |archivo: &Value, more: Value| {
        let mut all = json!({
            "operation": "adjuntar_imagen", "proceso": "antes", "archivo": archivo["id"],
            "image_sha256": sha256, "image_bytes": 40678
        });
        let more = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        all
    };
    world.faults("carper", silent);
    let archivo = world.send(upload(&world, "seen")).await.ok(201);
    assert!(archivo["id"].is_u64());
    assert_eq!(
        timeless(world.record_of("seen").await),
        record(
            "seen",
            &of_photo(&archivo, json!({"outcome": "done", "found": true}))
        )
    );
    world.faults("carper", Faults::default());
    let again = world.send(upload(&world, "said-again")).await.ok(201);
    assert_eq!(again["id"], archivo["id"]);
    assert_eq!(
        timeless(world.record_of("said-again").await),
        record(
            "said-again",
            &of_photo(&archivo, json!({"outcome": "replayed"}))
        )
    );
}

#[tokio::test]
async fn of_a_photo_that_is_changed_both_digests_are_kept() {
    let world = World::configured("images: {metadata: strip-all}\n").await;
    let archivo = world.send(upload(&world, "stripped")).await.ok(201);
    let record = world.record_of("stripped").await;
    assert_eq!(
        record["received_sha256"],
        "b18f195ae3ac02b34ec58051f579d934d12361eb558ed22a96435cf6fcd18a12"
    );
    let kept = archivo["id"].as_u64().unwrap();
    let kept = world.erp.imagen(&with_clave("carper"), kept).unwrap();
    let sent = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &kept);
    let sent: String = sent.as_ref().iter().map(|it| format!("{it:02x}")).collect();
    assert_eq!(
        (&record["image_sha256"], &record["image_bytes"]),
        (&json!(sent), &json!(kept.len()))
    );
    assert_ne!(record["image_sha256"], record["received_sha256"]);
}

#[tokio::test]
async fn a_write_that_never_gets_to_the_erp_leaves_its_record() {
    let world = World::start().await;
    let patch = |id: &str, path: &str| {
        world
            .request(Method::PATCH, path)
            .header("x-request-id", id.to_owned())
    };
    for (id, request, code) in [
        (
            "no-such-field",
            patch("no-such-field", PATCH).json(&json!({"x": 1})),
            "validation-failed",
        ),
        (
            "no-json",
            patch("no-json", PATCH)
                .header("content-type", "application/json")
                .body("{"),
            "malformed-body",
        ),
        (
            "no-such-type",
            patch("no-such-type", PATCH).body("x"),
            "unsupported-media-type",
        ),
        (
            "too-large",
            patch("too-large", PATCH)
                .header("content-type", "application/json")
                .body(vec![b' '; 300_000]),
            "payload-too-large",
        ),
        (
            "no-such-parameter",
            patch("no-such-parameter", "/v1/ordenes/11001?x=1").json(&json!({"status": 1})),
            "unknown-parameter",
        ),
    ] {
        let reply = world.send(request).await;
        assert!(reply.status.is_client_error());
        assert_eq!(
            timeless(world.record_of(id).await),
            record(id, &json!({"outcome": "refused", "code": code}))
        );
    }
    // Where the address names no order, neither does the record.
    world
        .send(patch("no-order", "/v1/ordenes/abc").json(&json!({"status": 1})))
        .await
        .problem(400, "invalid-parameter");
    assert_eq!(
        timeless(world.record_of("no-order").await),
        record(
            "no-order",
            &json!({"outcome": "refused", "code": "invalid-parameter", "orden": null})
        )
    );
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_write_beyond_the_limit_leaves_its_record() {
    let world = World::configured("limits:\n  user: {requests: 1, per: 1h, burst: 1}\n").await;
    world.get("/v1/me").await.ok(200);
    world
        .send(change(&world, "beyond-the-limit"))
        .await
        .problem(429, "rate-limited");
    assert_eq!(
        timeless(world.record_of("beyond-the-limit").await),
        record(
            "beyond-the-limit",
            &json!({"outcome": "refused", "code": "rate-limited"})
        )
    );
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(429, "rate-limited");
    assert_eq!(
        world.audit().await.len(),
        1,
        "a read that is limited is none"
    );
}

#[tokio::test]
async fn a_denied_attempt_leaves_one_record_a_read_too() {
    let world = World::start().await;
    let send = async |id: &str, method: Method, path: &str, token: &str| {
        let request = world
            .bare(method, path)
            .header("x-request-id", id)
            .bearer_auth(token);
        world.send(request).await.status.as_u16()
    };
    let nothing = world.token(&json!({"scope": "none"}));
    let reader = world.token(&json!({"scope": "ordenes:read"}));
    let outsider = world.token(&json!({"tenant": "no-such"}));
    let several = world.token(&json!({"tenant": ["carper", "norte"]}));
    let expired = world.token(&json!({"exp": 1, "sub": "mallory"}));
    let scope = json!({"outcome": "denied", "code": "insufficient-scope"});
    let with = |more: Value| {
        let mut all = scope.clone();
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all
    };
    let nobody = json!({"tenant": null, "credential": null, "code": "tenant-not-allowed"});
    let unknown = json!({"issuer": null, "sub": null, "tenant": null, "credential": null, "code": "invalid-token"});
    for (id, method, path, token, status, more) in [
        (
            "denied-write",
            Method::PATCH,
            PATCH,
            &reader,
            403,
            scope.clone(),
        ),
        (
            "denied-read",
            Method::GET,
            PATCH,
            &nothing,
            403,
            with(json!({"operation": "ver_orden"})),
        ),
        (
            "denied-tenant",
            Method::PATCH,
            PATCH,
            &outsider,
            403,
            with(nobody.clone()),
        ),
        (
            "denied-nowhere",
            Method::GET,
            "/v1/nada",
            &outsider,
            404,
            Value::Null,
        ),
        (
            "undecided-write",
            Method::PATCH,
            PATCH,
            &several,
            400,
            with(json!({"tenant": null, "credential": null, "code": "tenant-required"})),
        ),
        (
            "undecided-read",
            Method::GET,
            PATCH,
            &several,
            400,
            Value::Null,
        ),
        (
            "bad-token",
            Method::PATCH,
            PATCH,
            &expired,
            401,
            with(unknown.clone()),
        ),
        (
            "no-token-at-all",
            Method::GET,
            "/v1/nada",
            &"x".to_owned(),
            401,
            {
                let mut all = with(unknown.clone());
                all["operation"] = Value::Null;
                all["orden"] = Value::Null;
                all
            },
        ),
    ] {
        assert_eq!(send(id, method, path, token).await, status, "{id}");
        if more.is_null() {
            assert!(world.audit_of(id).await.is_empty(), "{id}");
        } else {
            assert_eq!(timeless(world.record_of(id).await), record(id, &more));
        }
    }
    let widening = change(&world, "denied-header").header("llavero-tenant", "norte");
    world
        .send(widening)
        .await
        .problem(403, "tenant-not-allowed");
    assert_eq!(
        timeless(world.record_of("denied-header").await),
        record("denied-header", &with(nobody))
    );
    let audit = world.written();
    assert!(
        audit
            .iter()
            .all(|record| !record.to_string().contains("mallory"))
    );
}

#[tokio::test]
async fn what_is_neither_a_write_nor_denied_leaves_none() {
    let world = World::start().await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world.get("/v1/ordenes/1").await.problem(404, "not-found");
    world.get("/v1/ordenes?x=1").await;
    world.get("/v1/nada").await;
    world.send(world.bare(Method::PATCH, PATCH)).await;
    for (method, path) in [
        (Method::DELETE, PATCH),
        (Method::POST, "/v1/nada"),
        (Method::PUT, "/nowhere"),
    ] {
        world.send(world.request(method, path)).await;
    }
    assert!(world.audit().await.is_empty());
}

#[tokio::test]
async fn an_address_beyond_its_limit_leaves_one_record_a_minute() {
    let world = World::configured("limits:\n  failures: {requests: 1, per: 1h, burst: 1}\n").await;
    let attempts = async |id: &str, count: usize| {
        for _ in 0..count {
            let request = world
                .bare(Method::PATCH, PATCH)
                .header("x-request-id", id)
                .bearer_auth("x");
            world.send(request).await;
        }
        world.audit_of(id).await
    };
    let [first] = &attempts("looked-at", 1).await[..] else {
        panic!("one record")
    };
    assert_eq!(first["code"], "invalid-token");
    let [told] = &attempts("not-looked-at", 5).await[..] else {
        panic!("one record for all")
    };
    assert_eq!(
        (&told["outcome"], &told["code"], &told["client"]),
        (
            &json!("denied"),
            &json!("rate-limited"),
            &json!("127.0.0.1")
        )
    );
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(attempts("a-minute-later", 5).await.len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_upload_leaves_a_record() {
    let world = World::start().await;
    let at = world.public.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-request-id: left-half-way\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n--b\r\n",
        world.token(&json!({}))
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    let left = timeless(world.record_of("left-half-way").await);
    assert_eq!(
        left,
        record(
            "left-half-way",
            &json!({"operation": "adjuntar_imagen", "outcome": "refused", "code": "client-left"})
        )
    );
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_while_the_erp_is_asked_changes_nothing_in_the_record() {
    let world = World::start().await;
    for at in 0..5 {
        world.holds("carper");
        let id = format!("leaves-{at}");
        let leaving = tokio::spawn(change(&world, &id).send());
        // Before that, nothing would have begun.
        world.wait_until_received(at + 1).await;
        leaving.abort();
        assert!(leaving.await.unwrap_err().is_cancelled());
        world.wait_until_left(&id).await;
        world.lets_go("carper");
    }
    for at in 0..5 {
        let record = world.record_of(&format!("leaves-{at}")).await;
        assert_eq!(
            (&record["outcome"], &record["upstream_status"]),
            (&json!("done"), &json!(200))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_writes_at_once_leaves_exactly_one_record() {
    let world = std::sync::Arc::new(World::start().await);
    let time = world.time_flies();
    let writes = (0..120).map(|at| {
        let world = world.clone();
        tokio::spawn(async move {
            let id = format!("many-{at}");
            let mut request = match at % 4 {
                0 => upload(&world, &id),
                1 => world
                    .request(Method::PATCH, PATCH)
                    .header("x-request-id", &id)
                    .json(&json!({"nothing": at})),
                _ => change(&world, &id),
            };
            if at % 5 == 0 {
                request = request.timeout(Duration::from_millis(at % 40));
            }
            // A client who left may not even have been heard.
            let heard = request.send().await.is_ok();
            (id, heard)
        })
    });
    let done = futures_util::future::join_all(writes).await;
    for (id, heard) in done.into_iter().map(Result::unwrap) {
        if heard {
            world.record_of(&id).await;
        }
    }
    for gauge in [
        "llavero_upstream_requests_in_flight 0",
        "llavero_upstream_requests_waiting 0",
    ] {
        world.wait_for_metric(gauge).await;
    }
    drop(time);
    let mut counts: HashMap<String, usize> = HashMap::new();
    for record in world.audit().await {
        *counts
            .entry(record["request_id"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert!(
        counts.len() >= 96 && counts.values().all(|count| *count == 1),
        "{counts:?}"
    );
    // What the ERP took is in the books.
    let sent = world
        .received()
        .iter()
        .filter(|request| request.method != "GET")
        .count();
    let done = world
        .audit()
        .await
        .iter()
        .filter(|record| record["outcome"] == "done")
        .count();
    assert!(sent >= done && done > 0, "{sent} {done}");
    let metrics = world.metrics().await;
    let written = format!(
        r#"llavero_audit_records_total{{result="written"}} {}"#,
        counts.len()
    );
    assert!(metrics.contains(&written), "{written}\n{metrics}");
    assert!(metrics.contains(r#"llavero_audit_records_total{result="lost"} 0"#));
}

#[tokio::test]
async fn the_drain_waits_until_the_last_record_is_written() {
    let log = Log::with_room_for(16);
    log.output.set(|mood| mood.stuck = true);
    log.leave("the-last");
    let config = Config::default();
    let identity = Identity::load(&config.auth, ".".as_ref(), &|_| None, Clock::system()).unwrap();
    let mut app = App::build(&config, identity, Registry::default(), Clock::system()).unwrap();
    app.audit = log.log.clone();
    let listener = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (public, admin) = (listener().await, listener().await);
    let (public_at, admin_at) = (public.local_addr().unwrap(), admin.local_addr().unwrap());
    let drain = Drain {
        delay: Duration::ZERO,
        grace: Duration::ZERO,
    };
    let stop = Stop::default();
    stop.drain.cancel();
    let served = tokio::spawn(server::run(app, public, admin, drain, stop));
    while TcpStream::connect(public_at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The admin port is the last to close, and it doesn't.
    for _ in 0..20 {
        TcpStream::connect(admin_at).await.unwrap();
    }
    assert!(!served.is_finished());
    log.output.set(|mood| mood.stuck = false);
    served.await.unwrap().unwrap();
    assert_eq!(log.ids(), ["the-last"], "by then, not soon after");
}

#[tokio::test]
async fn a_file_is_its_owners_and_is_opened_anew_where_it_was_moved_away() {
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::start().await;
    world.send(change(&world, "before-rotation")).await.ok(200);
    assert_eq!(world.audit().await.len(), 1);
    let path = world.audit_file();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let moved = path.with_extension("old");
    std::fs::rename(&path, &moved).unwrap();
    world
        .send(change(&world, "in-the-moved-file"))
        .await
        .ok(200);
    world.audit_log.finish().await;
    world.audit_log.reopen();
    world.send(change(&world, "after-rotation")).await.ok(200);
    let records = world.audit().await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["request_id"], "after-rotation");
    let old = std::fs::read_to_string(moved).unwrap();
    assert_eq!(old.lines().count(), 2, "{old}");
}

#[tokio::test]
async fn records_stand_in_no_log() {
    let world = World::start().await;
    world.send(change(&world, "not-a-log-line")).await.ok(200);
    world.record_of("not-a-log-line").await;
    let lines = leaks::lines_with("not-a-log-line");
    assert!(lines.iter().all(|line| line["target"] != "audit"));
}

/// An output whose mood a test sets.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<Mood>, Condvar)>);

#[derive(Default)]
struct Mood {
    stuck: bool,
    /// Whether somebody has tried to write.
    tried: bool,
    /// Fails after so many bytes of each write.
    fails_after: Option<usize>,
    written: Vec<u8>,
}

impl Output {
    fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits until the thread is at its first write.
    fn wait_for_a_try(&self) {
        let (mood, changed) = &*self.0;
        drop(
            changed
                .wait_while(mood.lock().unwrap(), |mood| !mood.tried)
                .unwrap(),
        );
    }

    fn written(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (mood, changed) = &*self.0;
        let mut mood = mood.lock().unwrap();
        mood.tried = true;
        changed.notify_all();
        let mut mood = changed.wait_while(mood, |mood| mood.stuck).unwrap();
        match mood.fails_after {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(most) => {
                let some = &bytes[..most.min(bytes.len())];
                mood.written.extend_from_slice(some);
                mood.fails_after = Some(0);
                Ok(some.len())
            }
            None => {
                mood.written.extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log over such an output, with room for so many records.
struct Log {
    output: Output,
    log: AuditLog,
    metrics: MetricRegistry,
}

impl Log {
    fn with_room_for(queue: usize) -> Self {
        leaks::watch_logs();
        let (output, mut metrics) = (Output::default(), MetricRegistry::default());
        let log = AuditLog::over(Box::new(output.clone()), queue, &mut metrics).unwrap();
        Self {
            output,
            log,
            metrics,
        }
    }

    fn leave(&self, id: &str) {
        let attempt = Attempt {
            request_id: id.into(),
            client: "192.0.2.1".parse().unwrap(),
            operation: None,
            orden: None,
            is_write: true,
        };
        Trail::open(&self.log, &Clock::manual(), attempt).leave(Outcome::Refused, None);
    }

    /// How many were written and how many lost.
    fn counts(&self) -> (u64, u64) {
        let mut text = String::new();
        encode(&mut text, &self.metrics).unwrap();
        let count = |result: &str| {
            let name = format!("llavero_audit_records_total{{result=\"{result}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse().unwrap()
        };
        (count("written"), count("lost"))
    }

    /// The request ids in the output, in order; each line is whole.
    fn ids(&self) -> Vec<String> {
        let written = self.output.written();
        let whole = written.lines().filter(|line| !line.is_empty());
        whole
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|record| record["request_id"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The log lines that say that so many records were lost.
fn told(words: &str, records: u64) -> usize {
    leaks::lines_with(words)
        .iter()
        .filter(|line| line["records"] == records && line["level"] == "ERROR")
        .count()
}

/// Waits for the line that says so.
async fn are_written_again_after(lost: u64) {
    let is_it = |line: &Value| line["records"] == lost && line["level"] == "ERROR";
    leaks::line_with("they are written again", is_it).await;
}

#[tokio::test]
async fn an_output_that_is_stuck_holds_nobody_up_and_what_is_lost_is_counted_and_said() {
    let log = Log::with_room_for(16);
    log.output.set(|mood| mood.stuck = true);
    let begun = leaks::lines_with("the queue is full").len();
    log.leave("stuck-0");
    log.output.wait_for_a_try();
    for at in 1..1017 {
        log.leave(&format!("stuck-{at}"));
    }
    // One is in the thread's hands and 16 wait.
    let lost = 1000;
    assert_eq!(log.counts(), (0, lost));
    assert_eq!(
        leaks::lines_with("the queue is full").len(),
        begun + 1,
        "one line for all"
    );
    assert_eq!(told("they are written again", lost), 0);
    log.output.set(|mood| mood.stuck = false);
    log.log.finish().await;
    are_written_again_after(lost).await;
    assert_eq!(log.counts(), (17, lost));
    let kept: Vec<_> = (0..17).map(|at| format!("stuck-{at}")).collect();
    assert_eq!(log.ids(), kept, "in order");
    log.leave("afterwards");
    log.log.finish().await;
    assert_eq!(log.counts(), (18, lost));
    assert_eq!(told("they are written again", lost), 1, "once");
}

#[tokio::test]
async fn records_that_cant_be_written_are_counted_and_the_next_is_whole() {
    let log = Log::with_room_for(100);
    log.leave("first");
    log.log.finish().await;
    log.output.set(|mood| mood.fails_after = Some(20));
    let begun = leaks::lines_with("no storage space").len();
    for _ in 0..23 {
        log.leave("lost");
    }
    log.log.finish().await;
    assert_eq!(log.counts(), (1, 23));
    assert_eq!(leaks::lines_with("no storage space").len(), begun + 1);
    log.output.set(|mood| mood.fails_after = None);
    log.leave("last");
    log.log.finish().await;
    assert_eq!(log.counts(), (2, 23));
    assert_eq!(log.ids(), ["first", "last"], "{}", log.output.written());
    are_written_again_after(23).await;
}

#[tokio::test(start_paused = true)]
async fn an_output_that_stays_stuck_doesnt_hold_the_end() {
    let log = Log::with_room_for(100);
    log.output.set(|mood| mood.stuck = true);
    for _ in 0..41 {
        log.leave("never");
    }
    let begun = tokio::time::Instant::now();
    log.log.finish().await;
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    assert_eq!(log.counts(), (0, 41));
    assert_eq!(told("the gateway ends", 41), 1);
    log.output.set(|mood| mood.stuck = false);
}

#[tokio::test]
async fn a_trail_leaves_one_record_and_one_dropped_unsaid_is_unknown() {
    let log = Log::with_room_for(100);
    let attempt = |id: &str| Attempt {
        request_id: id.into(),
        client: "192.0.2.1".parse().unwrap(),
        operation: None,
        orden: None,
        is_write: true,
    };
    let clock = Clock::manual();
    let trail = Trail::open(&log.log, &clock, attempt("taken"));
    let taken = trail.take_over(7, None);
    trail.leave(Outcome::Refused, None);
    taken.end(Outcome::Done, None, Some(200));
    trail.leave(Outcome::Refused, None);
    let trail = Trail::open(&log.log, &clock, attempt("dropped"));
    drop(trail.take_over(8, None));
    let trail = Trail::open(&log.log, &clock, attempt("left"));
    trail.leave(Outcome::Denied, Some("x"));
    trail.leave(Outcome::Refused, None);
    log.log.finish().await;
    let written = log.output.written();
    let outcomes: Vec<_> = written
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|record| (record["request_id"].clone(), record["outcome"].clone()))
        .collect();
    assert_eq!(
        json!(outcomes),
        json!([
            ["taken", "done"],
            ["dropped", "unknown"],
            ["left", "denied"]
        ])
    );

    // What the permit knows wins over what the address tells.
    let trail = Trail::open(&log.log, &clock, attempt("named"));
    trail.is_for("leer", false);
    assert!(!trail.is_write());
    trail.is_for("cambiar", true);
    assert!(trail.is_write());
    trail.leave(Outcome::Refused, None);
    log.log.finish().await;
    assert!(log.output.written().contains(r#""operation":"cambiar""#));
}
