//! `POST /v1/ordenes/{id}/imagenes`.

use llavero_simulator::Faults;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{World, leaks, photo, with_clave};

const PATH: &str = "/v1/ordenes/11001/imagenes";

fn file(name: &str) -> Part {
    Part::bytes(photo(name))
        .file_name(name.to_owned())
        .mime_str("application/octet-stream")
        .unwrap()
}

#[tokio::test]
async fn the_erp_gets_the_photos_very_bytes() {
    let world = World::start().await;
    for (name, proceso, titulo) in [
        ("sony-rx1r.jpg", "antes", "Antes del servicio - "),
        ("astronaut.png", "2", "Durante el servicio - "),
        ("coffee.webp", "despues", "Después del servicio - "),
        ("phone-12mp-gps-rotated.jpg", "1", "Antes del servicio - "),
    ] {
        world.erp.clear_requests();
        let reply = world
            .upload(
                PATH,
                Form::new()
                    .text("proceso", proceso)
                    .part("imagen", file(name)),
            )
            .await;
        let archivo = reply.ok(201);
        assert_eq!(reply.header("location"), "/v1/ordenes/11001");
        assert!(
            archivo["titulo"].as_str().unwrap().starts_with(titulo),
            "{archivo}"
        );
        let [received] = &world.received()[..] else {
            panic!("one request")
        };
        assert_eq!(
            received.content_length,
            Some(received.body_bytes as u64),
            "an exact Content-Length"
        );
        let kept = world
            .erp
            .imagen(&with_clave("carper"), received.archivo_id.unwrap())
            .unwrap();
        assert!(kept == photo(name), "{name} arrived changed");
    }
}

#[tokio::test]
async fn parts_come_in_any_order_and_the_title_is_kept() {
    let world = World::configured("images: {dedupe_window: 0}\n").await;
    let titulo = "Fachada \"norte\" \\ ñandú ✓ \u{1F4F7}\n";
    let forms = [
        Form::new()
            .part("imagen", file("sony-rx1r.jpg"))
            .text("titulo", titulo)
            .text("proceso", "antes"),
        Form::new()
            .text("titulo", titulo)
            .part("imagen", file("sony-rx1r.jpg"))
            .text("proceso", "1"),
        Form::new()
            .text("proceso", " antes ")
            .text("titulo", titulo)
            .part("imagen", file("sony-rx1r.jpg")),
    ];
    for form in forms {
        let archivo = world.upload(PATH, form).await.ok(201);
        assert_eq!(archivo["titulo"], titulo.trim());
    }
}

#[tokio::test]
async fn a_photo_shows_in_the_order_at_once() {
    let world = World::start().await;
    let before = world.get("/v1/ordenes/11001").await.ok(200)["archivos"]
        .as_array()
        .unwrap()
        .len();
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", file("sony-rx1r.jpg"));
    let archivo = world.upload(PATH, form).await.ok(201);
    let after = world.get("/v1/ordenes/11001").await.ok(200);
    let archivos = after["archivos"].as_array().unwrap();
    assert_eq!(archivos.len(), before + 1);
    assert_eq!(archivos[before]["id"], archivo["id"]);
}

