//! TLS on the public listener: what is spoken, what is shown, and what becomes of a changed pair.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{Method, Version};
use rustls::{
    HandshakeKind, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{
    TLS, World,
    certificates::{self, AUTHORITY, Authority, Pair},
    leaks, photo,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn connect(world: &World, alpn: &[&str]) -> TlsStream<TcpStream> {
    certificates::connect(world.address(), certificates::client(alpn))
        .await
        .unwrap()
}

/// The certificate that a connection which begins now is shown.
async fn shown(world: &World) -> CertificateDer<'static> {
    let stream = connect(world, &[]).await;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    shown.into_owned()
}

/// One request of HTTP/1.1 and the status of its answer; the connection stays.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"HEAD /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head[..12].to_vec()).unwrap()
}

/// Waits until the metric of reloads with that result has grown by what `change` does. The clock
/// goes on by seconds.
async fn looked_at(world: &World, result: &str, change: impl FnOnce()) {
    let line = format!("llavero_tls_reloads_total{{result=\"{result}\"}}");
    let count = async || {
        let metrics = world.metrics().await;
        let found = metrics.lines().find(|it| it.starts_with(&line));
        found.unwrap_or_else(|| panic!("{metrics}")).to_owned()
    };
    let before = count().await;
    change();
    let begun = std::time::Instant::now();
    while count().await == before {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "no look: {before}"
        );
        world.clock.advance(Duration::from_millis(50));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn alpn_says_what_is_spoken() {
    let world = World::configured(TLS).await;
    let reply = world.request(Method::GET, "/v1/me").send().await.unwrap();
    assert_eq!(
        (reply.status().as_u16(), reply.version()),
        (200, Version::HTTP_2)
    );
    for (offered, spoken) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut stream = connect(&world, offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
        if spoken == Some(b"h2") {
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get("https://x/openapi.json")
                .body(())
                .unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        } else {
            assert_eq!(ask(&mut stream).await, "HTTP/1.1 200");
        }
    }
    // Nothing in common is told as such (RFC 7301 §3.2).
    let refused = certificates::connect(world.address(), certificates::client(&["http/0.9"])).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("NoApplicationProtocol"), "{told}");
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let world = World::configured(TLS).await;
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut roots = rustls::RootCertStore::empty();
        let authority = root();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut stream = certificates::connect(world.address(), config)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        assert_eq!(ask(&mut stream).await, "HTTP/1.1 200");
    }
    // A ClientHello of TLS 1.1 with one of its cipher suites (RFC 4346 §7.4.1.2).
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let mut record = vec![
        22,
        3,
        1,
        0,
        hello.len() as u8 + 4,
        1,
        0,
        0,
        hello.len() as u8,
    ];
    record.extend(hello);
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).await.unwrap();
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    // Its version, or that it has nothing in common with us.
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    assert_eq!((alert[0], alert[5]), (ALERT, FATAL));
    assert!(
        [HANDSHAKE_FAILURE, PROTOCOL_VERSION].contains(&alert[6]),
        "{alert:?}"
    );
    world
        .wait_for_metric("llavero_tls_handshakes_total{result=\"ok\"} 2")
        .await;
    world
        .wait_for_metric("llavero_tls_handshakes_total{result=\"failed\"} 1")
        .await;
}

