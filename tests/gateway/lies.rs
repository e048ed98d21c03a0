//! Upstream answers that lie, byte by byte. Each has its problem code, within bounds,
//! and poisons neither the connections nor the cache.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http::Method;
use reqwest::multipart::{Form, Part};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::harness::{Reply, World, photo};

const LIE: &str = "/v1/ordenes/666";
const TRUTH: &str = "/v1/ordenes/7";

/// An upstream that answers what is asked of order 666 as told, and of others truly.
struct Liar {
    world: World,
    connections: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

/// What is written in answer to the lie, piece by piece, and whether the connection stays open.
#[derive(Clone)]
struct Lie {
    pieces: Vec<Vec<u8>>,
    /// The last piece over and over.
    forever: bool,
    keeps_open: bool,
}

fn lie(pieces: &[&[u8]]) -> Lie {
    Lie {
        pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
        forever: false,
        keeps_open: false,
    }
}

fn orden(id: u64) -> String {
    format!(r#"{{"id":{id},"status":1,"descripcion":"orden {id}"}}"#)
}

fn answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

impl Liar {
    async fn telling(lie: Lie) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What it doesn't read stays with the sender.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let at = listener.local_addr().unwrap();
        let (connections, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, counter) = (connections.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, lie.clone(), counter.clone()));
            }
        });
        let world = World::before_upstream(&format!("http://{at}/{{clave}}/api/v2/"), "").await;
        Self {
            world,
            connections,
            sent,
        }
    }

    /// The lie, and then truths, which must be what they are.
    async fn ask(&self) -> Reply {
        let reply = self.world.get(LIE).await;
        for id in [7, 8, 9] {
            let orden = self.world.get(&format!("/v1/ordenes/{id}")).await.ok(200);
            assert_eq!(orden["id"], id);
            assert_eq!(orden["descripcion"], format!("orden {id}"));
        }
        let again = self.world.get(TRUTH).await;
        assert_eq!(again.header("cache-status"), "llavero; hit; ttl=30");
        reply
    }
}

async fn serve(mut stream: TcpStream, lie: Lie, sent: Arc<AtomicUsize>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let id: u64 = head.split('/').find_map(|part| part.parse().ok())?;
        if id != 666 {
            stream.write_all(&answer(&orden(id))).await.ok()?;
            continue;
        }
        for piece in &lie.pieces {
            stream.write_all(piece).await.ok()?;
            sent.fetch_add(piece.len(), Ordering::Relaxed);
        }
        if lie.forever {
            let piece = lie.pieces.last()?;
            loop {
                stream.write_all(piece).await.ok()?;
                sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
        if !lie.keeps_open {
            return None;
        }
    }
}

#[tokio::test]
async fn a_body_shorter_than_it_was_promised() {
    let liar = Liar::telling(lie(&[
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n",
        orden(666).as_bytes(),
    ]))
    .await;
    liar.ask().await.problem(502, "upstream-error");
}

/// A photo that has arrived before all of it was sent is nowhere.
#[tokio::test]
async fn a_photo_that_was_taken_before_it_was_sent() {
    let archivo = r#"{"id":777,"url":"https://archivos.example.net/777.jpg","titulo":"t.jpg","creado":"2026-01-06T01:48:03Z"}"#;
    let length = archivo.len();
    for status in ["201 Created", "200 OK"] {
        let taken = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{archivo}"
        );
        let liar = Liar::telling(Lie {
            keeps_open: true,
            ..lie(&[taken.as_bytes()])
        })
        .await;
        let mut image = photo("sony-rx1r.jpg");
        image.resize(11 << 20, 0);
        for _ in 0..2 {
            let part = Part::bytes(image.clone()).file_name("foto");
            let form = Form::new().text("proceso", "antes").part("imagen", part);
            let request = liar.world.request(Method::POST, "/v1/ordenes/666/imagenes");
            let request = request.header("idempotency-key", "k").multipart(form);
            let reply = liar.world.send(request).await;
            assert!(!reply.status.is_success(), "{status}: {}", reply.text());
            assert!(
                reply.headers.contains_key("retry-after"),
                "{:?}",
                reply.headers
            );
        }
        let records = liar.world.audit().await;
        assert_eq!(records[0]["outcome"], "unknown", "{records:?}");
        assert!(
            records.iter().all(|it| it["outcome"] != "done"),
            "{records:?}"
        );
    }
}

