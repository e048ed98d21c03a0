//! Every route × wrong methods × wrong content types × bad bodies: always a problem,
//! always the right code, never a word of the upstream.

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Reply, World};

/// Each address and its methods.
const ROUTES: [(&str, &[&str]); 9] = [
    ("/v1/ordenes", &["GET", "HEAD"]),
    ("/v1/ordenes/11001", &["GET", "HEAD", "PATCH"]),
    ("/v1/ordenes/11001/imagenes", &["POST"]),
    ("/v1/me", &["GET", "HEAD"]),
    ("/openapi.json", &["GET", "HEAD"]),
    ("/openapi.yaml", &["GET", "HEAD"]),
    ("/docs", &["GET", "HEAD"]),
    ("/problems", &["GET", "HEAD"]),
    ("/problems/not-found", &["GET", "HEAD"]),
];

const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY",
];

fn check(what: &str, reply: &Reply, head: bool) {
    let status = reply.status.as_u16();
    if status < 400 {
        return;
    }
    assert_eq!(
        reply.header("content-type"),
        "application/problem+json",
        "{what}: {status} {}",
        reply.text()
    );
    if !head {
        let code = reply.json()["code"].as_str().unwrap().to_owned();
        reply.problem(status, &code);
        assert!(status < 500, "{what}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow() {
    let world = World::start().await;
    for (path, allowed) in ROUTES {
        for name in METHODS {
            if allowed.contains(&name) {
                continue;
            }
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            let reply = world.send(world.request(method, path)).await;
            assert_eq!(reply.status, 405, "{name} {path}: {}", reply.text());
            let mut allow: Vec<_> = reply.header("allow").split(',').map(str::trim).collect();
            allow.sort_unstable();
            assert_eq!(allow, *allowed, "{name} {path}");
            check(path, &reply, name == "HEAD");
        }
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn every_combination_of_type_and_body_is_a_problem() {
    let world = World::start().await;
    let types = [
        None,
        Some("application/json"),
        Some("application/merge-patch+json"),
        Some("application/json; charset=latin1"),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data"),
        Some("multipart/form-data; boundary=x"),
        Some("nonsense"),
        Some(";;;"),
    ];
    let bodies: [&[u8]; 10] = [
        b"",
        b"{}",
        b"[]",
        b"{\"status\":",
        b"{\"status\":\"\xff\xfe\"}",
        b"\x00\x01\x02",
        b"status=1",
        b"--x--",
        b"--x\r\n\r\n\r\n--x--",
        b"--x\r\ncontent-disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
    ];
    for (path, method) in [
        ("/v1/ordenes/11001", Method::PATCH),
        ("/v1/ordenes/11001/imagenes", Method::POST),
        ("/v1/ordenes/abc", Method::PATCH),
        ("/v1/ordenes/abc/imagenes", Method::POST),
    ] {
        for content_type in types {
            for body in bodies {
                let mut request = world.request(method.clone(), path).body(body);
                if let Some(content_type) = content_type {
                    request = request.header("content-type", content_type);
                }
                let reply = world.send(request).await;
                let what = format!(
                    "{method} {path} {content_type:?} {:?}",
                    String::from_utf8_lossy(body)
                );
                assert!(reply.status.is_client_error(), "{what}: {}", reply.text());
                check(&what, &reply, false);
            }
        }
    }
    assert!(world.received().is_empty(), "nothing reached the ERP");
}

#[tokio::test]
async fn what_is_nowhere_is_not_found() {
    let world = World::start().await;
    for path in [
        "/",
        "/v2/ordenes",
        "/ordenes",
        "/v1",
        "/favicon.ico",
        "/docs/../secret",
        "/v1/ordenes/11001/otra",
        "/v1/ordenes/",
        "/v1/nada",
        "/v1//ordenes",
        "/v1/ordenes/11001/",
        "/.env",
        "/metrics",
        "/livez",
        "/v1/admintotal/productos/",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let reply = world.send(world.request(method.clone(), path)).await;
            assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text());
            reply.problem(404, "not-found");
        }
    }
}

#[tokio::test]
async fn everything_below_v1_wants_a_token_first() {
    let world = World::start().await;
    for path in [
        "/v1/ordenes",
        "/v1/ordenes/11001",
        "/v1/ordenes/abc",
        "/v1/ordenes/11001/imagenes",
        "/v1/me",
        "/v1/nada",
    ] {
        for name in METHODS {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            let reply = world.send(world.bare(method, path)).await;
            assert_eq!(reply.status, 401, "{name} {path}");
            check(path, &reply, name == "HEAD");
        }
    }
}

#[tokio::test]
async fn strange_addresses_and_queries_are_problems() {
    let world = World::start().await;
    for path in [
        "/v1/ordenes?limit=%ff",
        "/v1/ordenes?%00=1",
        "/v1/ordenes?=",
        "/v1/ordenes?&&&limit=5",
        "/v1/ordenes?limit=%35",
        "/v1/ordenes?status=%C3%A1",
        "/v1/me?x=1",
        "/v1/ordenes/%ff",
        "/v1/ordenes/%00",
        "/v1/ordenes/%E2%82",
        "/problems/%ff",
        "/v1/%2e%2e/x",
    ] {
        let reply = world.get(path).await;
        check(path, &reply, false);
    }
    let reply = world
        .send(
            world
                .request(Method::PATCH, "/v1/ordenes/11001?dry=1")
                .json(&json!({"status": 1})),
        )
        .await;
    reply.problem(400, "unknown-parameter");
}

#[tokio::test]
async fn a_request_id_is_kept_where_it_is_sane() {
    let world = World::start().await;
    let long = "x".repeat(65);
    for (sent, kept) in [
        ("abc-DEF_123", true),
        ("with blank", false),
        ("", false),
        (&*long, false),
        ("a;b", false),
    ] {
        let request = world
            .bare(Method::GET, "/v1/nada")
            .header("x-request-id", sent);
        let reply = world.send(request).await;
        assert_eq!(reply.header("x-request-id") == sent, kept, "{sent}");
        reply.problem(401, "missing-token");
    }
}

/// RFC 9112 §3.2, on both ports.
#[tokio::test]
async fn a_request_has_one_valid_host() {
    let world = World::start().await;
    for port in [&world.public, &world.admin] {
        let at = port.strip_prefix("http://").unwrap();
        for (version, hosts, refused) in [
            ("1.1", "Host: x\r\n", false),
            ("1.1", "Host: [::1]:8080\r\n", false),
            ("1.0", "", false),
            ("1.1", "", true),
            ("1.1", "Host: x\r\nHost: x\r\n", true),
            ("1.1", "Host: x\r\nhost: y\r\n", true),
            ("1.0", "Host: x\r\nHost: x\r\n", true),
            ("1.1", "Host: secreto@x\r\n", true),
            ("1.1", "Host: x/secreto\r\n", true),
        ] {
            for path in ["/problems/not-found", "/livez", "/v1/me"] {
                let mut stream = TcpStream::connect(at).await.unwrap();
                let request =
                    format!("GET {path} HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                let is_refused = answer.contains(" 400 Bad Request\r\n")
                    && answer.contains("content-type: application/problem+json\r\n")
                    && answer.contains(r#""code":"malformed-request""#);
                assert_eq!(is_refused, refused, "{request}{answer}");
                assert!(!answer.contains("secreto"), "{answer}");
            }
        }
    }
}

/// RFC 9112 §6.1, on both ports.
#[tokio::test]
async fn a_body_is_chunked_and_nothing_else() {
    let world = World::start().await;
    for port in [&world.public, &world.admin] {
        let at = port.strip_prefix("http://").unwrap();
        for (fields, refused) in [
            ("Transfer-Encoding: chunked\r\n", false),
            ("Transfer-Encoding:\t Chunked \r\n", false),
            ("Transfer-Encoding: gzip, chunked\r\n", true),
            ("Transfer-Encoding: chunked, chunked\r\n", true),
            ("Transfer-Encoding: secreto,chunked\r\n", true),
            ("Transfer-Encoding: , chunked\r\n", true),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                true,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                true,
            ),
        ] {
            for path in ["/problems/not-found", "/livez", "/v1/me"] {
                let mut stream = TcpStream::connect(at).await.unwrap();
                // It asks for its connection to be kept; what is behind its body is answered where it is.
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n0\r\n\r\n\
                     GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                let is_refused = answer.starts_with("HTTP/1.1 400 Bad Request\r\n")
                    && answer.contains("connection: close\r\n")
                    && answer.contains("content-type: application/problem+json\r\n")
                    && answer.contains(r#""code":"malformed-request""#)
                    && answer.matches("HTTP/1.1 ").count() == 1;
                assert_eq!(is_refused, refused, "{request}{answer}");
                assert!(!answer.contains("secreto"), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn every_code_is_explained() {
    let world = World::start().await;
    let unknown = world
        .send(world.bare(Method::GET, "/problems/no-such-code"))
        .await;
    unknown.problem(404, "not-found");
    for code in [
        "missing-token",
        "invalid-token",
        "insufficient-scope",
        "tenant-not-allowed",
        "tenant-required",
        "tls-required",
        "unknown-parameter",
        "invalid-parameter",
        "malformed-request",
        "malformed-body",
        "request-timeout",
        "validation-failed",
        "upstream-validation",
        "not-found",
        "method-not-allowed",
        "precondition-failed",
        "payload-too-large",
        "unsupported-media-type",
        "invalid-image",
        "idempotency-conflict",
        "idempotency-mismatch",
        "rate-limited",
        "overloaded",
        "upstream-rate-limited",
        "upstream-unavailable",
        "upstream-credential-rejected",
        "upstream-error",
        "upstream-mismatch",
        "upstream-timeout",
        "internal",
    ] {
        let reply = world
            .send(world.bare(Method::GET, &format!("/problems/{code}")))
            .await;
        assert_eq!(reply.status, 200, "{code}");
        assert!(reply.text().contains(code));
    }
}
