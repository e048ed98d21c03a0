//! How uploads and changes come in: as clients write them, whole, within the memory that there is, and in time.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64_simd::STANDARD;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use llavero_simulator::Faults;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use llavero::in_flight::BESIDE_IMAGE;

use crate::harness::{Reply, World, photo, with_clave};

const PATH: &str = "/v1/ordenes/11001/imagenes";
const FORM: &str = "multipart/form-data; boundary=b";
const IN_FLIGHT: &str = "llavero_uploads_in_flight_bytes";

fn image() -> Vec<u8> {
    photo("no-exif.jpg")
}

/// A part's delimiter and head, with more fields.
fn head(name: &str, fields: &str) -> Vec<u8> {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{fields}\r\n").into()
}

/// A form with that image.
fn form(fields: &str, image: &[u8]) -> Vec<u8> {
    let (proceso, imagen) = (head("proceso", ""), head("imagen", fields));
    [
        &proceso,
        &b"antes\r\n"[..],
        &imagen,
        image,
        b"\r\n--b--\r\n",
    ]
    .concat()
}

fn post(world: &World, content_type: &str, body: Vec<u8>) -> RequestBuilder {
    let request = world.request(Method::POST, PATH);
    request.header("content-type", content_type).body(body)
}

async fn send(world: &World, body: Vec<u8>) -> Reply {
    world.send(post(world, FORM, body)).await
}

/// What the ERP has of the upload that it received last.
fn kept(world: &World) -> Vec<u8> {
    let received = world.received();
    let id = received.last().unwrap().archivo_id.unwrap();
    world.erp.imagen(&with_clave("carper"), id).unwrap()
}

/// A connection on which the head of a request was sent, and so much of its body.
async fn begun(world: &World, token: &str, request: &str, length: usize, body: &[u8]) -> TcpStream {
    let at = world.public.trim_start_matches("http://");
    let mut socket = TcpStream::connect(at).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    socket
}

/// The same for an upload of `ana`'s.
async fn upload(world: &World, length: usize, body: &[u8]) -> TcpStream {
    let request = format!("POST {PATH}");
    let token = world.token(&json!({}));
    begun(
        world,
        &format!("{token}\r\ncontent-type: {FORM}"),
        &request,
        length,
        body,
    )
    .await
}

/// The answer on a connection that ends with it: its head and its problem.
async fn answer(mut socket: TcpStream) -> (String, Value) {
    let mut answer = Vec::new();
    // A connection that is ended while its client still writes may be reset behind the answer.
    let _ = socket.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let problem = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    (head.to_owned(), problem)
}

/// The answer on a connection that its client goes on sending on.
async fn answer_beside(socket: &mut (impl AsyncRead + Unpin)) -> (String, Value) {
    let mut answer = Vec::new();
    loop {
        let count = socket.read_buf(&mut answer).await.unwrap();
        let text = std::str::from_utf8(&answer).unwrap();
        let problem = text.split_once("\r\n\r\n");
        if let Some((head, problem)) = problem
            && let Ok(problem) = serde_json::from_str(problem)
        {
            return (head.to_owned(), problem);
        }
        assert!(count > 0, "{text}");
    }
}

async fn in_flight(world: &World, bytes: usize) {
    let beside = if bytes == 0 { 0 } else { BESIDE_IMAGE };
    let held = bytes as u64 + beside;
    world.wait_for_metric(&format!("{IN_FLIGHT} {held}")).await;
}

async fn refused(world: &World, reason: &str) {
    let metric = format!("llavero_uploads_refused_total{{reason=\"{reason}\"}} 1");
    world.wait_for_metric(&metric).await;
}

