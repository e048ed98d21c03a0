//! Connections that are no good to anybody.

use std::time::Duration;

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::World;

async fn connect(world: &World) -> TcpStream {
    let at = world.public.strip_prefix("http://").unwrap();
    TcpStream::connect(at).await.unwrap()
}

#[tokio::test]
async fn a_drain_does_not_wait_for_who_says_nothing() {
    let mut world = World::configured("server:\n  drain_delay: 0s\n  shutdown_grace: 1h\n").await;
    let mut silent = connect(&world).await;
    let mut half = connect(&world).await;
    half.write_all(b"PR").await.unwrap();
    // Both are accepted by the time that this is answered.
    world
        .send(world.request(Method::GET, "/v1/me"))
        .await
        .ok(200);
    world.shutdown.cancel();
    (&mut world.served).await.unwrap().unwrap();
    for stream in [&mut silent, &mut half] {
        let read = stream.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

#[tokio::test]
async fn http_2_without_tls_is_told_by_its_first_bytes_however_they_come() {
    let world = World::start().await;
    let mut stream = connect(&world).await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS frame (RFC 9113 §6.5); the answer begins with one too.
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "{head:?}");
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let reply = client
        .get(format!("{}/openapi.json", world.public))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.version(), reqwest::Version::HTTP_2);
    let document: serde_json::Value = reply.json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn methods_that_begin_like_http_2_are_http_1() {
    let world = World::start().await;
    for method in ["P", "PR", "PUT", "PRX", "PROPFIND"] {
        let mut stream = connect(&world).await;
        let request = format!("{method} /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{method}: {answer}");
    }
}

/// The answer comes, and the connection serves on, though the body came after the refusal.
#[tokio::test]
async fn a_refusal_before_the_body_is_read_by_its_client() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = crate::harness::World::start().await;
    let address = world.public.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        let head = "PATCH /v1/ordenes/11001 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Long enough for the refusal to be known.
        while !world
            .metrics()
            .await
            .contains("http_route=\"/v1/ordenes/{id}\",http_request_method=\"PATCH\"")
        {
            tokio::task::yield_now().await;
        }
        stream.write_all(b"{\"status\":\"abierta\"}").await.unwrap();
        let mut bytes = vec![0; 8192];
        let read = stream.read(&mut bytes).await.unwrap();
        let answer = String::from_utf8_lossy(&bytes[..read]).to_lowercase();
        assert!(answer.starts_with("http/1.1 401"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
}
