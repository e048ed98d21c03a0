//! Floods: of connections, and of HTTP/2 frames that ask for nothing.

use std::{net::SocketAddr, time::Duration};

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{TLS, World, certificates::Io};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(content);
    frame
}

/// `GET /v1/me` by indices of HPACK's static table (RFC 7541), its authority `x`.
fn get(stream: u32, flags: u8) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04, 6];
    block.extend(b"/v1/me");
    block.extend([0x01, 1, b'x']);
    frame(HEADERS, flags, stream, &block)
}

/// A request that is cancelled at once.
fn cancelled(stream: u32) -> Vec<u8> {
    [get(stream, 0x5), reset(stream)].concat()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

/// Sends that at once at the beginning of a connection, and reads until a stream is answered; gives back
/// whether it was, or the connection's end came before.
async fn is_answered(mut connection: Box<dyn Io>, sent: Vec<u8>, stream: u32) -> bool {
    let beginning = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), sent].concat();
    connection.write_all(&beginning).await.unwrap();
    let mut header = [0; 9];
    while connection.read_exact(&mut header).await.is_ok() {
        let [high, middle, low, kind, _, of @ ..] = header;
        let mut content = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        if connection.read_exact(&mut content).await.is_err() {
            return false;
        }
        if kind == HEADERS && u32::from_be_bytes(of) == stream {
            return true;
        }
    }
    false
}

/// What is sent as the first, the second and so on.
type Piece<'p> = &'p dyn Fn(u32) -> Vec<u8>;

