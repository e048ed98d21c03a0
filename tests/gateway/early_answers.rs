//! Answers that are known before the request has been sent, and clients that leave or
//! end their half before the answer is known.

use bytes::Bytes;
use futures_util::future::join_all;
use llavero_simulator::Faults;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use llavero::{extract::MULTIPART_OVERHEAD, in_flight::BESIDE_IMAGE};

use crate::harness::{
    TLS, World,
    certificates::{AUTHORITY, Io},
    leaks, photo,
};

const UPLOAD: &str = "/v1/ordenes/11001/imagenes";
const FORM: &str = "multipart/form-data; boundary=b";
const MIB: usize = 1 << 20;

/// How a body says where it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Framing {
    Length,
    Chunked,
}

use Framing::{Chunked, Length};

/// A client that sends and reads bytes as it is told.
struct Raw(Box<dyn Io>);

/// What it read.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Bytes,
}

impl Answer {
    fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        problem["code"].as_str().unwrap().to_owned()
    }

    fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Raw {
    async fn connect(world: &World) -> Self {
        Self(world.connect().await)
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// One answer, without a byte of what follows.
    async fn read(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = self.0.read_u8().await;
            head.push(byte.unwrap_or_else(|error| panic!("{error} behind {head:?}")));
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |it| it.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        leaks::assert_none_in("a head", head.as_bytes());
        leaks::assert_none_in("a body", &body);
        Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: body.into(),
        }
    }

    async fn has_ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0]).await, Ok(0))
    }
}

/// The head of an upload and its body, whole.
fn upload(token: &str, content_type: &str, framing: Framing, body: &[u8], more: &str) -> Vec<u8> {
    let length = match framing {
        Length => format!("content-length: {}", body.len()),
        Chunked => "transfer-encoding: chunked".to_owned(),
    };
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: {content_type}\r\n{length}\r\n{more}\r\n"
    );
    let mut request = head.into_bytes();
    match framing {
        Length => request.extend_from_slice(body),
        Chunked => {
            for chunk in body.chunks(60_000) {
                request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                request.extend_from_slice(chunk);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
        }
    }
    request
}

/// A form whose image has so many bytes.
fn form(image: usize) -> Vec<u8> {
    form_of(&vec![7; image])
}

/// A form with that image.
fn form_of(image: &[u8]) -> Vec<u8> {
    let head = "--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
                Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n";
    [head.as_bytes(), image, b"\r\n--b--\r\n"].concat()
}

/// The same without TLS and with it.
async fn worlds(settings: &str) -> [World; 2] {
    [
        World::configured(settings).await,
        World::configured(&format!("{TLS}{settings}")).await,
    ]
}

/// Writes all of it before it reads anything.
async fn writes_all_then_reads(world: &World, request: &[u8]) -> Answer {
    let mut client = Raw::connect(world).await;
    client.0.write_all(request).await.unwrap();
    let answer = client.read().await;
    assert!(answer.closes(), "{}", answer.head);
    assert!(client.has_ended().await, "the connection ends");
    answer
}