#[tokio::test]
async fn forms_are_read_as_clients_write_them() {
    let world = World::configured("images: {dedupe_window: 0}\n").await;
    let image = image();
    let file = |head: &str, tail: &str| [head.as_bytes(), &image, tail.as_bytes()].concat();
    for (client, content_type, body) in [
        (
            "curl",
            "multipart/form-data; boundary=------------------------cf2bd9Qy",
            file(
                "--------------------------cf2bd9Qy\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n\
                 --------------------------cf2bd9Qy\r\nContent-Disposition: form-data; name=\"imagen\"; filename=\"a \\\"b\\\".jpg\"\r\n\
                 Content-Type: image/jpeg\r\n\r\n",
                "\r\n--------------------------cf2bd9Qy--\r\n",
            ),
        ),
        (
            "a browser",
            "multipart/form-data; boundary=----WebKitFormBoundaryAbC0",
            file(
                "------WebKitFormBoundaryAbC0\r\nContent-Disposition: form-data; name=\"_charset_\"\r\n\r\nUTF-8\r\n\
                 ------WebKitFormBoundaryAbC0\r\nContent-Disposition: form-data; name=\"imagen\"; filename=\"fachada %22ñ%22 📷.jpg\"\r\n\
                 Content-Type: image/jpeg\r\n\r\n",
                "\r\n------WebKitFormBoundaryAbC0\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n\
                 ------WebKitFormBoundaryAbC0--\r\n",
            ),
        ),
        (
            "OkHttp",
            "multipart/form-data; boundary=3c5a-41",
            file(
                "--3c5a-41\r\nContent-Disposition: form-data; name=\"proceso\"\r\nContent-Transfer-Encoding: binary\r\n\
                 Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 5\r\n\r\nantes\r\n\
                 --3c5a-41\r\nContent-Disposition: form-data; name=\"imagen\"; filename=\"f.jpg\"\r\nContent-Type: image/*\r\n\r\n",
                "\r\n--3c5a-41--\r\n",
            ),
        ),
        (
            "Dart",
            "multipart/form-data; boundary=dart-http-boundary-Fx_+.1",
            file(
                "--dart-http-boundary-Fx_+.1\r\ncontent-disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n\
                 --dart-http-boundary-Fx_+.1\r\ncontent-type: application/octet-stream\r\n\
                 content-disposition: form-data; name=\"imagen\"; filename=\"f.jpg\"\r\n\r\n",
                "\r\n--dart-http-boundary-Fx_+.1--\r\n",
            ),
        ),
        (
            "Python",
            "multipart/form-data; boundary=0123456789abcdef",
            file(
                "--0123456789abcdef\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n\
                 --0123456789abcdef\r\nContent-Disposition: form-data; name*=UTF-8''imagen; filename*=utf-8''%C3%B1.jpg\r\n\r\n",
                "\r\n--0123456789abcdef--",
            ),
        ),
        (
            "a hand, with line feeds",
            "multipart/form-data; boundary=\"a hand\"",
            file(
                "\npreamble\n--a hand\nContent-Disposition: form-data; name=proceso\n\nantes\n\
                 --a hand \t\nContent-Disposition: form-data;\n name=imagen\n\n",
                "\n--a hand--\nepilogue",
            ),
        ),
    ] {
        world.erp.clear_requests();
        let reply = world.send(post(&world, content_type, body)).await;
        assert_eq!(reply.status, 201, "{client}: {}", reply.text());
        assert!(kept(&world) == image, "{client}: the image has changed");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_form_is_told_with_the_limit() {
    let world = World::start().await;
    let whole = || form("", &image());
    let typed = |boundary: &str| format!("multipart/form-data; boundary={boundary}");
    let long_head = form(&format!("X: {}\r\n", "x".repeat(64 * 1024)), b"");
    let mut cut = whole();
    cut.truncate(cut.len() - "--\r\n".len());
    let titulo = [
        head("titulo", ""),
        vec![b'x'; 4097],
        b"\r\n".to_vec(),
        whole(),
    ]
    .concat();
    let charset = [head("_charset_", ""), b"latin1\r\n".to_vec(), whole()].concat();
    for (content_type, body, status, code, told) in [
        (
            typed(&"b".repeat(71)),
            whole(),
            400,
            "malformed-body",
            "70 characters",
        ),
        (
            typed("b\u{40}"),
            whole(),
            400,
            "malformed-body",
            "characters that can't",
        ),
        (
            typed("\"\""),
            whole(),
            400,
            "malformed-body",
            "an empty `boundary`",
        ),
        (
            typed("b; boundary=c"),
            whole(),
            400,
            "malformed-body",
            "more than once",
        ),
        (
            typed("other"),
            [vec![b'x'; 256 * 1024], whole()].concat(),
            400,
            "malformed-body",
            "262144 bytes",
        ),
        (
            FORM.to_owned(),
            long_head,
            400,
            "malformed-body",
            "65536 bytes",
        ),
        (
            FORM.to_owned(),
            cut,
            400,
            "malformed-body",
            "last delimiter",
        ),
        (FORM.to_owned(), titulo, 413, "payload-too-large", "/titulo"),
        (
            FORM.to_owned(),
            charset,
            422,
            "validation-failed",
            "/_charset_",
        ),
        (
            FORM.to_owned(),
            form("Content-Transfer-Encoding: base64\r\n", b"AAAA"),
            400,
            "malformed-body",
            "/imagen",
        ),
        (
            FORM.to_owned(),
            form("", b""),
            422,
            "invalid-image",
            "/imagen",
        ),
        (
            FORM.to_owned(),
            form("Content-Disposition: form-data; name=\"proceso\"\r\n", b""),
            400,
            "malformed-body",
            "`Content-Disposition`",
        ),
    ] {
        let reply = world.send(post(&world, &content_type, body)).await;
        reply.problem(status, code);
        assert!(reply.text().contains(told), "{told}: {}", reply.text());
    }
    assert!(world.received().is_empty());
    in_flight(&world, 0).await;
}

#[tokio::test]
async fn an_upload_is_what_its_digests_say_or_nothing() {
    let world = World::start().await;
    let image = image();
    let of = promise;
    for field in ["Content-Digest", "Repr-Digest"] {
        let body = form("", &image);
        for algorithm in ["sha-256", "sha-512"] {
            let good = format!("md5=:AAAA:, {}", of(algorithm, &body));
            let request = post(&world, FORM, body.clone()).header(field, good);
            world.send(request).await.ok(201);
            let part = format!("{field}: {}\r\n", of(algorithm, &image));
            send(&world, form(&part, &image)).await.ok(201);
        }
        world.erp.clear_requests();
        let named = field.to_ascii_lowercase();
        for (bad, told) in [
            (of("sha-256", b"something else"), "end it again"),
            (of("sha-512", b"something else"), "end it again"),
            ("sha-256=:AAAA:".to_owned(), "can't be read"),
            ("sha-256=nothing".to_owned(), "can't be read"),
        ] {
            let request = post(&world, FORM, body.clone()).header(field, bad.clone());
            let reply = world.send(request).await;
            reply.problem(400, "malformed-body");
            assert_eq!(reply.named(), [&*named]);
            assert!(reply.text().contains(told), "{}", reply.text());
            let bad = if told == "end it again" {
                of("sha-256", &body)
            } else {
                bad
            };
            let reply = send(&world, form(&format!("{field}: {bad}\r\n"), &image)).await;
            reply.problem(400, "malformed-body");
            assert_eq!(reply.named(), ["/imagen"]);
            assert!(reply.text().contains(told) && reply.text().contains(&named));
        }
        assert!(world.received().is_empty());
    }
}

/// A promise of those bytes, as `Content-Digest` and `Repr-Digest` spell it.
fn promise(name: &str, bytes: &[u8]) -> String {
    let algorithm = if name == "sha-256" { &SHA256 } else { &SHA512 };
    format!(
        "{name}=:{}:",
        STANDARD.encode_to_string(digest(algorithm, bytes))
    )
}

#[tokio::test]
async fn a_request_may_promise_the_photo_alone() {
    let world = World::start().await;
    let (image, body) = (image(), form("", &image()));
    let with = async |field: &str, promise: &str, body: &[u8]| {
        let request = post(&world, FORM, body.to_vec()).header(field, promise);
        world.send(request).await
    };
    // Who has a form written knows the digests of the photo only.
    let [short, long] = ["sha-256", "sha-512"].map(|name| promise(name, &image));
    let of_body = promise("sha-256", &body);
    let other = promise("sha-512", b"something else");
    for good in [
        short.clone(),
        long.clone(),
        format!("{short}, {long}"),
        format!("{long}, {of_body}"),
        // Of equal keys the last counts (RFC 9651 §3.2).
        format!("{other}, {long}"),
    ] {
        with("Repr-Digest", &good, &body).await.ok(201);
    }
    // The part's own promise is apart from it.
    let part = format!("Content-Digest: {short}\r\n");
    with("Repr-Digest", &long, &form(&part, &image))
        .await
        .ok(201);
    world.erp.clear_requests();
    for bad in [
        other.clone(),
        format!("{short}, {other}"),
        format!("{other}, {short}"),
        format!("{long}, {other}"),
    ] {
        let reply = with("Repr-Digest", &bad, &body).await;
        reply.problem(400, "malformed-body");
        assert_eq!(reply.named(), ["repr-digest"]);
        let told = "neither that of the whole body nor that of the photo";
        assert!(reply.text().contains(told), "{}", reply.text());
    }
    for (bad, told) in [
        (&short, "is the photo's"),
        (&long, "that of the whole body, form and all"),
    ] {
        let reply = with("Content-Digest", bad, &body).await;
        reply.problem(400, "malformed-body");
        assert_eq!(reply.named(), ["content-digest"]);
        assert!(reply.text().contains(told), "{}", reply.text());
        assert!(reply.text().contains("`Repr-Digest`"), "{}", reply.text());
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_client_that_vanishes_frees_its_memory_at_once() {
    let world = World::start().await;
    let socket = upload(&world, 300_000, &form("", &image())[..10_000]).await;
    in_flight(&world, 300_000).await;
    drop(socket);
    in_flight(&world, 0).await;
    assert!(world.received().is_empty());
}

/// A JPEG of one pixel that is full of that byte, with a comment where it has one.
fn filled(byte: u8, comment: usize, scan: usize) -> Vec<u8> {
    let comment = match u16::try_from(comment + 2) {
        Ok(2) => Vec::new(),
        length => {
            let length = length.unwrap().to_be_bytes();
            [&b"\xff\xfe"[..], &length, &vec![byte; comment]].concat()
        }
    };
    [
        b"\xff\xd8",
        &comment[..],
        b"\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0",
        &vec![byte; scan],
        b"\xff\xd9",
    ]
    .concat()
}

#[tokio::test]
async fn a_photo_has_nothing_of_those_that_had_its_memory_before() {
    for metadata in ["keep", "strip-all"] {
        let settings = format!("images: {{metadata: {metadata}, dedupe_window: 0}}\n");
        let world = World::configured(&settings).await;
        for (turn, scan) in [300_000, 20_000, 250_000, 1_000, 400_000, 390_000, 1]
            .into_iter()
            .enumerate()
        {
            let broken_off = form("", &filled(b'x', 10_000, 350_000));
            let socket = upload(&world, broken_off.len(), &broken_off[..200_000]).await;
            // It may have memory that holds more than it asked for.
            while world.metrics().await.contains(&format!("{IN_FLIGHT} 0\n")) {}
            drop(socket);
            in_flight(&world, 0).await;

            let (tenant, order) = [("carper", 11001), ("norte", 21001)][turn % 2];
            let request = world
                .bare(Method::POST, &format!("/v1/ordenes/{order}/imagenes"))
                .bearer_auth(world.token(&json!({"tenant": tenant})));
            let byte = b'a' + turn as u8;
            let image = filled(byte, 40_000, scan);
            let request = request.header("content-type", FORM).body(form("", &image));
            let id = world.send(request).await.ok(201)["id"].as_u64().unwrap();
            let kept = world.erp.imagen(&with_clave(tenant), id).unwrap();
            let expected = match metadata {
                "keep" => image,
                _ => filled(byte, 0, scan),
            };
            assert!(kept == expected, "{metadata}, {turn}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_promises_no_length_reserves_what_it_may_have() {
    let world = World::configured("images: {max_bytes: 1MiB}\n").await;
    let at = world.public.trim_start_matches("http://");
    let mut socket = TcpStream::connect(at).await.unwrap();
    let token = world.token(&json!({}));
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: {FORM}\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    in_flight(&world, (1 << 20) + 64 * 1024).await;
    let image = image();
    for piece in form("", &image).chunks(7000) {
        let length = format!("{:x}\r\n", piece.len());
        let chunk = [length.as_bytes(), piece, b"\r\n"].concat();
        socket.write_all(&chunk).await.unwrap();
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let (head, _) = answer(socket).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert!(kept(&world) == image);
    in_flight(&world, 0).await;
}

#[tokio::test]
async fn an_upload_holds_its_image_until_the_erp_has_answered_whoever_leaves() {
    let world = World::start().await;
    world.faults("carper", Faults::hanging());
    let (image, body) = (image(), form("", &image()));
    let socket = upload(&world, body.len(), &body).await;
    // What stood around the image is given back.
    in_flight(&world, image.len()).await;
    world
        .wait_for_metric("llavero_upstream_requests_in_flight 1")
        .await;
    drop(socket);
    for _ in 0..20 {
        in_flight(&world, image.len()).await;
    }
    let _time = world.time_flies_by(Duration::from_secs(1));
    in_flight(&world, 0).await;
}

#[tokio::test]
async fn an_upload_without_room_is_refused_before_its_body_and_another_tenants_is_not() {
    let world = World::configured("images: {max_bytes: 64KiB, in_flight_bytes: 512KiB}\n").await;
    let small = photo("sony-rx1r.jpg");
    let body = form("", &small);
    let first = upload(&world, 60_000, &body[..100]).await;
    in_flight(&world, 60_000).await;
    // It asks before it sends, so only an answer lets it go on.
    let token = format!(
        "{}\r\ncontent-type: {FORM}\r\nexpect: 100-continue",
        world.token(&json!({}))
    );
    let second = begun(&world, &token, &format!("POST {PATH}"), 60_000, b"").await;
    let time = world.time_flies_by(Duration::from_millis(50));
    let (head, problem) = answer(second).await;
    drop(time);
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(problem["code"], "overloaded");
    refused(&world, "overloaded").await;
    in_flight(&world, 60_000).await;

    let norte = world.token(&json!({"tenant": "norte"}));
    let request = world
        .bare(Method::POST, "/v1/ordenes/21001/imagenes")
        .bearer_auth(norte);
    let request = request.header("content-type", FORM).body(body.clone());
    world.send(request).await.ok(201);
    drop(first);
    in_flight(&world, 0).await;
    send(&world, body).await.ok(201);
}

#[tokio::test]
async fn who_has_many_uploads_under_way_makes_room_for_who_has_fewer() {
    const ROOM: usize = 60_000 + BESIDE_IMAGE as usize;
    let world = World::configured("images: {max_bytes: 64KiB, in_flight_bytes: 1MiB}\n").await;
    let norte = world.token(&json!({"tenant": "norte"}));
    let beto = world.token(&json!({"sub": "beto"}));
    let small = photo("sony-rx1r.jpg");
    // Norte has one under way too.
    let head = format!("{norte}\r\ncontent-type: {FORM}");
    let path = "POST /v1/ordenes/21001/imagenes";
    let _one = begun(&world, &head, path, 60_000, b"").await;
    in_flight(&world, 60_000).await;
    let mut ana = vec![
        upload(&world, 60_000, b"").await,
        upload(&world, 60_000, b"").await,
    ];
    for (turn, (token, path)) in [(&beto, PATH), (&norte, "/v1/ordenes/21002/imagenes")]
        .into_iter()
        .enumerate()
    {
        ana.push(upload(&world, 60_000, b"").await);
        // All but what is kept for tenants that have none.
        in_flight(&world, 3 * ROOM + 60_000).await;
        // They take long.
        world.clock.advance(Duration::from_secs(3));
        let request = world.bare(Method::POST, path).bearer_auth(token);
        let request = request.header("content-type", FORM).body(form("", &small));
        let time = world.time_flies_by(Duration::from_millis(50));
        world.send(request).await.ok(201);
        drop(time);
        let ended = format!(
            "llavero_uploads_refused_total{{reason=\"overloaded\"}} {}",
            turn + 1
        );
        world.wait_for_metric(&ended).await;
        in_flight(&world, 2 * ROOM + 60_000).await;
    }
    // Who has as much under way isn't let in by them.
    ana.push(upload(&world, 60_000, b"").await);
    in_flight(&world, 3 * ROOM + 60_000).await;
    let time = world.time_flies_by(Duration::from_millis(50));
    send(&world, form("", &small))
        .await
        .problem(503, "overloaded");
    drop(time);
    in_flight(&world, 3 * ROOM + 60_000).await;
}

#[tokio::test]
async fn an_upload_that_waits_gets_in_when_there_is_room() {
    let world = World::configured("images: {max_bytes: 64KiB, in_flight_bytes: 512KiB}\n").await;
    let first = upload(&world, 60_000, b"").await;
    in_flight(&world, 60_000).await;
    let waits = send(&world, form("", &photo("sony-rx1r.jpg")));
    let leaves = async {
        world.wait_for_metric("llavero_uploads_waiting 1").await;
        drop(first);
    };
    let (reply, ()) = tokio::join!(waits, leaves);
    reply.ok(201);
}

#[tokio::test]
async fn a_body_that_stalls_or_trickles_is_ended_with_a_problem() {
    for (settings, rule, reason) in [
        (
            "images: {min_rate: 0, idle_timeout: 20s}\n",
            "20 seconds",
            "idle",
        ),
        (
            "images: {min_rate: 8KiB, idle_timeout: 10m}\n",
            "8192 bytes a second",
            "too-slow",
        ),
    ] {
        let world = World::configured(settings).await;
        let socket = upload(&world, 300_000, &form("", &image())[..10_000]).await;
        in_flight(&world, 300_000).await;
        let _time = world.time_flies_by(Duration::from_millis(500));
        let (head, problem) = answer(socket).await;
        assert!(head.starts_with("HTTP/1.1 408"), "{head}");
        assert_eq!(problem["code"], "request-timeout");
        assert!(
            problem["detail"].as_str().unwrap().contains(rule),
            "{problem}"
        );
        refused(&world, reason).await;
        in_flight(&world, 0).await;
        assert!(world.received().is_empty());
    }
}

#[tokio::test]
async fn a_change_that_stalls_is_ended_with_a_problem() {
    let world = World::start().await;
    let token = format!(
        "{}\r\ncontent-type: application/json",
        world.token(&json!({}))
    );
    let request = "PATCH /v1/ordenes/11001";
    let socket = begun(&world, &token, request, 100_000, b"{").await;
    let _time = world.time_flies_by(Duration::from_millis(100));
    let (head, problem) = answer(socket).await;
    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    assert_eq!(problem["code"], "request-timeout");
    assert!(
        problem["detail"].as_str().unwrap().contains("30 seconds"),
        "{problem}"
    );
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_change_that_trickles_is_ended_with_a_problem() {
    let world = World::start().await;
    let token = format!(
        "{}\r\ncontent-type: application/json",
        world.token(&json!({}))
    );
    let request = "PATCH /v1/ordenes/11001";
    let socket = begun(&world, &token, request, 100_000, b"{").await;
    let (mut reads, mut writes) = socket.into_split();
    let _time = world.time_flies_by(Duration::from_millis(100));
    let trickles = async {
        loop {
            // It is ended while it is still sent.
            let _ = writes.write_all(b" ").await;
            let at = world.clock.instant() + Duration::from_secs(5);
            world.clock.sleep_until(at).await;
        }
    };
    let (head, problem) = tokio::select! {
        answer = answer_beside(&mut reads) => answer,
        // It doesn't end before.
        never = trickles => never,
    };
    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("60 seconds"), "{problem}");
    assert!(world.received().is_empty());
}

/// A change with so many bytes.
fn change(bytes: usize) -> String {
    let change = r#"{"status": "cancelada""#;
    let blank = " ".repeat(bytes - change.len() - 1);
    format!("{change}{blank}}}")
}

fn patch(world: &World, token: &str, at: usize, bytes: usize) -> RequestBuilder {
    let request = world.bare(Method::PATCH, &format!("/v1/ordenes/{at}"));
    let request = request.header("content-type", "application/json");
    request.bearer_auth(token).body(change(bytes))
}

/// Of the longest changes, 33 are what a tenant has room for: 248 KiB of each count, of 8 MiB.
const LONG: usize = 250_000;
const FIT: usize = 33;
const BEYOND: usize = 7;

#[tokio::test]
async fn changes_that_never_end_leave_room_for_small_ones_and_other_tenants() {
    let world = World::start().await;
    let own = world.token(&json!({}));
    let head = format!("{own}\r\ncontent-type: application/json");
    let sends = async || {
        let request = "PATCH /v1/ordenes/11001";
        let mut socket = begun(&world, &head, request, LONG + 1, b"{").await;
        // It is refused before all of it was sent.
        let _ = socket.write_all(&[b' '; LONG - 1]).await;
        answer_beside(&mut socket).await
    };
    let mut unfinished: FuturesUnordered<_> = (0..FIT + BEYOND).map(|_| sends()).collect();
    for _ in 0..BEYOND {
        let next = tokio::time::timeout(Duration::from_secs(30), unfinished.next());
        let (head, problem) = next.await.expect("it is refused").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.contains("retry-after: "), "{head}");
        assert_eq!(problem["code"], "overloaded");
    }
    assert!(world.received().is_empty());
    let norte = world.token(&json!({"tenant": "norte"}));
    world
        .send(patch(&world, &own, 11001, 8 * 1024))
        .await
        .ok(200);
    world.send(patch(&world, &norte, 21001, LONG)).await.ok(200);
    drop(unfinished);
    let begun = std::time::Instant::now();
    while world.send(patch(&world, &own, 11001, LONG)).await.status != 200 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "who has left holds it"
        );
    }
}

#[tokio::test]
async fn changes_that_wait_for_the_erp_hold_their_room() {
    let world = World::start().await;
    world.holds("carper");
    let token = world.token(&json!({}));
    let changes = (0..FIT + BEYOND).map(|at| patch(&world, &token, 11001 + at, LONG));
    let changes = join_all(changes.map(|change| world.send(change)));
    let erp = async {
        for line in [
            r#"llavero_problems_total{code="overloaded"} 7"#,
            "llavero_upstream_requests_waiting 28",
        ] {
            world.wait_for_metric(line).await;
        }
        world.lets_go("carper");
    };
    let (replies, ()) = tokio::join!(changes, erp);
    let made = replies.iter().filter(|reply| reply.status == 200);
    assert_eq!(made.count(), FIT);
    let changes = (0..FIT).map(|at| patch(&world, &token, 11001 + at, LONG));
    for reply in join_all(changes.map(|change| world.send(change))).await {
        reply.ok(200);
    }
}

/// The one thread for work that takes long is held here, so that nothing that it is to do is done before.
#[test]
fn nobody_waits_for_a_look_at_the_photos_of_others() {
    const LARGE: usize = 6;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::start().await;
        let ((begin, begun), (release, released)) =
            (tokio::sync::oneshot::channel(), std::sync::mpsc::channel());
        let held = tokio::task::spawn_blocking(move || {
            begin.send(()).unwrap();
            released.recv()
        });
        begun.await.unwrap();
        let upload = |image: Vec<u8>| {
            let request = world
                .request(Method::POST, PATH)
                .header("content-type", FORM);
            world.send(request.body(form("", &image)))
        };
        let small = photo("made/everywhere.png");
        let photos = (0..LARGE).map(|at| [&small[..], &vec![b'<'; 100_000 + at]].concat());
        let large = futures_util::future::join_all(photos.map(upload));
        let others = async {
            let norte = world.token(&json!({"tenant": "norte"}));
            for _ in 0..20 {
                let probe = world.client.get(format!("{}/livez", world.admin));
                assert_eq!(world.send(probe).await.status, 200);
                world.get_as(&norte, "/v1/me").await.ok(200);
            }
            upload(small.clone()).await.ok(201);
            let received = world.received().len();
            release.send(()).unwrap();
            assert_eq!(received, 1, "only the small one needs no look elsewhere");
        };
        let (large, ()) = tokio::join!(large, others);
        large.iter().for_each(|reply| drop(reply.ok(201)));
        held.await.unwrap().unwrap();
    });
}