/// Sends pieces until the gateway ends the connection; fails where it takes all of them.
async fn flood(name: &str, mut stream: Box<dyn Io>, piece: impl Fn(u32) -> Vec<u8>) {
    const MOST: u32 = 200_000;
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    // Who doesn't read isn't answered, and would be held up by that alone.
    let reading = tokio::spawn(async move {
        let mut whole = vec![0; 64 * 1024];
        while !matches!(read.read(&mut whole).await, Ok(0) | Err(_)) {}
    });
    let mut sent = 0;
    while sent < MOST && !reading.is_finished() {
        let many: Vec<u8> = (sent..sent + 100).flat_map(&piece).collect();
        // What is behind the end is thrown away for a while, or reset.
        if write.write_all(&many).await.is_err() {
            break;
        }
        sent += 100;
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(ended.is_ok(), "{name}: {sent} are taken");
}

#[tokio::test]
async fn frames_that_ask_for_nothing_end_their_connection_and_nobody_elses() {
    for settings in ["", TLS] {
        let world = World::configured(settings).await;
        // On a connection of its own all the while.
        world.get("/v1/me").await.ok(200);
        let stream = |at: u32| 2 * at + 1;
        let floods: [(&str, Piece<'_>); 6] = [
            ("ping", &|_| frame(PING, 0, 0, &[7; 8])),
            ("settings", &|_| frame(SETTINGS, 0, 0, &[])),
            ("priority", &|at| {
                frame(PRIORITY, 0, stream(at), &[0, 0, 0, 0, 1])
            }),
            ("window", &|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            ("unknown", &|_| frame(0xfa, 0, 0, &[])),
            ("rapid reset", &|at| cancelled(stream(at))),
        ];
        for (at, (name, piece)) in floods.into_iter().enumerate() {
            let attacker = world.connect_with(&["h2"]).await;
            let others = async {
                for _ in 0..20 {
                    world.get("/v1/me").await.ok(200);
                }
            };
            tokio::join!(flood(name, attacker, piece), others);
            let line = format!("llavero_http2_floods_total {}", at + 1);
            world.wait_for_metric(&line).await;
            world.get("/v1/me").await.ok(200);
        }
    }
}

#[tokio::test]
async fn cancels_within_the_budget_cost_nobody_an_answer_however_they_come() {
    for (settings, bears, never) in [
        ("", 199, 260),
        (TLS, 199, 260),
        ("server:\n  trusted_proxies: [127.0.0.0/8]\n", 1999, 2600),
    ] {
        let world = World::configured(settings).await;
        let cancels = |count: u32| (0..count).flat_map(|at| cancelled(2 * at + 1));
        let sent = async |count: u32, more: Vec<u8>| {
            let sent = cancels(count).chain(more).chain(get(2 * count + 1, 0x5));
            let connection = world.connect_with(&["h2"]).await;
            is_answered(connection, sent.collect(), 2 * count + 1).await
        };
        for count in [21, 100, bears] {
            assert!(sent(count, Vec::new()).await, "{settings}: {count}");
        }
        // Streams that were reset may be so again, as some clients do.
        let again = (0..200).flat_map(|at| reset(2 * (at % 100) + 1).repeat(2));
        assert!(sent(100, again.collect()).await, "{settings}");
        world.wait_for_metric("llavero_http2_floods_total 0").await;
        assert!(!sent(never, Vec::new()).await, "{settings}");
        world.wait_for_metric("llavero_http2_floods_total 1").await;
        world.get("/v1/me").await.ok(200);
    }
}

#[tokio::test]
async fn a_head_that_never_ends_ends_its_connection() {
    for settings in ["", TLS] {
        let world = World::configured(settings).await;
        for content in [&b""[..], &[0x40, 1, b'a', 1, b'b'].repeat(1000)] {
            let attacker = world.connect_with(&["h2"]).await;
            let piece = |at: u32| match at {
                0 => get(1, 0x1),
                _ => frame(CONTINUATION, 0, 1, content),
            };
            flood("continuation", attacker, piece).await;
            world.get("/v1/me").await.ok(200);
        }
    }
}

#[tokio::test]
async fn resets_that_a_client_needs_are_no_flood() {
    for settings in ["", TLS] {
        let world = World::configured(settings).await;
        let stream = world.connect_with(&["h2"]).await;
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = || http::Request::get("http://x/v1/me").body(()).unwrap();
        for _ in 0..60 {
            client = client.ready().await.unwrap();
            let (answer, mut stream) = client.send_request(request(), false).unwrap();
            // It is known by the time that it is given up.
            let _ = answer.await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        client = client.ready().await.unwrap();
        let (answer, _) = client.send_request(request(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 401);
        world.wait_for_metric("llavero_http2_floods_total 0").await;
    }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

async fn is_served(at: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = b"HEAD /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let read = stream.read(&mut [0; 4096]).await;
    matches!(read, Ok(1..)).then_some(stream)
}

/// Waits until that many connections are open.
async fn open(world: &World, count: usize) {
    world
        .wait_for_metric(&format!("llavero_connections {count}"))
        .await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_them_back() {
    let world =
        World::configured("server:\n  drain_delay: 0s\n  connections: {per_address: 3}\n").await;
    let mut silent = Vec::new();
    for at in 1..=3 {
        silent.push(TcpStream::connect(world.address()).await.unwrap());
        open(&world, at).await;
    }
    for _ in 0..2 {
        let mut beyond = TcpStream::connect(world.address()).await.unwrap();
        assert!(is_closed(&mut beyond).await);
    }
    world
        .wait_for_metric("llavero_connections_refused_total{reason=\"address\"} 2")
        .await;
    drop(silent.pop());
    open(&world, 2).await;
    let served = is_served(world.address()).await;
    assert!(served.is_some());
    drop((silent, served));
    open(&world, 0).await;
}

#[tokio::test]
async fn a_trusted_proxy_stands_for_many_but_not_for_all() {
    let world = World::configured(
        "server:\n  drain_delay: 0s\n  trusted_proxies: [127.0.0.0/8]\n  connections: {max: 3, per_address: 1}\n",
    )
    .await;
    let mut served = Vec::new();
    for _ in 0..3 {
        served.push(is_served(world.address()).await.expect("stands for many"));
    }
    let mut beyond = TcpStream::connect(world.address()).await.unwrap();
    assert!(is_closed(&mut beyond).await);
    world
        .wait_for_metric("llavero_connections_refused_total{reason=\"all\"} 1")
        .await;
    // The admin port has its own bound.
    let live = world.client.get(format!("{}/livez", world.admin));
    assert_eq!(world.send(live).await.status, 200);
    served.clear();
    open(&world, 0).await;
    world
        .send(world.request(Method::GET, "/v1/me"))
        .await
        .ok(200);
    tokio::time::timeout(Duration::from_secs(20), open(&world, 1))
        .await
        .unwrap();
}