#[tokio::test]
async fn an_image_is_known_by_its_bytes() {
    let world = World::start().await;
    for (name, status, code) in [
        ("not-an-image.jpg", 422, "invalid-image"),
        ("truncated.jpg", 422, "invalid-image"),
        ("bomb-60000x60000.png", 422, "invalid-image"),
        ("animated-no.gif", 415, "unsupported-media-type"),
        ("iphone.heic", 415, "unsupported-media-type"),
    ] {
        // A friendly name and type change nothing.
        let part = Part::bytes(photo(name))
            .file_name("foto.jpg")
            .mime_str("image/jpeg")
            .unwrap();
        let reply = world
            .upload(
                PATH,
                Form::new().text("proceso", "antes").part("imagen", part),
            )
            .await;
        reply.problem(status, code);
        assert_eq!(reply.named(), ["/imagen"], "{name}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        if status == 415 {
            assert!(detail.contains("jpeg, png, webp"), "{detail}");
            let found = name.rsplit('.').next().unwrap();
            assert!(detail.contains(&format!(": {found}.")), "{detail}");
            let is_heic = found == "heic";
            assert_eq!(detail.contains("Most Compatible"), is_heic, "{detail}");
            let told = format!("isn't taken: {found}");
            leaks::line_with(&told, |line| line["code"] == code).await;
        }
    }
    let empty = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(Vec::new()));
    world
        .upload(PATH, empty)
        .await
        .problem(422, "invalid-image");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn each_missing_or_wrong_part_is_named() {
    let world = World::start().await;
    let image = || file("sony-rx1r.jpg");
    for (form, named) in [
        (Form::new().text("proceso", "antes"), vec!["/imagen"]),
        (Form::new().part("imagen", image()), vec!["/proceso"]),
        (Form::new().text("titulo", "x"), vec!["/imagen", "/proceso"]),
        (
            Form::new().text("proceso", "luego").part("imagen", image()),
            vec!["/proceso"],
        ),
        (
            Form::new().text("proceso", "4").part("imagen", image()),
            vec!["/proceso"],
        ),
        (
            Form::new()
                .text("proceso", "antes")
                .text("proceso", "antes")
                .part("imagen", image()),
            vec!["/proceso"],
        ),
        (
            Form::new()
                .text("proceso", "antes")
                .part("imagen", image())
                .part("imagen", image()),
            vec!["/imagen"],
        ),
        (
            Form::new()
                .text("proceso", "antes")
                .text("titulo", "a".repeat(300))
                .part("imagen", image()),
            vec!["/titulo"],
        ),
        (
            Form::new()
                .text("otra", "x")
                .text("proceso", "antes")
                .part("imagen", image()),
            vec!["/otra"],
        ),
    ] {
        let reply = world.upload(PATH, form).await;
        reply.problem(422, "validation-failed");
        for name in named {
            assert!(
                reply.named().iter().any(|it| it == name),
                "{name}: {}",
                reply.text()
            );
        }
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn the_limit_is_named_whether_or_not_the_length_is() {
    let world = World::configured("images: {max_bytes: 64KiB}\n").await;
    let large = || Part::bytes(vec![0xff; 200 * 1024]).file_name("x.jpg");
    let reply = world
        .upload(
            PATH,
            Form::new().text("proceso", "antes").part("imagen", large()),
        )
        .await;
    reply.problem(413, "payload-too-large");
    assert!(
        reply.text().contains("65536") || reply.text().contains("131072"),
        "{}",
        reply.text()
    );

    let stream =
        futures_util::stream::iter((0..200).map(|_| Ok::<_, std::io::Error>(vec![0xffu8; 1024])));
    let part = Part::stream(reqwest::Body::wrap_stream(stream)).file_name("x.jpg");
    let reply = world
        .upload(
            PATH,
            Form::new().text("proceso", "antes").part("imagen", part),
        )
        .await;
    reply.problem(413, "payload-too-large");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_promised_size_over_the_limit_is_refused_before_the_body() {
    let world = World::start().await;
    let token = world.token(&json!({}));
    let mut socket = TcpStream::connect(world.public.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 999999999\r\n\
         content-type: multipart/form-data; boundary=b\r\nexpect: 100-continue\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_body_that_is_no_form_is_refused() {
    let world = World::start().await;
    let post = |content_type: &str, body: &str| {
        world
            .request(Method::POST, PATH)
            .header("content-type", content_type)
            .body(body.to_owned())
    };
    for (content_type, body, status, code) in [
        ("application/json", "{}", 415, "unsupported-media-type"),
        ("image/jpeg", "x", 415, "unsupported-media-type"),
        (
            "multipart/mixed; boundary=b",
            "--b--",
            415,
            "unsupported-media-type",
        ),
        ("multipart/form-data", "--b--", 400, "malformed-body"),
        (
            "multipart/form-data; boundary=",
            "--b--",
            400,
            "malformed-body",
        ),
        (
            "multipart/form-data; boundary=b",
            "nothing of the kind",
            400,
            "malformed-body",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\ncontent-disposition: form-data; name=\"imagen\"\r\n\r\nhalf",
            400,
            "malformed-body",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\ncontent-disposition: form-data; name=\"proceso\"\r\n\r\n\u{fffd}\r\n--b--\r\n",
            422,
            "validation-failed",
        ),
    ] {
        let reply = world.send(post(content_type, body)).await;
        assert_eq!(
            reply.status,
            status,
            "{content_type} {body:?}: {}",
            reply.text()
        );
        reply.problem(status, code);
    }
    let untyped = world.request(Method::POST, PATH).body("x");
    world
        .send(untyped)
        .await
        .problem(415, "unsupported-media-type");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn the_erps_troubles_have_our_words() {
    let world = World::start().await;
    let _time = world.time_flies();
    for (upstream, status, code) in [
        (400, 422, "upstream-validation"),
        (401, 502, "upstream-credential-rejected"),
        (404, 404, "not-found"),
        (413, 413, "payload-too-large"),
        (500, 502, "upstream-error"),
        // Last, since it pauses everybody.
        (429, 503, "upstream-rate-limited"),
    ] {
        world.faults("carper", Faults::answering(upstream));
        let form = Form::new()
            .text("proceso", "antes")
            .part("imagen", file("sony-rx1r.jpg"));
        let reply = world.upload(PATH, form).await;
        reply.problem(status, code);
        // What a read can do about it is no help.
        for remedy in ["cursor", "Cache-Control"] {
            assert!(!reply.text().contains(remedy), "{}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_data_uri_is_sent_where_configured() {
    let world = World::configured("upstream:\n  image_encoding: data-uri\n").await;
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", file("astronaut.png"));
    let reply = world.upload(PATH, form).await;
    reply.ok(201);
    let received = &world.received()[0];
    let plain = photo("astronaut.png").len().div_ceil(3) * 4;
    assert!(received.body_bytes > plain + "data:image/png;base64,".len());
    let kept = world
        .erp
        .imagen(&with_clave("carper"), received.archivo_id.unwrap())
        .unwrap();
    assert!(kept == photo("astronaut.png"));
}

#[tokio::test]
async fn one_unknown_or_repeated_part_is_told_and_nothing_that_is_not_true() {
    let world = World::start().await;
    for name in ["x", "titulo"] {
        let mut form = Form::new().text(name, "1");
        if name == "titulo" {
            for _ in 0..1000 {
                form = form.text("titulo", "2");
            }
        }
        let form = form
            .text("proceso", "antes")
            .part("imagen", file("sony-rx1r.jpg"));
        let problem = world
            .upload(PATH, form)
            .await
            .problem(422, "validation-failed");
        let errors = problem["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{problem}");
        assert_eq!(errors[0]["pointer"], format!("/{name}"));
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let world = World::start().await;
    let truncated = || Part::bytes(photo("truncated.jpg")).file_name("foto.jpg");
    let long = "a".repeat(201);
    let form = Form::new()
        .text("proceso", "xx")
        .text("titulo", long.clone())
        .part("imagen", truncated());
    let reply = world.upload(PATH, form).await;
    let problem = reply.problem(422, "invalid-image");
    assert_eq!(reply.named(), ["/imagen", "/proceso", "/titulo"]);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("isn't the only field"), "{detail}");

    let form = Form::new()
        .text("foto", "x")
        .text("proceso", "xx")
        .text("proceso", "antes")
        .part("imagen", Part::bytes(photo("iphone.heic")));
    let reply = world.upload(PATH, form).await;
    reply.problem(415, "unsupported-media-type");
    assert_eq!(reply.named(), ["/imagen", "/foto", "/proceso"]);

    let form = Form::new()
        .text("proceso", "xx")
        .text("titulo", long)
        .part("imagen", file("sony-rx1r.jpg"));
    let reply = world.upload(PATH, form).await;
    let problem = reply.problem(422, "validation-failed");
    assert_eq!(reply.named(), ["/proceso", "/titulo"]);
    let told = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(told.contains("antes, durante, despues"), "{told}");

    let mut form = Form::new();
    for number in 0..2000 {
        form = form.text(format!("otra-{number}"), "x");
    }
    let reply = world.upload(PATH, form).await;
    reply.problem(422, "validation-failed");
    let named: Vec<_> = (0..25).map(|number| format!("/otra-{number}")).collect();
    assert_eq!(reply.named(), named);
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_body_that_is_too_large_isnt_told_as_a_photo_that_is() {
    let world = World::configured("images: {max_bytes: 1MiB}\n").await;
    let body = |behind: usize| {
        let image = photo("sony-rx1r.jpg");
        let head = "--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
                    Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n";
        [
            head.as_bytes(),
            &image,
            b"\r\n--b--\r\n",
            &vec![b' '; behind],
        ]
        .concat()
    };
    let post = |behind| {
        let request = world.request(Method::POST, PATH).body(body(behind));
        request.header("content-type", "multipart/form-data; boundary=b")
    };
    world.send(post(1000)).await.ok(201);
    let reply = world.send(post(2 << 20)).await;
    let problem = reply.problem(413, "payload-too-large");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("The body is too large"), "{detail}");
    assert!(
        detail.contains("1048576") && detail.contains("65536"),
        "{detail}"
    );
    assert_eq!(reply.named(), ["/imagen"], "whose limit it is");
}

#[tokio::test]
async fn a_form_whose_lines_end_in_two_ways_is_told_so() {
    let world = World::start().await;
    for (first, then) in [("\r\n", "\n"), ("\n", "\r\n")] {
        let part = |name: &str, end: &str| {
            format!("--b{end}Content-Disposition: form-data; name=\"{name}\"{end}{end}")
        };
        let body = [
            part("proceso", first).as_bytes(),
            b"antes",
            then.as_bytes(),
            part("imagen", then).as_bytes(),
            &photo("sony-rx1r.jpg"),
            format!("{then}--b--{then}").as_bytes(),
        ]
        .concat();
        let request = world.request(Method::POST, PATH).body(body);
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        let reply = world.send(request).await;
        let problem = reply.problem(400, "malformed-body");
        assert_eq!(reply.named(), ["/proceso"]);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("CRLF and LF"), "{detail}");
    }
    // A long text is just that.
    let form = Form::new()
        .text("proceso", "-- b\r\n".repeat(1000))
        .part("imagen", file("sony-rx1r.jpg"));
    world
        .upload(PATH, form)
        .await
        .problem(413, "payload-too-large");
}

#[tokio::test]
async fn what_has_no_part_where_one_should_be_ends_soon() {
    let world = World::start().await;
    let endless_head = format!("--b\r\nX: {}", "a".repeat(2 << 20));
    let endless_preamble = "a".repeat(2 << 20);
    for body in [endless_head, endless_preamble] {
        let request = world
            .request(reqwest::Method::POST, PATH)
            .header("content-type", "multipart/form-data; boundary=b")
            .body(body);
        world.send(request).await.problem(400, "malformed-body");
    }
}