#[tokio::test]
async fn a_second_answer_behind_the_first_is_nobodys() {
    // On a connection that stays open, what follows the body would be the next request's answer.
    let mut both = answer(&orden(666));
    both.extend_from_slice(&answer(r#"{"id":7,"descripcion":"poison"}"#));
    for pieces in [
        vec![both.clone()],
        vec![
            answer(&orden(666)),
            answer(r#"{"id":7,"descripcion":"poison"}"#),
        ],
    ] {
        let liar = Liar::telling(Lie {
            pieces,
            forever: false,
            keeps_open: true,
        })
        .await;
        liar.ask().await.ok(200);
    }
}

#[tokio::test]
async fn a_body_that_says_beforehand_that_it_is_too_large() {
    let liar = Liar::telling(Lie {
        keeps_open: true,
        ..lie(&[b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n{"])
    })
    .await;
    liar.ask().await.problem(502, "upstream-error");
    assert!(
        liar.connections.load(Ordering::Relaxed) > 1,
        "it isn't used again"
    );
}

#[tokio::test]
async fn a_body_without_end() {
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let liar = Liar::telling(Lie {
        forever: true,
        ..lie(&[
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            chunk.as_bytes(),
        ])
    })
    .await;
    liar.ask().await.problem(502, "upstream-error");
    let sent = liar.sent.load(Ordering::Relaxed);
    assert!(sent < 40 << 20, "{sent} bytes went over the wire");
}

#[tokio::test]
async fn a_small_body_that_unpacks_to_an_enormous_one() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..256 {
        bomb.write_all(&[b' '; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 19);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        bomb.len()
    );
    let liar = Liar::telling(lie(&[head.as_bytes(), &bomb])).await;
    liar.ask().await.problem(502, "upstream-error");
}

#[tokio::test]
async fn what_is_called_gzip_and_is_not() {
    let liar = Liar::telling(lie(&[
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 9\r\n\r\n",
        b"not gzip!",
    ]))
    .await;
    liar.ask().await.problem(502, "upstream-error");
}

#[tokio::test]
async fn a_trickle_ends_in_time() {
    let liar = Liar::telling(Lie {
        keeps_open: true,
        ..lie(&[
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{",
            b"\"",
            b"i",
        ])
    })
    .await;
    let time = async {
        while liar.sent.load(Ordering::Relaxed) < 40 {
            tokio::task::yield_now().await;
        }
        liar.world.clock.advance(Duration::from_secs(15));
    };
    let (reply, ()) = tokio::join!(liar.ask(), time);
    reply.problem(504, "upstream-timeout");
}

#[tokio::test]
async fn what_is_no_http_at_all() {
    let flood = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 << 20));
    for pieces in [
        &[&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..]][..],
        &[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nabcdefg"],
        &[b"HTTP/1.1 999999 What\r\n\r\n"],
        &[flood.as_bytes()],
        &[b""],
    ] {
        let liar = Liar::telling(lie(pieces)).await;
        liar.ask().await.problem(502, "upstream-error");
    }
}

#[tokio::test]
async fn a_redirect_takes_no_key_anywhere() {
    let thief = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = thief.local_addr().unwrap();
    for status in [301, 302, 303, 307, 308] {
        let head = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{to}/\r\ncontent-length: 0\r\n\r\n"
        );
        let liar = Liar::telling(lie(&[head.as_bytes()])).await;
        liar.ask().await.problem(502, "upstream-error");
    }
    let came = thief.into_std().unwrap().accept();
    assert_eq!(
        came.unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "somebody came"
    );
}