fn root() -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(AUTHORITY.pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn whatever_name_is_asked_for_the_pair_is_shown() {
    let world = World::configured(TLS).await;
    let connector = TlsConnector::from(Arc::new(certificates::client(&[])));
    let socket = TcpStream::connect(world.address()).await.unwrap();
    let name = ServerName::try_from("other.example").unwrap();
    // The client sees that it is another's, and says so.
    let told = connector
        .connect(name, socket)
        .await
        .unwrap_err()
        .to_string();
    assert!(told.contains("not valid for name"), "{told}");
    // By address, so without a name.
    let socket = TcpStream::connect(world.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    assert_eq!(ask(&mut stream).await, "HTTP/1.1 200");
}

#[tokio::test]
async fn http_without_tls_is_told_to_use_it() {
    let world = World::configured(TLS).await;
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    stream
        .write_all(b"GET /v1/me HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(
        head.contains("content-type: application/problem+json"),
        "{answer}"
    );
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("https"),
        "{answer}"
    );
    for (member, expected) in [
        ("type", json!("/problems/tls-required")),
        ("title", json!("This port speaks TLS")),
        ("status", json!(400)),
        ("code", json!("tls-required")),
    ] {
        assert_eq!(problem[member], expected, "{answer}");
    }
    let id = problem["instance"].as_str().unwrap();
    let id = id.strip_prefix("urn:uuid:").unwrap();
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{answer}");
    assert!(
        head.contains(&format!("\r\nx-request-id: {id}")),
        "{answer}"
    );
    world
        .wait_for_metric("llavero_tls_handshakes_total{result=\"plain_http\"} 1")
        .await;
}

#[tokio::test]
async fn a_new_pair_is_shown_from_then_on_and_open_connections_stay() {
    let world = World::configured(TLS).await;
    let client = Arc::new(certificates::client(&[]));
    let mut before = certificates::connect(world.address(), client.clone())
        .await
        .unwrap();
    assert_eq!(ask(&mut before).await, "HTTP/1.1 200");
    let first = shown(&world).await;
    // Another connection of the same client goes on with its session.
    let mut again = certificates::connect(world.address(), client.clone())
        .await
        .unwrap();
    assert_eq!(ask(&mut again).await, "HTTP/1.1 200");
    assert_eq!(
        again.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );

    let now = world.clock.wall();
    let renewed = AUTHORITY.issue_for(&["localhost"], now - DAY, now + 90 * DAY);
    looked_at(&world, "changed", || renewed.write(world.files())).await;
    assert!(shown(&world).await == renewed.der() && renewed.der() != first);
    assert_eq!(ask(&mut before).await, "HTTP/1.1 200");
    // What began under the old key isn't gone on with.
    let after = certificates::connect(world.address(), client)
        .await
        .unwrap();
    assert_eq!(
        after.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Full)
    );
    let ends = (now + 90 * DAY)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    world
        .wait_for_metric(&format!(
            "llavero_tls_certificate_expiry_timestamp_seconds {}",
            ends.as_secs()
        ))
        .await;
}

#[tokio::test]
async fn a_wrong_pair_leaves_the_last_good_one_and_is_told() {
    let world = World::configured(TLS).await;
    let first = shown(&world).await;
    let now = world.clock.wall();
    let other = AUTHORITY.issue();
    let old = AUTHORITY.issue_for(&["localhost"], now - 9 * DAY, now - DAY);
    let strangers = Pair {
        certificate: other.certificate.clone(),
        key: old.key.clone(),
    };
    for (wrong, expected) in [
        (&strangers, "isn't that of the first certificate"),
        (&old, "its certificate ended"),
    ] {
        looked_at(&world, "failed", || wrong.write(world.files())).await;
        assert!(shown(&world).await == first);
        let verbose = world.client.get(format!("{}/readyz?verbose", world.admin));
        let verbose = world.send(verbose).await;
        assert_eq!(verbose.status, 200);
        let text = verbose.text();
        assert!(
            text.contains(expected) && text.contains("still shown"),
            "{text}"
        );
        assert!(!leaks::lines_with(expected).is_empty());
    }
    looked_at(&world, "changed", || other.write(world.files())).await;
    assert!(shown(&world).await == other.der());
    let verbose = world.client.get(format!("{}/readyz?verbose", world.admin));
    let text = world.send(verbose).await.text();
    assert!(
        text.contains("certificate: ends ") && !text.contains("still shown"),
        "{text}"
    );
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_at_once() {
    let world = World::configured(TLS).await;
    let files = world.files();
    let mount = |name: &str, pair: &Pair| {
        fs::create_dir(files.join(name)).unwrap();
        pair.write(&files.join(name));
        symlink(name, files.join("..data_tmp")).unwrap();
        fs::rename(files.join("..data_tmp"), files.join("..data")).unwrap();
    };
    let (first, second) = (AUTHORITY.issue(), AUTHORITY.issue());
    looked_at(&world, "changed", || {
        mount("..first", &first);
        for file in ["tls.crt", "tls.key"] {
            fs::remove_file(files.join(file)).unwrap();
            symlink(format!("..data/{file}"), files.join(file)).unwrap();
        }
    })
    .await;
    assert!(shown(&world).await == first.der());
    looked_at(&world, "changed", || mount("..second", &second)).await;
    assert!(shown(&world).await == second.der());
}

const CHANGED: &str = "llavero_tls_reloads_total{result=\"changed\"}";

/// A tenant's key lies in the same directory, which its file knows by another name.
#[tokio::test]
async fn a_renewed_pair_is_noticed_by_whatever_names_its_directory_goes() {
    let world = World::configured(TLS).await;
    let renewed = AUTHORITY.issue();
    world
        .noticed(CHANGED, || renewed.write(world.files()))
        .await;
    assert!(shown(&world).await == renewed.der());
}

#[tokio::test]
async fn a_directory_behind_a_link_is_swapped_at_once() {
    let world = World::configured(TLS).await;
    let files = world.files();
    let swap_to = |name: &str, pair: &Pair| {
        fs::create_dir(files.join(name)).unwrap();
        pair.write(&files.join(name));
        symlink(name, files.join("live.new")).unwrap();
        fs::rename(files.join("live.new"), files.join("live")).unwrap();
    };
    let (first, second) = (AUTHORITY.issue(), AUTHORITY.issue());
    world
        .noticed(CHANGED, || {
            swap_to("a", &first);
            for file in ["tls.crt", "tls.key"] {
                fs::remove_file(files.join(file)).unwrap();
                symlink(format!("live/{file}"), files.join(file)).unwrap();
            }
        })
        .await;
    assert!(shown(&world).await == first.der());
    world.noticed(CHANGED, || swap_to("b", &second)).await;
    assert!(shown(&world).await == second.der());
}

#[tokio::test]
async fn a_pair_that_comes_file_by_file_is_not_told_as_wrong() {
    let world = World::configured(TLS).await;
    let (first, renewed) = (shown(&world).await, AUTHORITY.issue());
    let looks = "llavero_tenant_reloads_total{result=\"unchanged\"}";
    world
        .noticed(looks, || {
            world.replace_file("tls.crt", &renewed.certificate);
        })
        .await;
    assert!(shown(&world).await == first);
    world
        .noticed(CHANGED, || world.replace_file("tls.key", &renewed.key))
        .await;
    assert!(shown(&world).await == renewed.der());
    let metrics = world.metrics().await;
    let failed = "llavero_tls_reloads_total{result=\"failed\"} 0";
    assert!(metrics.lines().any(|line| line == failed), "{metrics}");
    let verbose = world.client.get(format!("{}/readyz?verbose", world.admin));
    let text = world.send(verbose).await.text();
    assert!(!text.contains("still shown"), "{text}");
    // What stays so is told, and soon.
    let other = AUTHORITY.issue();
    let failed = "llavero_tls_reloads_total{result=\"failed\"}";
    world
        .noticed(failed, || world.replace_file("tls.key", &other.key))
        .await;
}

#[tokio::test]
async fn a_chain_is_shown_whole_and_a_strangers_is_refused_by_clients() {
    let world = World::configured(TLS).await;
    let mut chain = AUTHORITY.issue();
    chain.certificate.push_str(&AUTHORITY.pem);
    looked_at(&world, "changed", || chain.write(world.files())).await;
    let stream = connect(&world, &[]).await;
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap().len(), 2);
    let stranger = Authority::new().issue();
    looked_at(&world, "changed", || stranger.write(world.files())).await;
    let refused = certificates::connect(world.address(), certificates::client(&[])).await;
    assert!(refused.is_err());
    world
        .wait_for_metric("llavero_tls_handshakes_total{result=\"failed\"} 1")
        .await;
}

