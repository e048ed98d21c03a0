//! The drain loses nothing: what is under way is finished, what comes at the last moment is answered, and
//! each connection ends by an answer.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use llavero_simulator::Faults;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{World, leaks, photo};

const NOW: &str = "server:\n  drain_delay: 0s\n  shutdown_grace: 1h\n";
const LATER: &str = "server:\n  drain_delay: 1h\n  shutdown_grace: 1h\n";
const UPLOAD: &str = "/v1/ordenes/11001/imagenes";

/// A client of HTTP/1.1 that sends bytes as it is told.
struct Client(TcpStream);

impl Client {
    async fn connect(world: &World) -> Self {
        let at = world.public.strip_prefix("http://").unwrap();
        Self(TcpStream::connect(at).await.unwrap())
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// One answer's status, and whether its head says that the connection ends.
    async fn answer(&mut self) -> (u16, bool) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = self.0.read_u8().await;
            head.push(byte.unwrap_or_else(|error| panic!("{error} behind {head:?}")));
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |it| it.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        leaks::assert_none_in("a head", head.as_bytes());
        let closes = head.contains("\r\nconnection: close\r\n");
        (head[9..12].parse().unwrap(), closes)
    }

    /// The connection ends, and not by a reset.
    async fn ends(mut self) {
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
    }
}

fn get(world: &World, path: &str) -> Vec<u8> {
    let token = world.token(&json!({}));
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

fn form() -> Vec<u8> {
    let mut form = b"--b\r\ncontent-disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n\
        --b\r\ncontent-disposition: form-data; name=\"imagen\"; filename=\"a.jpg\"\r\n\r\n"
        .to_vec();
    form.extend_from_slice(&photo("sony-rx1r.jpg"));
    form.extend_from_slice(b"\r\n--b--\r\n");
    form
}

fn upload(world: &World) -> Vec<u8> {
    let (form, token) = (form(), world.token(&json!({})));
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    [head.into_bytes(), form].concat()
}

/// Begins the drain and waits until no connection is taken any more.
async fn close(world: &World) {
    world.shutdown.cancel();
    let at = world.public.strip_prefix("http://").unwrap();
    while TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Waits until a photo has begun to come in.
async fn is_being_received(world: &World) {
    let is_idle = "\nllavero_uploads_in_flight_bytes 0\n";
    while world.metrics().await.contains(is_idle) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_end_by_their_answers_from_the_first_moment_on() {
    let mut world = World::configured(LATER).await;
    let mut old = Client::connect(&world).await;
    let me = get(&world, "/v1/me");
    old.send(&me).await;
    assert_eq!(old.answer().await, (200, false));
    world.shutdown.cancel();
    let readyz = format!("{}/readyz", world.admin);
    while world.client.get(&readyz).send().await.unwrap().status() != 503 {
        tokio::task::yield_now().await;
    }
    // New ones are still taken.
    let new = Client::connect(&world).await;
    for mut client in [old, new] {
        client.send(&me).await;
        assert_eq!(client.answer().await, (200, true));
        client.ends().await;
    }
    world.at_once.cancel();
    (&mut world.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_of_the_last_moment_is_answered() {
    let mut world = World::configured(NOW).await;
    let me = get(&world, "/v1/me");
    let (mut idle, mut new) = (Client::connect(&world).await, Client::connect(&world).await);
    let mut half = Client::connect(&world).await;
    let mut unused = Client::connect(&world).await;
    for client in [&mut idle, &mut half, &mut unused] {
        client.send(&me).await;
        assert_eq!(client.answer().await, (200, false));
    }
    close(&world).await;
    for client in [&mut idle, &mut new] {
        client.send(&me).await;
        assert_eq!(client.answer().await, (200, true));
    }
    let (beginning, end) = me.split_at(40);
    half.send(beginning).await;
    // The moment is over.
    unused.ends().await;
    half.send(end).await;
    assert_eq!(half.answer().await, (200, true));
    for client in [idle, new, half] {
        client.ends().await;
    }
    (&mut world.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_waits_for_the_erp_is_answered_and_ends_its_connection() {
    let mut world = World::configured(NOW).await;
    world.faults("carper", Faults::hanging());
    let unused = Client::connect(&world).await;
    let mut client = Client::connect(&world).await;
    client.send(&get(&world, "/v1/ordenes/11001")).await;
    while world.received().is_empty() {
        tokio::task::yield_now().await;
    }
    close(&world).await;
    unused.ends().await;
    world.erp_goes_down().await;
    let (status, closes) = client.answer().await;
    assert!(matches!(status, 502..=504) && closes, "{status}");
    client.ends().await;
    (&mut world.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upload_under_way_is_finished() {
    let mut world = World::configured(NOW).await;
    let upload = upload(&world);
    let (beginning, end) = upload.split_at(upload.len() / 2);
    let mut client = Client::connect(&world).await;
    let unused = Client::connect(&world).await;
    client.send(beginning).await;
    is_being_received(&world).await;
    close(&world).await;
    // Idle connections are gone by now.
    unused.ends().await;
    client.send(end).await;
    assert_eq!(client.answer().await, (201, true));
    client.ends().await;
    (&mut world.served).await.unwrap().unwrap();
    assert_eq!(world.received().len(), 1);
}

/// A client that writes everything before it reads must be able to read.
#[tokio::test]
async fn a_refusal_in_the_drain_is_read_by_who_still_sends() {
    let mut world = World::configured(LATER).await;
    world.shutdown.cancel();
    let clients = [40_000, 4_000_000].map(async |length| {
        let mut client = Client::connect(&world).await;
        let head = format!(
            "POST {UPLOAD} HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n\
             content-length: {length}\r\n\r\n"
        );
        client.send(head.as_bytes()).await;
        // The answer is there before the body is.
        client.0.readable().await.unwrap();
        client.send(&vec![b'x'; length]).await;
        assert_eq!(client.answer().await, (401, true), "{length}");
        client.ends().await;
    });
    join_all(clients).await;
    world.at_once.cancel();
    (&mut world.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_of_http_2_are_finished_and_their_client_told() {
    let mut world = World::configured(NOW).await;
    let at = world.public.strip_prefix("http://").unwrap();
    let socket = TcpStream::connect(at).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let form = form();
    let request = http::Request::post(format!("{}{UPLOAD}", world.public))
        .header(
            "authorization",
            format!("Bearer {}", world.token(&json!({}))),
        )
        .header("content-type", "multipart/form-data; boundary=b")
        .header("content-length", form.len())
        .body(())
        .unwrap();
    let (answer, mut stream) = client.send_request(request, false).unwrap();
    let mut form = Bytes::from(form);
    stream.send_data(form.split_to(1000), false).unwrap();
    is_being_received(&world).await;
    close(&world).await;
    // It is told that no more streams are taken.
    let told = async {
        while let Ok(ready) = client.ready().await {
            client = ready;
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), told).await.unwrap();
    stream.send_data(form, true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(!answer.headers().contains_key("connection"));
    drop((answer, stream));
    connection.await.unwrap().unwrap();
    (&mut world.served).await.unwrap().unwrap();
    assert_eq!(world.received().len(), 1);
}