#[tokio::test]
async fn who_writes_a_whole_photo_before_it_reads_reads_the_refusal() {
    for world in worlds(
        "limits:\n  user: {requests: 1, per: 1h, burst: 1}\n  \
         tenant: {requests: 4000000000, per: 1s, burst: 4000000000}\n  \
         failures: {requests: 4000000000, per: 1s, burst: 4000000000}\n",
    )
    .await
    {
        let spent = world.token(&json!({"sub": "spent"}));
        world.get_as(&spent, "/v1/me").await.ok(200);
        let reader = |at: usize| {
            world.token(&json!({"sub": format!("reader-{at}"), "scope": "ordenes:read"}))
        };
        let writer = |at: usize| world.token(&json!({"sub": format!("writer-{at}")}));
        let body = form(12_000_000);
        let large = form(14_000_000);
        let mut at = 0;
        for framing in [Length, Chunked] {
            for more in ["", "expect: 100-continue\r\n"] {
                at += 1;
                for (token, content_type, body, status, code) in [
                    ("x.y.z".to_owned(), FORM, &body, 401, "invalid-token"),
                    (reader(at), FORM, &body, 403, "insufficient-scope"),
                    (writer(at), FORM, &large, 413, "payload-too-large"),
                    (
                        writer(at + 100),
                        "image/jpeg",
                        &body,
                        415,
                        "unsupported-media-type",
                    ),
                    (spent.clone(), FORM, &body, 429, "rate-limited"),
                ] {
                    // Its length isn't known, so the photo is read up to its limit.
                    let asks_for_it = framing == Chunked && status == 413 && !more.is_empty();
                    let request = upload(&token, content_type, framing, body, more);
                    if asks_for_it {
                        continue;
                    }
                    let answer = writes_all_then_reads(&world, &request).await;
                    assert_eq!(
                        (answer.status, &*answer.code()),
                        (status, code),
                        "{framing:?} {more}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_body_is_read() {
    for world in worlds("images:\n  max_bytes: 1MiB\n").await {
        let token = world.token(&json!({}));
        let unknown = [
            &form(1000)[..form(1000).len() - 9],
            b"\r\n--b\r\nContent-Disposition: form-data; name=\"foto\"\r\n\r\n",
            &vec![7; 12 * MIB],
        ]
        .concat();
        let unbounded = vec![b'x'; 12 * MIB];
        for (framing, body, status, code) in [
            (Chunked, form(12 * MIB), 413, "payload-too-large"),
            (Chunked, unbounded, 400, "malformed-body"),
            (Chunked, unknown, 422, "validation-failed"),
        ] {
            let request = upload(&token, FORM, framing, &body, "");
            let answer = writes_all_then_reads(&world, &request).await;
            assert_eq!((answer.status, &*answer.code()), (status, code));
        }
    }
}

#[tokio::test]
async fn the_refusal_comes_though_the_body_does_not() {
    for world in worlds("").await {
        for more in ["", "expect: 100-continue\r\n"] {
            for length in [100, 12_000_000] {
                let head = format!(
                    "POST {UPLOAD} HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\n\
                 content-length: {length}\r\n{more}\r\n"
                );
                let mut client = Raw::connect(&world).await;
                client.send(&head).await;
                let answer = client.read().await;
                assert_eq!(answer.status, 401, "and no 100 before it");
                let goes_on = length == 100 && more.is_empty();
                assert_eq!(answer.closes(), !goes_on, "{length} {more}");
                if !goes_on {
                    assert!(client.has_ended().await);
                }
            }
        }
    }
}

#[tokio::test]
async fn behind_a_small_refused_body_the_connection_serves_on() {
    for world in worlds("").await {
        let mut client = Raw::connect(&world).await;
        for size in [1, 1000, 60_000] {
            let refused = upload("x.y.z", FORM, Length, &vec![b'x'; size], "");
            let next = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
            let both = [&refused, next.as_bytes()].concat();
            client.0.write_all(&both).await.unwrap();
            let answer = client.read().await;
            assert_eq!((answer.status, answer.closes()), (401, false), "{size}");
            assert_eq!(client.read().await.status, 200, "{size}");
        }
    }
}

#[tokio::test]
async fn a_chunked_body_that_was_read_keeps_its_connection() {
    for world in worlds("").await {
        let mut client = Raw::connect(&world).await;
        let token = world.token(&json!({}));
        let image = photo("no-exif.jpg");
        let head = "--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
                Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n";
        let body = [head.as_bytes(), &image, b"\r\n--b--\r\n"].concat();
        for _ in 0..3 {
            let request = upload(&token, FORM, Chunked, &body, "");
            client.0.write_all(&request).await.unwrap();
            let answer = client.read().await;
            assert_eq!((answer.status, answer.closes()), (201, false));
        }
    }
}

#[tokio::test]
async fn who_never_stops_sending_is_cut() {
    for world in worlds("images:\n  max_bytes: 1MiB\n").await {
        let mut client = Raw::connect(&world).await;
        let head = upload("x.y.z", FORM, Length, &[], "");
        let head = String::from_utf8(head).unwrap();
        client
            .send(&head.replace("content-length: 0", "content-length: 100000000000"))
            .await;
        assert_eq!(client.read().await.status, 401);
        let (piece, mut sent) = (vec![0; MIB], 0);
        while client.0.write_all(&piece).await.is_ok() {
            sent += 1;
            assert!(sent < 100, "nobody stops it");
        }
        assert!(sent >= 15, "{sent} MiB");
    }
}

#[tokio::test]
async fn at_the_end_nobody_waits_for_who_sends_what_nobody_wants() {
    let mut world = World::configured("server:\n  drain_delay: 0s\n  shutdown_grace: 1h\n").await;
    let mut client = Raw::connect(&world).await;
    let request = upload("x.y.z", FORM, Length, &form(12_000_000), "");
    client.0.write_all(&request[..200_000]).await.unwrap();
    assert_eq!(client.read().await.status, 401);
    world.shutdown.cancel();
    world.at_once.cancel();
    (&mut world.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_has_ended_its_half_gets_its_answer() {
    for world in worlds("").await {
        let authorization = format!("authorization: Bearer {}", world.token(&json!({})));
        // Long enough for the end to be seen before the answer is there.
        let slow = Faults {
            delay: Some(250),
            ..Faults::default()
        };
        world.faults("carper", slow);
        let image = photo("no-exif.jpg");
        let head = "--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
                Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n";
        let body = [head.as_bytes(), &image, b"\r\n--b--\r\n"].concat();
        let get = |version| {
            format!(
                "GET /v1/ordenes/11001 HTTP/{version}\r\nhost: x\r\n{authorization}\r\ncache-control: no-cache\r\n\r\n"
            )
        };
        let requests = [
            (get("1.1").into_bytes(), 1, 200),
            (get("1.0").into_bytes(), 1, 200),
            (format!("{}{}", get("1.1"), get("1.1")).into_bytes(), 2, 200),
            (
                upload(&world.token(&json!({})), FORM, Length, &body, ""),
                1,
                201,
            ),
            (
                upload(&world.token(&json!({})), FORM, Chunked, &body, ""),
                1,
                201,
            ),
            (upload("x.y.z", FORM, Length, &form(1000), ""), 1, 401),
        ];
        let world = &world;
        join_all(
            requests
                .into_iter()
                .map(|(request, answers, status)| async move {
                    let mut client = Raw::connect(world).await;
                    client.0.write_all(&request).await.unwrap();
                    client.0.shutdown().await.unwrap();
                    for _ in 0..answers {
                        let mut answer = client.read().await;
                        while answer.status == 100 {
                            assert!(!request.windows(8).any(|it| it == b"HTTP/1.0"));
                            answer = client.read().await;
                        }
                        assert_eq!(answer.status, status, "{}", answer.head);
                    }
                    assert!(client.has_ended().await);
                }),
        )
        .await;
    }
}

/// Waits until the access log has that many requests of that status to the upload's route.
async fn logged(world: &World, status: u16, requests: usize) {
    let line = format!(
        "http_server_request_duration_seconds_count{{http_route=\"/v1/ordenes/{{id}}/imagenes\",\
         http_request_method=\"POST\",http_response_status_code=\"{status}\"}} {requests}"
    );
    world.wait_for_metric(&line).await;
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_a_body_is_told_from_who_sent_it_wrongly() {
    for world in worlds("").await {
        let token = world.token(&json!({}));
        // The first half of it.
        let begun = |framing| {
            let request = upload(&token, FORM, framing, &form(100_000), "");
            request[..request.len() / 2].to_vec()
        };
        let mut left = 0;
        for framing in [Length, Chunked] {
            let mut client = Raw::connect(&world).await;
            client.0.write_all(&begun(framing)).await.unwrap();
            drop(client);
            left += 1;
            logged(&world, 499, left).await;
        }
        let incomplete = "llavero_uploads_refused_total{reason=\"incomplete\"} 2";
        world.wait_for_metric(incomplete).await;
        world
            .wait_for_metric("llavero_problems_total{code=\"malformed-body\"} 0")
            .await;

        // Who has ended its half only is there to read what was wrong.
        for framing in [Length, Chunked] {
            let mut client = Raw::connect(&world).await;
            client.0.write_all(&begun(framing)).await.unwrap();
            client.0.shutdown().await.unwrap();
            let flies = world.time_flies();
            let mut answer = client.read().await;
            while answer.status == 100 {
                answer = client.read().await;
            }
            drop(flies);
            assert_eq!((answer.status, &*answer.code()), (400, "malformed-body"));
        }
        // So is who sends what can't stand there, and nobody waits for that.
        let mut client = Raw::connect(&world).await;
        let request = upload(&token, FORM, Chunked, b"", "");
        let head = request.len() - b"0\r\n\r\n".len();
        client.0.write_all(&request[..head]).await.unwrap();
        client.send("5\r\n--b\r\nno length\r\n").await;
        let answer = client.read().await;
        assert_eq!((answer.status, &*answer.code()), (400, "malformed-body"));
        logged(&world, 400, 3).await;
        assert!(world.received().is_empty());
    }
}

#[tokio::test]
async fn who_leaves_while_the_erp_is_asked_frees_the_place() {
    for http2 in [false, true] {
        for world in worlds("").await {
            let hanging = Faults::hanging();
            world.faults("carper", hanging);
            let authority = reqwest::Certificate::from_pem(AUTHORITY.pem.as_bytes()).unwrap();
            let client = reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([authority]);
            let client = match http2 {
                true => client.http2_prior_knowledge(),
                false => client,
            };
            let client = client.build().unwrap();
            let requests = join_all((0..9).map(|at| {
                let request = client.get(format!("{}/v1/ordenes/{}", world.public, 11001 + at));
                request.bearer_auth(world.token(&json!({}))).send()
            }));
            let waits = world.wait_for_metric("llavero_upstream_requests_waiting 4");
            tokio::select! {
                _ = requests => panic!("nothing is answered"),
                () = waits => {}
            }
            world
                .wait_for_metric("llavero_upstream_requests_waiting 0")
                .await;
        }
    }
}

mod http2 {
    use std::time::Duration;

    use h2::{
        PingPong, Reason,
        client::{Connection, SendRequest},
    };
    use tokio::time::timeout;

    use super::*;

    /// What a client may send of one body before anybody reads it.
    const WINDOW: usize = 128 * 1024;
    /// Longer than anything takes that isn't stuck.
    const STUCK: Duration = Duration::from_secs(30);

    async fn connect(world: &World) -> SendRequest<Bytes> {
        connect_with_pings(world).await.0
    }

    async fn connect_with_pings(world: &World) -> (SendRequest<Bytes>, PingPong) {
        let socket = world.connect_with(&["h2"]).await;
        let (client, mut connection): (_, Connection<_, Bytes>) =
            h2::client::handshake(socket).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        tokio::spawn(connection);
        (client, pings)
    }

    /// Sends what of it may be sent before anybody reads it, and is told that no more may be.
    async fn send_a_window(
        stream: &mut h2::SendStream<Bytes>,
        pings: &mut PingPong,
        body: &mut Bytes,
    ) {
        let mut window = body.split_to(WINDOW);
        let last = window.split_off(WINDOW - 1);
        assert_eq!(send(stream, window, false).await, None);
        assert_eq!(send(stream, last, false).await, None);
        stream.reserve_capacity(1);
        pings.ping(h2::Ping::opaque()).await.unwrap();
        assert_eq!(stream.capacity(), 0, "nobody has read any of it");
    }

    fn post(token: &str) -> http::Request<()> {
        http::Request::post(format!("http://x{UPLOAD}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", FORM)
            .body(())
            .unwrap()
    }

    #[tokio::test]
    async fn who_takes_an_upload_back_has_left() {
        for world in worlds("").await {
            let mut client = connect(&world).await;
            let request = post(&world.token(&json!({})));
            let (answer, mut stream) = client.send_request(request, false).unwrap();
            let half = Bytes::from(form(1000)).slice(..600);
            stream.send_data(half, false).unwrap();
            // It is under way: it promised no length, and has the room of the largest.
            let room = 12 * MIB as u64 + MULTIPART_OVERHEAD + BESIDE_IMAGE;
            let under_way = format!("llavero_uploads_in_flight_bytes {room}");
            world.wait_for_metric(&under_way).await;
            stream.send_reset(Reason::CANCEL);
            drop(answer);
            logged(&world, 499, 1).await;
        }
    }

    /// Sends as the windows allow until all is sent or the stream is reset; gives back the reason.
    async fn send_all(stream: &mut h2::SendStream<Bytes>, body: Bytes) -> Option<Reason> {
        send(stream, body, true).await
    }

    async fn send(
        stream: &mut h2::SendStream<Bytes>,
        mut body: Bytes,
        ends: bool,
    ) -> Option<Reason> {
        while !body.is_empty() {
            stream.reserve_capacity(body.len());
            let room = std::future::poll_fn(|context| {
                if let std::task::Poll::Ready(reset) = stream.poll_reset(context) {
                    return std::task::Poll::Ready(Err(reset.ok()));
                }
                stream.poll_capacity(context).map(Ok)
            });
            match room.await {
                Err(reason) => return reason,
                Ok(None) => return None,
                Ok(Some(room)) => {
                    let room = room.unwrap().min(body.len());
                    let is_last = ends && room == body.len();
                    if stream.send_data(body.split_to(room), is_last).is_err() {
                        return None;
                    }
                }
            }
        }
        None
    }

    async fn read(response: h2::client::ResponseFuture) -> (u16, Bytes) {
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            let _ = body.flow_control().release_capacity(data.len());
            whole.extend_from_slice(&data);
        }
        leaks::assert_none_in("a body", &whole);
        (status, whole.into())
    }

    #[tokio::test]
    async fn a_refused_stream_ends_alone_and_gives_its_window_back() {
        for world in worlds("").await {
            let mut client = connect(&world).await;
            let token = world.token(&json!({}));
            // Far more than the connection's window in all.
            for at in 0..20 {
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(post("x.y.z"), false).unwrap();
                let other = http::Request::get(format!("http://x/v1/ordenes/{}", 11001 + at))
                    .header("authorization", format!("Bearer {token}"))
                    .body(())
                    .unwrap();
                let (other, _) = client.send_request(other, true).unwrap();
                let sending = send_all(&mut stream, vec![0; 5 * MIB].into());
                let (reset, refused, other) = tokio::join!(sending, read(response), read(other));
                assert_eq!(reset, None, "it is taken to its end");
                assert_eq!(refused.0, 401);
                let problem: Value = serde_json::from_slice(&refused.1).unwrap();
                assert_eq!(problem["code"], "invalid-token");
                assert_eq!(other.0, 200);
            }
        }
    }

    #[tokio::test]
    async fn who_writes_all_before_it_reads_reads_the_refusal() {
        for world in worlds("").await {
            let mut client = connect(&world).await;
            for _ in 0..3 {
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(post("x.y.z"), false).unwrap();
                let reset = send_all(&mut stream, vec![0; 12 * MIB].into()).await;
                assert_eq!(reset, None);
                let (status, body) = read(response).await;
                assert_eq!(status, 401);
                assert!(serde_json::from_slice::<Value>(&body).is_ok());
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_never_ends_is_reset_without_an_error() {
        for world in worlds("images:\n  max_bytes: 1MiB\n").await {
            let mut client = connect(&world).await;
            for _ in 0..2 {
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(post("x.y.z"), false).unwrap();
                let sending = send_all(&mut stream, vec![0; 100 * MIB].into());
                let (reset, (status, _)) = tokio::join!(sending, read(response));
                assert_eq!(reset, Some(Reason::NO_ERROR), "RFC 9113 §8.1");
                assert_eq!(status, 401);
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_in_the_middle_of_a_stream_is_read() {
        for world in worlds("images:\n  max_bytes: 1MiB\n").await {
            let mut client = connect(&world).await;
            let token = world.token(&json!({}));
            for _ in 0..3 {
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(post(&token), false).unwrap();
                let sending = send_all(&mut stream, form(6 * MIB).into());
                let (_, (status, body)) = tokio::join!(sending, read(response));
                assert_eq!(status, 413);
                let problem: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(problem["code"], "payload-too-large");
            }
        }
    }

    #[tokio::test]
    async fn uploads_that_wait_for_room_keep_a_window_each_and_hold_up_nobody() {
        const IMAGES: &str =
            "images: {max_bytes: 512KiB, in_flight_bytes: 600KiB, dedupe_window: 0}\n";
        let proxy = "server:\n  trusted_proxies: [127.0.0.0/8]\n";
        let body = Bytes::from(form_of(&photo("lumia-gps.jpg")));
        for (settings, waiting) in [("", 3), (proxy, 20)] {
            let world = World::configured(&format!("{settings}{IMAGES}")).await;
            let (mut client, mut pings) = connect_with_pings(&world).await;
            let token = world.token(&json!({}));
            let mut uploads = Vec::new();
            for at in 0..=waiting {
                let mut body = body.clone();
                let mut request = post(&token);
                let length = body.len().into();
                request.headers_mut().insert("content-length", length);
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(request, false).unwrap();
                if at == 0 {
                    let held = body.len() as u64 + BESIDE_IMAGE;
                    let metric = format!("llavero_uploads_in_flight_bytes {held}");
                    world.wait_for_metric(&metric).await;
                } else {
                    let sent = send_a_window(&mut stream, &mut pings, &mut body);
                    timeout(STUCK, sent).await.expect("there is a window");
                }
                uploads.push(async move {
                    let sending = send_all(&mut stream, body);
                    let (reset, (status, body)) = tokio::join!(sending, read(response));
                    assert_eq!((reset, status), (None, 201), "{body:?}");
                });
            }
            let has_room = uploads.remove(0);
            timeout(STUCK, has_room).await.expect("it isn't held up");
            join_all(uploads).await;
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_taken_while_the_erp_is_asked() {
        let hanging = Faults::hanging();
        for world in worlds("images: {max_bytes: 1MiB}\n").await {
            world.faults("carper", hanging.clone());
            let mut client = connect(&world).await;
            let token = world.token(&json!({}));
            let get = || {
                http::Request::get("http://x/v1/ordenes/11001")
                    .header("authorization", format!("Bearer {token}"))
                    .body(())
                    .unwrap()
            };
            client = client.ready().await.unwrap();
            let (response, mut stream) = client.send_request(get(), false).unwrap();
            let sent = send(&mut stream, vec![0; 3 * MIB].into(), false);
            let reset = timeout(STUCK, sent).await.expect("it is taken");
            assert_eq!(reset, None);
            // So much isn't, and its answer is read nevertheless.
            let (endless, mut endless_stream) = client.send_request(get(), false).unwrap();
            let sending = send_all(&mut endless_stream, vec![0; 20 * MIB].into());
            let time = async {
                world
                    .wait_for_metric("llavero_upstream_requests_in_flight 1")
                    .await;
                world.time_flies()
            };
            let end = send_all(&mut stream, vec![0; MIB].into());
            let (reset, endless, response, end, _time) =
                tokio::join!(sending, read(endless), read(response), end, time);
            assert_eq!((end, response.0), (None, 504));
            assert_eq!((reset, endless.0), (Some(Reason::NO_ERROR), 504));
        }
    }
}