#[tokio::test]
async fn a_photo_arrives_whole_by_either_version() {
    let world = World::configured(TLS).await;
    let authority = reqwest::Certificate::from_pem(AUTHORITY.pem.as_bytes()).unwrap();
    for (at, old) in [false, true].into_iter().enumerate() {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([authority.clone()]);
        let client = if old { client.http1_only() } else { client };
        let client = client.build().unwrap();
        let image = photo("no-exif.jpg");
        let form = reqwest::multipart::Form::new()
            .text("proceso", "antes")
            .part(
                "imagen",
                reqwest::multipart::Part::bytes(image.clone()).file_name("f"),
            );
        let path = format!("{}/v1/ordenes/{}/imagenes", world.public, 11001 + at);
        let request = client.post(path).bearer_auth(world.token(&json!({})));
        let reply = world.send(request.multipart(form)).await;
        reply.ok(201);
    }
}

/// The connection is cut, and the drain doesn't wait for it.
#[tokio::test]
async fn a_drain_does_not_wait_for_who_begins_no_handshake() {
    let settings = TLS.replace(
        "drain_delay: 0s\n",
        "drain_delay: 0s\n  shutdown_grace: 1h\n",
    );
    let mut world = World::configured(&settings).await;
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut half = connect(&world, &[]).await;
    world.shutdown.cancel();
    (&mut world.served).await.unwrap().unwrap();
    let read = silent.read(&mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let read = half.read(&mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// What is said of two files.
fn judged(certificate: &str, key: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    pair.write(dir.path());
    let files = llavero::config::server::Tls {
        cert_file: dir.path().join("tls.crt"),
        key_file: dir.path().join("tls.key"),
    };
    llavero::tls::check(&files, SystemTime::now()).map_err(|error| {
        let told = error.to_string();
        let (file, told) = told.split_once(": ").unwrap();
        let is_key = file.ends_with("tls.key");
        assert_eq!(is_key, error.setting == "server.tls.key_file", "{told}");
        format!("{}: {told}", if is_key { "key" } else { "certificate" })
    })
}

#[test]
fn each_mistake_of_a_pair_is_told_with_its_file() {
    let now = SystemTime::now();
    let good = AUTHORITY.issue();
    let Pair { certificate, key } = &good;
    let both = format!("{certificate}{}", AUTHORITY.pem);
    assert_eq!(judged(&both, key), Ok(()));
    let turned = format!("{}{certificate}", AUTHORITY.pem);
    let other = AUTHORITY.issue();
    let doubled = format!("{certificate}{}", other.certificate);
    let cut = &certificate[..certificate.len() - 60];
    let garbage = "-----BEGIN CERTIFICATE-----\naGFsbG8=\n-----END CERTIFICATE-----\n";
    let half = format!("{certificate}{garbage}");
    let issued =
        |names: &[&str], begins, ends| AUTHORITY.issue_for(names, begins, ends).certificate;
    let ended = issued(&["localhost"], now - 9 * DAY, now - DAY);
    let begins = issued(&["localhost"], now + DAY, now + 9 * DAY);
    let nameless = issued(&[], now - DAY, now + DAY);
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let old_encrypted = key.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n");
    let short = fs::read_to_string(crate::harness::fixture("keys/rs256.public.pem")).unwrap();
    let broken = key.replacen('M', "*", 1);
    let huge = format!("{certificate}{}", " ".repeat(1 << 20));
    for (certificate, key, expected) in [
        ("", &**key, "certificate: holds no certificate"),
        (key, key, "certificate: holds no certificate"),
        (cut, key, "certificate: isn't good PEM"),
        (
            garbage,
            key,
            "certificate: its certificate 1 can't be understood",
        ),
        (
            &half,
            key,
            "certificate: its certificate 2 can't be understood",
        ),
        (
            &turned,
            key,
            "certificate: its certificate 2 didn't issue its certificate 1",
        ),
        (
            &doubled,
            key,
            "certificate: its certificate 2 didn't issue its certificate 1",
        ),
        (&ended, key, "certificate: its certificate ended "),
        (&begins, key, "certificate: its certificate begins "),
        (
            &nameless,
            key,
            "certificate: its certificate has no subjectAltName",
        ),
        (&huge, key, "certificate: is larger than 1 MiB"),
        (certificate, "", "key: holds no private key"),
        (certificate, certificate, "key: holds no private key"),
        (certificate, &short, "key: holds no private key"),
        (certificate, &encrypted, "key: its private key is encrypted"),
        (
            certificate,
            &old_encrypted,
            "key: its private key is encrypted",
        ),
        (certificate, &broken, "key: isn't good PEM"),
        (
            certificate,
            &other.key,
            "key: its private key isn't that of the first certificate",
        ),
    ] {
        let told = judged(certificate, key).unwrap_err();
        assert!(told.starts_with(expected), "{expected}: {told}");
        assert!(told.contains("; "), "says what to do: {told}");
    }
    let missing = llavero::config::server::Tls {
        cert_file: "no/such.crt".into(),
        key_file: "no/such.key".into(),
    };
    let told = llavero::tls::check(&missing, now).unwrap_err().to_string();
    assert!(told.starts_with("no/such.crt: can't be read: "), "{told}");
}

/// PKCS#8 holds the older form of its key within.
fn older_form(key: &rcgen::KeyPair, header: usize, begins: &[u8], name: &str) -> String {
    let der = key.serialized_der();
    let at = memchr::memmem::find(der, begins).unwrap() - header;
    let text = base64_simd::STANDARD.encode_to_string(&der[at..]);
    format!("-----BEGIN {name}-----\n{text}\n-----END {name}-----\n")
}

#[test]
fn keys_are_taken_in_their_older_forms_too() {
    let ecdsa = rcgen::KeyPair::generate().unwrap();
    let sec1 = older_form(&ecdsa, 2, &[2, 1, 1, 4, 32], "EC PRIVATE KEY");
    let rsa = fs::read_to_string(crate::harness::fixture("keys/rs256.private.pem")).unwrap();
    let rsa = rcgen::KeyPair::from_pem(&rsa).unwrap();
    let pkcs1 = older_form(&rsa, 4, &[2, 1, 0, 2, 0x82, 1, 1], "RSA PRIVATE KEY");
    for (key, older) in [(&ecdsa, sec1), (&rsa, pkcs1)] {
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(key).unwrap().pem();
        assert_eq!(judged(&certificate, &key.serialize_pem()), Ok(()));
        assert_eq!(judged(&certificate, &older), Ok(()));
    }
}
