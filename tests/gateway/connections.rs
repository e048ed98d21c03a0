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
