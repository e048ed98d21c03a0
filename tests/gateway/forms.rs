//! Multipart forms (RFC 7578): as real clients write them, with everything odd that is legal, and with what isn't.

use std::{collections::BTreeSet, fs};

use bytes::Bytes;
use fastrand::Rng;
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Reply, World, fixture, leaks, with_clave};

const FIRST_ORDEN: u64 = 11001;
const ORDENES: u64 = 127;

/// A form as it goes over the wire, its `Content-Type` line included.
#[derive(Clone)]
struct Form {
    /// Without its line end.
    content_type: Vec<u8>,
    body: Vec<u8>,
}

impl Form {
    fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: format!("Content-Type: {content_type}").into_bytes(),
            body: body.into(),
        }
    }

    /// With this boundary, which is quoted.
    fn bounded(boundary: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(
            &format!("multipart/form-data; boundary=\"{boundary}\""),
            body,
        )
    }
}

/// What the ERP must have of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    imagen: Vec<u8>,
    proceso: u64,
    /// None where the gateway makes one.
    titulo: Option<String>,
}

/// How a body is sent.
#[derive(Clone, Copy)]
enum How<'a> {
    /// In one write.
    Whole,
    /// In writes of these sizes, over and over, with time in between to look at each.
    Writes(&'a [usize]),
    /// With `Transfer-Encoding: chunked`, in chunks of these sizes, over and over: each reaches the reader as a frame of
    /// its own, whatever the network does.
    Chunks(&'a [usize]),
}

/// The body in pieces of these sizes, over and over.
fn pieces<'a>(mut body: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    let mut pieces = Vec::new();
    while !body.is_empty() {
        let size = sizes.next().copied().unwrap_or(body.len());
        let (piece, rest) = body.split_at(size.min(body.len()));
        pieces.push(piece);
        body = rest;
    }
    pieces
}

/// Who sends forms, over one connection as long as it goes well.
struct Sender {
    world: World,
    token: String,
    connection: Option<TcpStream>,
    sent: u64,
}

impl Sender {
    async fn start() -> Self {
        let world = World::start().await;
        Self {
            token: world.token(&json!({})),
            world,
            connection: None,
            sent: 0,
        }
    }

    /// Sends it to the next order: what is equal to an earlier photo of the same order may be taken for it.
    async fn send(&mut self, form: &Form, how: How<'_>) -> Reply {
        let path = self.next_path();
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: llavero\r\nAuthorization: Bearer {}\r\n",
            self.token
        )
        .into_bytes();
        head.extend_from_slice(&form.content_type);
        let length = format!("\r\nContent-Length: {}\r\n\r\n", form.body.len());
        let mut writes = Vec::new();
        match how {
            How::Whole => {
                head.extend_from_slice(length.as_bytes());
                head.extend_from_slice(&form.body);
            }
            How::Writes(sizes) => {
                head.extend_from_slice(length.as_bytes());
                writes = pieces(&form.body, sizes);
            }
            How::Chunks(sizes) => {
                head.extend_from_slice(b"\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in pieces(&form.body, sizes) {
                    head.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    head.extend_from_slice(piece);
                    head.extend_from_slice(b"\r\n");
                }
                head.extend_from_slice(b"0\r\n\r\n");
            }
        }
        writes.insert(0, &head);
        self.exchange(&writes, false).await
    }

    fn next_path(&mut self) -> String {
        let orden = FIRST_ORDEN + self.sent % ORDENES;
        self.sent += 1;
        format!("/v1/ordenes/{orden}/imagenes")
    }

    /// Writes and reads the answer, which may come before all is written. `ends` says that nothing more will come.
    async fn exchange(&mut self, writes: &[&[u8]], ends: bool) -> Reply {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = self.world.public.trim_start_matches("http://");
                let connection = TcpStream::connect(address).await.unwrap();
                connection.set_nodelay(true).unwrap();
                connection
            }
        };
        let (mut read, mut write) = connection.split();
        let mut left = writes.len();
        let writing = async {
            for piece in writes {
                if write.write_all(piece).await.is_err() {
                    break;
                }
                left -= 1;
                // The gateway runs on this thread too: it reads what has arrived.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
            if ends {
                let _ = write.shutdown().await;
            }
            std::future::pending::<()>().await
        };
        let answer = tokio::select! {
            answer = read_answer(&mut read) => answer,
            () = writing => unreachable!("it waits for the answer"),
        };
        let goes_on = left == 0 && !ends && answer.header("connection") != "close";
        if goes_on && answer.status == 201 {
            self.connection = Some(connection);
        }
        answer
    }

    /// What the ERP has of the upload that was just accepted.
    fn kept(&self, reply: &Reply) -> Kept {
        let archivo = reply.ok(201);
        let received = self.world.received();
        let [received] = &received[..] else {
            panic!("{} requests upstream for one upload", received.len())
        };
        let id = received.archivo_id.unwrap();
        assert_eq!(archivo["id"], id);
        let orden = FIRST_ORDEN + (self.sent - 1) % ORDENES;
        let orden = self.world.erp.orden(&with_clave("carper"), orden).unwrap();
        let archivo = orden["archivos"].as_array().unwrap().last().unwrap();
        assert_eq!(archivo["id"], id);
        let titulo = archivo["titulo"].as_str().unwrap();
        // One that the gateway makes names the step and the time.
        let is_made = titulo.contains(" servicio - ");
        Kept {
            imagen: self.world.erp.imagen(&with_clave("carper"), id).unwrap(),
            proceso: received.proceso.unwrap(),
            titulo: (!is_made).then(|| titulo.to_owned()),
        }
    }

    /// Whether the form arrives as it should; otherwise what happened.
    async fn delivers(&mut self, form: &Form, how: How<'_>, expected: &Kept) -> Result<(), String> {
        self.world.erp.clear_requests();
        let reply = self.send(form, how).await;
        if reply.status != 201 {
            return Err(format!("{} {}", reply.status.as_u16(), reply.text()));
        }
        let kept = self.kept(&reply);
        match kept == *expected {
            true => Ok(()),
            false => Err(format!(
                "kept {} bytes, {}, {:?} instead of {} bytes, {}, {:?}",
                kept.imagen.len(),
                kept.proceso,
                kept.titulo,
                expected.imagen.len(),
                expected.proceso,
                expected.titulo
            )),
        }
    }

    /// What is made of the form, as far as it must not depend on how it arrives.
    async fn outcome(&mut self, form: &Form, how: How<'_>) -> Option<Kept> {
        self.world.erp.clear_requests();
        let reply = self.send(form, how).await;
        if reply.status == 201 {
            return Some(self.kept(&reply));
        }
        let code = reply.json()["code"].as_str().unwrap().to_owned();
        reply.problem(reply.status.as_u16(), &code);
        assert!(reply.status.is_client_error(), "{}", reply.text());
        assert!(self.world.received().is_empty(), "refused and sent");
        None
    }
}

/// One answer, searched for what must not come out.
async fn read_answer(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> Reply {
    let mut answer = Vec::new();
    let head = loop {
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            if !answer.starts_with(b"HTTP/1.1 100 ") {
                break end + 4;
            }
            // An interim answer, of which there may be any number before the answer.
            answer.drain(..end + 4);
            continue;
        }
        let before = answer.len();
        let _ = read.read_buf(&mut answer).await;
        assert!(
            answer.len() > before,
            "no answer, or half: {}",
            String::from_utf8_lossy(&answer)
        );
    };
    let text = String::from_utf8(answer[..head].to_vec()).unwrap();
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::try_from(value).unwrap(),
        );
    }
    let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    while answer.len() < head + length {
        assert!(read.read_buf(&mut answer).await.unwrap() > 0, "{text}");
    }
    leaks::assert_none_in("an answer", &answer);
    Reply {
        status: StatusCode::from_bytes(status.as_bytes()).unwrap(),
        headers,
        body: Bytes::copy_from_slice(&answer[head..head + length]),
    }
}

/// A picture like no other, with that text in its comment segment and behind its end.
fn picture(number: usize, inside: &[u8], behind: &[u8]) -> Vec<u8> {
    let dot = fs::read(fixture("forms/dot.jpg")).unwrap();
    let comment = [number.to_string().as_bytes(), b" ", inside].concat();
    let length = u16::try_from(comment.len() + 2).unwrap().to_be_bytes();
    [&dot[..2], b"\xff\xfe", &length, &comment, &dot[2..], behind].concat()
}

const IMAGEN: &str = "Content-Disposition: form-data; name=\"imagen\"; filename=\"f.jpg\"\r\nContent-Type: image/jpeg";
const PROCESO: &str = "Content-Disposition: form-data; name=\"proceso\"";
const TITULO: &str = "Content-Disposition: form-data; name=\"titulo\"";

/// Parts between delimiters; what stands before and behind is the caller's.
fn parts(boundary: &str, parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend_from_slice(format!("--{boundary}\r\n{head}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// A plain form around a picture.
fn plain(boundary: &str, imagen: &[u8]) -> Vec<u8> {
    parts(
        boundary,
        &[(PROCESO, b"antes"), (IMAGEN, imagen), (TITULO, b"Bomba")],
    )
}

fn plainly_kept(imagen: Vec<u8>) -> Kept {
    Kept {
        imagen,
        proceso: 1,
        titulo: Some("Bomba".to_owned()),
    }
}

fn replaced(body: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = body;
    while let Some(at) = memchr::memmem::find(rest, what) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// The forms of `tests/fixtures/forms` and what the ERP must have of them.
fn written_by_clients() -> Vec<(String, Form, Kept)> {
    let photo = fs::read(fixture("forms/photo.jpg")).unwrap();
    let mut forms = Vec::new();
    for entry in fs::read_dir(fixture("forms")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "http") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (proceso, titulo) = match name.rsplit('-').next().unwrap() {
            "plain" => (1, "Bomba"),
            "odd" => (2, "Fuga \"norte\" \\ ñandú \u{1F4F7}; a=b"),
            "lines" => (3, "--Bomba"),
            case => panic!("{case}: what is it?"),
        };
        let file = fs::read(path).unwrap();
        let end = memchr::memmem::find(&file, b"\r\n\r\n").unwrap();
        let form = Form {
            content_type: file[..end].to_vec(),
            body: file[end + 4..].to_vec(),
        };
        let kept = Kept {
            imagen: photo.clone(),
            proceso,
            titulo: Some(titulo.to_owned()),
        };
        forms.push((name, form, kept));
    }
    forms.sort_by(|one, other| one.0.cmp(&other.0));
    forms
}

#[tokio::test]
async fn every_clients_form_arrives_however_it_is_sent() {
    let forms = written_by_clients();
    let clients: BTreeSet<_> = forms
        .iter()
        .map(|(name, ..)| name.split('-').next().unwrap())
        .collect();
    assert!(forms.len() >= 100 && clients.len() >= 20, "{clients:?}");
    // An order a form.
    assert!(forms.len() as u64 <= ORDENES);
    let mut rng = Rng::with_seed(5);
    let mut sizes = || -> Vec<usize> { (0..24).map(|_| rng.usize(1..120)).collect() };
    let mut wrong = Vec::new();
    for way in ["whole", "cut"] {
        let mut sender = Sender::start().await;
        for (place, (name, form, kept)) in forms.iter().enumerate() {
            let sizes = sizes();
            let how = match (way, place % 2) {
                ("whole", _) => How::Whole,
                (_, 0) => How::Writes(&sizes),
                (_, _) => How::Chunks(&sizes),
            };
            if let Err(what) = sender.delivers(form, how, kept).await {
                wrong.push(format!("{name}, {way}: {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

type Legal = (String, Form, Kept);

/// Forms that no client is known to write, and that are right all the same.
fn legal() -> Vec<Legal> {
    let mut rows: Vec<Legal> = Vec::new();
    let mut add = |what: &str, change: &dyn Fn(&[u8]) -> Form| {
        let imagen = picture(rows.len(), b"", b"");
        let form = change(&imagen);
        rows.push((what.to_owned(), form, plainly_kept(imagen)));
    };
    around(&mut add);
    heads(&mut add);
    boundaries(&mut add);
    texts(&mut rows);
    rows
}

type Add<'a> = &'a mut dyn FnMut(&str, &dyn Fn(&[u8]) -> Form);

/// What stands before the first delimiter, behind the last and on their lines.
fn around(add: Add<'_>) {
    for (what, before) in [
        ("a preamble", "This is a form\r\nin MIME.\r\n"),
        ("an empty preamble", "\r\n"),
        (
            "a preamble that names the boundary",
            "x--b\r\n --b\r\n-b\r\n",
        ),
        ("a preamble with a longer boundary", "--bb\r\n--b-\r\n"),
        ("a preamble of hyphens", "------\r\n--\r\n-\r\n"),
    ] {
        add(what, &|imagen| {
            Form::bounded("b", [before.as_bytes(), &plain("b", imagen)].concat())
        });
    }
    for (what, behind) in [
        ("an epilogue", "\r\nThe end.\r\n"),
        (
            "an epilogue with a part",
            "--b\r\nContent-Disposition: form-data; name=\"otra\"\r\n\r\nx\r\n--b--\r\n",
        ),
        ("an epilogue of line ends", "\r\n\r\n\r\n"),
    ] {
        add(what, &|imagen| {
            Form::bounded("b", [&plain("b", imagen), behind.as_bytes()].concat())
        });
    }
    add("no line end behind the close delimiter", &|imagen| {
        let body = plain("b", imagen);
        Form::bounded("b", body[..body.len() - 2].to_vec())
    });
    add("padding behind the close delimiter", &|imagen| {
        Form::bounded("b", replaced(&plain("b", imagen), b"--b--", b"--b-- \t "))
    });
    add("padding behind delimiters", &|imagen| {
        Form::bounded(
            "b",
            replaced(&plain("b", imagen), b"--b\r\n", b"--b \t\r\n"),
        )
    });
    add("line feeds alone", &|imagen| {
        Form::bounded("b", replaced(&plain("b", imagen), b"\r\n", b"\n"))
    });
    add(
        "an empty line before the first delimiter, of line feeds alone",
        &|imagen| {
            let body = replaced(&plain("b", imagen), b"\r\n", b"\n");
            Form::bounded("b", [b"\n", &body[..]].concat())
        },
    );
}

/// What heads of parts may look like.
fn heads(add: Add<'_>) {
    let many: String = (0..12)
        .map(|at| format!("X-Extra-{at}: {at}\r\n"))
        .collect();
    let many = format!("{many}{IMAGEN}");
    let long = format!("{IMAGEN}\r\nX-Long: {}", "a".repeat(2000));
    let rows: &[(&str, &str)] = &[
        (
            "header names in capitals",
            "CONTENT-DISPOSITION: form-data; name=\"imagen\"\r\nCONTENT-TYPE: image/jpeg",
        ),
        (
            "everything in small letters",
            "content-disposition: form-data; name=\"imagen\"; filename=\"f\"",
        ),
        (
            "parameter names in capitals",
            "Content-Disposition: FORM-DATA; NAME=\"imagen\"; FILENAME=\"f\"",
        ),
        (
            "no blank behind the colon and the semicolon",
            "Content-Disposition:form-data;name=\"imagen\";filename=\"f\"",
        ),
        (
            "more blanks than needed",
            "Content-Disposition: \t form-data \t ; \t name=\"imagen\" ; filename=\"f\" \t",
        ),
        (
            "a name without quotes",
            "Content-Disposition: form-data; name=imagen; filename=f.jpg",
        ),
        (
            "the file name first",
            "Content-Disposition: form-data; filename=\"f.jpg\"; name=\"imagen\"",
        ),
        (
            "no file name",
            "Content-Disposition: form-data; name=\"imagen\"",
        ),
        (
            "an empty file name",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"\"",
        ),
        (
            "a file name with a name in it",
            "Content-Disposition: form-data; filename=\"a; name=\\\"otra\\\"; x.jpg\"; name=\"imagen\"",
        ),
        (
            "a file name in UTF-8",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"fóto 📷 ñ.jpg\"",
        ),
        (
            "a file name in Latin-1",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"f\u{1}to.jpg\"",
        ),
        (
            "a Windows path as file name",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"C:\\fotos\\norte\\f.jpg\"",
        ),
        (
            "a file name that ends in a quoted backslash",
            "Content-Disposition: form-data; filename=\"f\\\\\"; name=\"imagen\"",
        ),
        (
            "filename*",
            "Content-Disposition: form-data; name=\"imagen\"; filename*=UTF-8''f%C3%B3to%20%221%22.jpg",
        ),
        (
            "filename* with a language, and filename",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"f.jpg\"; filename*=utf-8'es'f%C3%B3to.jpg",
        ),
        (
            "quoted pairs in the name",
            "Content-Disposition: form-data; name=\"im\\a\\gen\"; filename=\"f\"",
        ),
        (
            "unknown parameters",
            "Content-Disposition: form-data; size=3; name=\"imagen\"; x=\"y;z=\\\"\"",
        ),
        (
            "another media type",
            "Content-Disposition: form-data; name=\"imagen\"\r\nContent-Type: text/html; charset=\"x;y\"",
        ),
        (
            "the media type first",
            "Content-Type: application/octet-stream\r\nContent-Disposition: form-data; name=\"imagen\"",
        ),
        (
            "a length, which isn't believed",
            "Content-Disposition: form-data; name=\"imagen\"\r\nContent-Length: 3",
        ),
        (
            "a transfer encoding that changes nothing",
            "Content-Disposition: form-data; name=\"imagen\"\r\nContent-Transfer-Encoding: BINARY",
        ),
        (
            "another one",
            "Content-Transfer-Encoding: 8bit\r\nContent-Disposition: form-data; name=\"imagen\"",
        ),
        (
            "the third",
            "Content-Transfer-Encoding: 7bit\r\nContent-Disposition: form-data; name=\"imagen\"",
        ),
        (
            "an empty header",
            "X-Empty:\r\nContent-Disposition: form-data; name=\"imagen\"",
        ),
        (
            "a header that looks like a delimiter",
            "X-Odd: --b\r\nContent-Disposition: form-data; name=\"imagen\"",
        ),
        ("a dozen headers more", &many),
        ("a long header", &long),
    ];
    for (what, head) in rows {
        add(what, &|imagen| {
            let contents: [(&str, &[u8]); 3] =
                [(PROCESO, b"antes"), (head, imagen), (TITULO, b"Bomba")];
            let body = parts("b", &contents);
            // Text can't hold what isn't UTF-8: this control character stands for it.
            Form::bounded("b", replaced(&body, b"f\x01to", b"f\xf3to"))
        });
    }
    add("the charset of a text", &|imagen| {
        let titulo = format!("{TITULO}\r\nContent-Type: text/plain; charset=\"utf-8\"");
        let contents: [(&str, &[u8]); 3] = [
            (&titulo, b"Bomba"),
            (IMAGEN, imagen),
            (PROCESO, b" \tantes\r\n"),
        ];
        Form::bounded("b", parts("b", &contents))
    });
}

/// What boundaries may look like, and `Content-Type` with them.
fn boundaries(add: Add<'_>) {
    let longest = "0123456789'()+_,-./:=? abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTU";
    for boundary in [
        longest,
        "'()+_,-./:=?",
        "a b",
        " a",
        "-",
        "--",
        "----",
        "--b",
        "b--",
        "0",
        "a--a",
    ] {
        add(&format!("the boundary {boundary:?}"), &|imagen| {
            Form::bounded(boundary, plain(boundary, imagen))
        });
    }
    assert_eq!(longest.len(), 70);
    for (content_type, boundary) in [
        ("multipart/form-data;boundary=b", "b"),
        ("Multipart/Form-Data; Boundary=b", "b"),
        ("multipart/form-data; boundary=B", "B"),
        ("multipart/form-data; charset=utf-8; boundary=b", "b"),
        ("multipart/form-data; boundary=b; charset=UTF-8", "b"),
        ("multipart/form-data \t ; \t boundary=b", "b"),
        ("multipart/form-data; boundary=\"a\\b\"", "ab"),
        ("multipart/form-data; x=\"; boundary=x\"; boundary=b", "b"),
        ("multipart/form-data; boundary=-'+_.aZ09", "-'+_.aZ09"),
    ] {
        add(content_type, &|imagen| {
            Form::new(content_type, plain(boundary, imagen))
        });
    }
}

/// Texts that need care.
fn texts(rows: &mut Vec<Legal>) {
    for (what, titulo, kept) in [
        ("an empty title", "", None),
        ("a blank title", " \r\n", None),
        ("a title that looks like a delimiter", "--b", Some("--b")),
        ("a title of hyphens", "--", Some("--")),
        (
            "a title of 200 letters",
            &"ñ".repeat(200),
            Some(&"ñ".repeat(200)[..]),
        ),
    ] {
        let imagen = picture(1000 + rows.len(), b"", b"");
        let contents: [(&str, &[u8]); 3] = [
            (TITULO, titulo.as_bytes()),
            (PROCESO, b"despues"),
            (IMAGEN, &imagen),
        ];
        let form = Form::bounded("b", parts("b", &contents));
        let kept = Kept {
            imagen,
            proceso: 3,
            titulo: kept.map(str::to_owned),
        };
        rows.push((what.to_owned(), form, kept));
    }
    let imagen = picture(2000, b"", b"");
    let contents: [(&str, &[u8]); 2] = [(IMAGEN, &imagen), (PROCESO, b"2")];
    let form = Form::bounded("b", parts("b", &contents));
    let kept = Kept {
        imagen: imagen.clone(),
        proceso: 2,
        titulo: None,
    };
    rows.push(("no title".to_owned(), form, kept));
}

#[tokio::test]
async fn what_is_odd_and_legal_arrives_however_it_is_cut() {
    let mut sender = Sender::start().await;
    let mut rng = Rng::with_seed(6);
    let mut wrong = Vec::new();
    for (what, form, kept) in legal() {
        let sizes: Vec<usize> = (0..24).map(|_| rng.usize(1..30)).collect();
        for how in [How::Whole, How::Chunks(&sizes)] {
            if let Err(outcome) = sender.delivers(&form, how, &kept).await {
                wrong.push(format!("{what}: {outcome}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const BOUNDARY: &str = "boundary";

/// What looks like a delimiter and isn't one.
const BAITS: &[&[u8]] = &[
    b"--boundary",
    b"--boundary--",
    b"x--boundary\r\n",
    b"\n--boundary",
    b"\n--boundary--\n",
    b"\r--boundary\r",
    b"\r\n-",
    b"\r\n--",
    b"\r\n--boundar",
    b"\r\n--boundar\r\n--boundar",
    b"\r\n-boundary\r\n",
    b"\r\n---boundary\r\n",
    b"\r\n--Boundary\r\n",
    b"\r\n --boundary\r\n",
    b"\r\n\r\r\n\r\n--boundar",
    b"\r\n--boundaryX\r\n",
    b"\r\n--boundary-\r\n",
    b"\r\n--boundary-X--\r\n",
    b"\r\n--boundary \t X\r\n",
    b"\r\n--boundary\rX",
    b"\r\n--boundary\r\r\n--boundar",
    // The first delimiter says how the form's lines end.
    b"\r\n--boundary\nX",
    b"\n--boundary\nX",
];

/// How pictures may end.
const ENDS: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\r\n",
    b"\r\n\r\n",
    b"-",
    b"--",
    b"\r\n-",
    b"\r\n--",
    b"\r\n--boundar",
    b"\r\n--boundary\r",
    b"\r\n--boundary-",
];

#[tokio::test]
async fn nothing_within_a_picture_ends_it() {
    let mut sender = Sender::start().await;
    let mut wrong = Vec::new();
    let baits = BAITS.iter().map(|bait| (*bait, &b""[..]));
    let ends = ENDS.iter().map(|end| (&b""[..], *end));
    for (number, (inside, behind)) in baits.chain(ends).enumerate() {
        let imagen = picture(number, inside, behind);
        let form = Form::bounded(BOUNDARY, plain(BOUNDARY, &imagen));
        let kept = plainly_kept(imagen);
        for how in [How::Whole, How::Chunks(&[1])] {
            if let Err(what) = sender.delivers(&form, how, &kept).await {
                let bait = [inside, behind].concat();
                wrong.push(format!("\"{}\": {what}", bait.escape_ascii()));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Frames of a size that is larger than any bait: each is cut at most once, and, as the first frame grows, at every
/// place.
#[tokio::test]
async fn nothing_within_a_picture_ends_it_wherever_frames_end() {
    const FRAME: usize = 37;
    assert!(BAITS.iter().all(|bait| bait.len() < FRAME));
    let mut sender = Sender::start().await;
    // The word between them keeps one from going on in the next.
    let all: Vec<u8> = BAITS.join(&b"word"[..]);
    for first in 1..=FRAME {
        let imagen = picture(10 + first, &all, b"\r\n--boundar");
        let form = Form::bounded(BOUNDARY, plain(BOUNDARY, &imagen));
        let mut sizes = vec![FRAME; form.body.len() / FRAME + 1];
        sizes[0] = first;
        let kept = plainly_kept(imagen);
        let outcome = sender.delivers(&form, How::Chunks(&sizes), &kept).await;
        assert_eq!(outcome, Ok(()), "the first frame has {first} bytes");
    }
}

/// The end of a picture and the delimiter behind it, cut in two at every place.
#[tokio::test]
async fn a_picture_may_end_in_anything_wherever_frames_end() {
    let mut sender = Sender::start().await;
    for (number, end) in ENDS.iter().enumerate() {
        let behind = replaced(&replaced(end, b"boundary", b"bb"), b"boundar", b"b");
        let template = plain("bb", &picture(1000, b"", &behind));
        let delimiter = [&behind[..], b"\r\n--bb\r\n"].concat();
        let begins = memchr::memmem::find(&template, &delimiter).unwrap();
        for split in begins..=begins + delimiter.len() {
            let imagen = picture(1000 + number * 100 + split % 100, b"", &behind);
            let form = Form::bounded("bb", plain("bb", &imagen));
            assert_eq!(form.body.len(), template.len());
            let sizes = [split, usize::MAX];
            let kept = plainly_kept(imagen);
            let outcome = sender.delivers(&form, How::Chunks(&sizes), &kept).await;
            let end = behind.escape_ascii();
            assert_eq!(outcome, Ok(()), "\"{end}\" cut at {}", split - begins);
        }
    }
}

/// Every place of a form is the end of some frame, of frames small and large.
#[tokio::test]
async fn a_form_may_be_cut_anywhere() {
    let mut sender = Sender::start().await;
    let inside = b"\r\n--boundar\r\n--\r\n\n--boundary\r\n-";
    for size in [1, 2, 3, 5, 8, 13, 21, 34] {
        for first in 1..=size {
            let imagen = picture(1000 + size * 50 + first, inside, b"\r\n");
            let form = Form::bounded(BOUNDARY, plain(BOUNDARY, &imagen));
            let mut sizes = vec![size; form.body.len() / size + 1];
            sizes[0] = first;
            let kept = plainly_kept(imagen);
            let outcome = sender.delivers(&form, How::Chunks(&sizes), &kept).await;
            assert_eq!(outcome, Ok(()), "{first} bytes, then {size} at a time");
        }
    }
}

/// What a large picture holds where frames, reads and buffers of many sizes end.
#[tokio::test]
async fn delimiters_look_alike_across_large_frames() {
    let mut sender = Sender::start().await;
    let bait = b"\r\n--boundar\r\n--\r\n";
    let mut rng = Rng::with_seed(7);
    for number in 0..12 {
        // What a camera appends behind the end of the picture is the picture's.
        let mut behind: Vec<u8> = (0..300 * 1024).map(|_| rng.u8(..)).collect();
        for edge in (0..behind.len() - 64 * 1024).step_by(8 * 1024) {
            let at = edge + 8 * 1024 - bait.len() + rng.usize(0..2 * bait.len());
            behind[at..at + bait.len()].copy_from_slice(bait);
        }
        let imagen = picture(number, b"", &behind);
        let form = Form::bounded(BOUNDARY, plain(BOUNDARY, &imagen));
        let kept = plainly_kept(imagen);
        let frame = 64 * 1024 + rng.usize(0..32) - 16;
        let how = match number % 3 {
            0 => How::Whole,
            1 => How::Writes(&[8 * 1024, frame]),
            _ => How::Chunks(&[frame, 8 * 1024, 16 * 1024]),
        };
        let outcome = sender.delivers(&form, how, &kept).await;
        assert_eq!(outcome, Ok(()), "{number}");
    }
}

/// A form that isn't right: what must be said of it.
struct Wrong {
    what: &'static str,
    form: Form,
    status: u16,
    code: &'static str,
    /// The parts that the problem names.
    named: &'static [&'static str],
}

/// The table that it stands in, row by row.
struct Rows(Vec<Wrong>);

impl Rows {
    fn add(
        &mut self,
        what: &'static str,
        form: Form,
        status: u16,
        code: &'static str,
        named: &'static [&'static str],
    ) {
        self.0.push(Wrong {
            what,
            form,
            status,
            code,
            named,
        });
    }

    /// One that is no form.
    fn malformed(&mut self, what: &'static str, form: Form, named: &'static str) {
        let named = std::slice::from_ref(Box::leak(Box::new(named)));
        self.add(what, form, 400, "malformed-body", named);
    }
}

/// A form whose parts have these heads.
fn with_heads(imagen: &[u8], proceso: &str, head: &str, titulo: &str) -> Form {
    let contents: [(&str, &[u8]); 3] = [(proceso, b"antes"), (head, imagen), (titulo, b"Bomba")];
    Form::bounded("b", parts("b", &contents))
}

fn wrong_boundaries(imagen: &[u8], rows: &mut Rows) {
    let good = || plain("b", imagen);
    for (what, content_type) in [
        ("no boundary", "multipart/form-data"),
        ("an empty boundary", "multipart/form-data; boundary="),
        (
            "an empty quoted boundary",
            "multipart/form-data; boundary=\"\"",
        ),
        ("another boundary", "multipart/form-data; boundary=c"),
        (
            "a boundary in other letters",
            "multipart/form-data; boundary=B",
        ),
        (
            "half of a quoted boundary",
            "multipart/form-data; boundary=\"b",
        ),
        (
            "two boundaries",
            "multipart/form-data; boundary=b; boundary=c",
        ),
        (
            "two boundaries, the other first",
            "multipart/form-data; boundary=c; boundary=b",
        ),
    ] {
        let form = Form::new(content_type, good());
        rows.malformed(what, form, "Content-Type");
    }
    for (what, boundary) in [
        ("a boundary of 71 characters", &"b".repeat(71)[..]),
        ("a boundary of 1,000 characters", &"b".repeat(1000)[..]),
        ("a boundary that ends in a blank", "b "),
        ("a boundary with a tab", "b\tb"),
        ("a boundary with a quote", "b\\\"b"),
        ("a boundary beyond ASCII", "ñ"),
    ] {
        let unquoted = boundary.replace('\\', "");
        let form = Form::bounded(boundary, plain(&unquoted, imagen));
        rows.malformed(what, form, "Content-Type");
    }
    let two = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Type: multipart/form-data; boundary=c";
    let form = Form {
        content_type: two.to_vec(),
        body: good(),
    };
    rows.malformed("two Content-Type fields", form, "Content-Type");
    for (what, content_type) in [
        ("multipart/mixed", "multipart/mixed; boundary=b"),
        ("an urlencoded form", "application/x-www-form-urlencoded"),
        ("nothing of the kind", "text"),
        (
            "two media types",
            "text/plain, multipart/form-data; boundary=b",
        ),
    ] {
        let form = Form::new(content_type, good());
        rows.add(what, form, 415, "unsupported-media-type", &["Content-Type"]);
    }
}

fn wrong_bodies(imagen: &[u8], rows: &mut Rows) {
    let good = || plain("b", imagen);
    let cut = |to: &[u8]| good()[..memchr::memmem::find(&good(), to).unwrap()].to_vec();
    for (what, body) in [
        ("an empty body", Vec::new()),
        ("a line end", b"\r\n".to_vec()),
        ("no close delimiter", cut(b"\r\n--b--")),
        ("no end of the last part's line", cut(b"--b--")),
        ("half of the close delimiter", cut(b"--\r\n")),
        ("a hyphen less in it", cut(b"-\r\n")),
        (
            "an end within a head",
            cut(b"isposition: form-data; name=\"titulo\""),
        ),
        (
            "an end behind a delimiter",
            cut(b"Content-Disposition: form-data; name=\"titulo\""),
        ),
        ("an end within the picture", good()[..250].to_vec()),
        ("JSON", b"{\"proceso\": \"antes\"}".to_vec()),
        ("NULs", vec![0; 5000]),
    ] {
        let begins = memchr::memmem::find(&body, b"--b").is_some();
        let named = if begins { "" } else { "Content-Type" };
        rows.malformed(what, Form::bounded("b", body), named);
    }
}

fn wrong_heads(imagen: &[u8], rows: &mut Rows) {
    for (what, head) in [
        ("no Content-Disposition", "Content-Type: image/jpeg"),
        ("no header at all", "X-Nothing:"),
        (
            "an attachment",
            "Content-Disposition: attachment; name=\"imagen\"",
        ),
        (
            "no disposition's type",
            "Content-Disposition: name=\"imagen\"",
        ),
        ("no name", "Content-Disposition: form-data"),
        (
            "a file name alone",
            "Content-Disposition: form-data; filename=\"imagen\"",
        ),
        (
            "two names",
            "Content-Disposition: form-data; name=\"imagen\"; name=\"otra\"",
        ),
        (
            "two names, the other first",
            "Content-Disposition: form-data; name=\"otra\"; name=\"imagen\"",
        ),
        (
            "two Content-Dispositions",
            "Content-Disposition: form-data; name=\"imagen\"\r\nContent-Disposition: form-data; name=\"otra\"",
        ),
        (
            "a name without its closing quote",
            "Content-Disposition: form-data; name=\"imagen",
        ),
        (
            "a line without a colon",
            "Content-Disposition: form-data; name=\"imagen\"\r\nimage/jpeg",
        ),
        (
            "a blank in a header's name",
            "Content-Disposition : form-data; name=\"imagen\"",
        ),
        (
            "a NUL in a header",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"f\0.jpg\"",
        ),
        (
            "a carriage return alone in a header",
            "Content-Disposition: form-data; name=\"imagen\"\rX: y",
        ),
    ] {
        let form = with_heads(imagen, PROCESO, head, TITULO);
        rows.malformed(what, form, "/parts/2");
    }
    let long = format!("{IMAGEN}\r\nX-Long: {}", "a".repeat(100 * 1024));
    let form = with_heads(imagen, PROCESO, &long, TITULO);
    rows.malformed("a head of 100 KiB", form, "/parts/2");
    for (what, encoding) in [
        ("base64", "base64"),
        ("quoted-printable", "Quoted-Printable"),
        ("an unknown encoding", "x-uuencode"),
    ] {
        let titulo = format!("{TITULO}\r\nContent-Transfer-Encoding: {encoding}");
        let form = with_heads(imagen, PROCESO, IMAGEN, &titulo);
        rows.add(what, form, 400, "malformed-body", &["/titulo"]);
    }
}

fn wrong_parts(imagen: &[u8], rows: &mut Rows) {
    let name = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"");
    for (what, head, named) in [
        ("an unknown part", name("otra"), &["/otra", "/imagen"][..]),
        (
            "a name in other letters",
            name("Imagen"),
            &["/Imagen", "/imagen"],
        ),
        (
            "a name with a blank",
            name("imagen "),
            &["/imagen ", "/imagen"],
        ),
        (
            "a name of a list",
            name("imagen[]"),
            &["/imagen[]", "/imagen"],
        ),
    ] {
        let form = with_heads(imagen, PROCESO, &head, TITULO);
        rows.add(what, form, 422, "validation-failed", named);
    }
    let contents: [(&str, &[u8]); 4] = [
        (PROCESO, b"antes"),
        (PROCESO, b"antes"),
        (TITULO, b"Bomba"),
        (IMAGEN, imagen),
    ];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add(
        "two processes",
        form,
        422,
        "validation-failed",
        &["/proceso"],
    );
    let contents: [(&str, &[u8]); 4] = [
        (TITULO, b""),
        (PROCESO, b"antes"),
        (TITULO, b"Bomba"),
        (IMAGEN, imagen),
    ];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add("two titles", form, 422, "validation-failed", &["/titulo"]);
    let contents: [(&str, &[u8]); 3] = [(IMAGEN, imagen), (PROCESO, b"antes"), (IMAGEN, imagen)];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add("two pictures", form, 422, "validation-failed", &["/imagen"]);
    let mut contents = vec![(PROCESO, &b"antes"[..])];
    contents.extend((0..1000).map(|_| (TITULO, &b""[..])));
    contents.push((IMAGEN, imagen));
    let form = Form::bounded("b", parts("b", &contents));
    rows.add(
        "a thousand parts",
        form,
        422,
        "validation-failed",
        &["/titulo"],
    );
    let form = Form::bounded("b", b"--b--\r\n");
    rows.add(
        "no part",
        form,
        422,
        "validation-failed",
        &["/imagen", "/proceso"],
    );
    let contents: [(&str, &[u8]); 2] = [(IMAGEN, imagen), (TITULO, b"Bomba")];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add("no process", form, 422, "validation-failed", &["/proceso"]);
    let contents: [(&str, &[u8]); 2] = [(PROCESO, b"antes"), (TITULO, b"Bomba")];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add("no picture", form, 422, "validation-failed", &["/imagen"]);

    // What stands before the first delimiter is none of the form's.
    let form = Form::bounded("b", plain("b", imagen)[3..].to_vec());
    rows.add(
        "no delimiter before the first part",
        form,
        422,
        "validation-failed",
        &["/proceso"],
    );
}

fn wrong_contents(imagen: &[u8], rows: &mut Rows) {
    let with_texts = |proceso: &[u8], titulo: &[u8]| {
        let contents = [(PROCESO, proceso), (TITULO, titulo), (IMAGEN, imagen)];
        Form::bounded("b", parts("b", &contents))
    };
    let contents: [(&str, &[u8]); 2] = [(IMAGEN, b""), (PROCESO, b"antes")];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add("an empty picture", form, 422, "invalid-image", &["/imagen"]);
    let inner = parts(
        "c",
        &[("Content-Disposition: file; filename=\"f.jpg\"", imagen)],
    );
    let nested = "Content-Disposition: form-data; name=\"imagen\"\r\nContent-Type: multipart/mixed; boundary=c";
    let contents: [(&str, &[u8]); 2] = [(nested, &inner), (PROCESO, b"antes")];
    let form = Form::bounded("b", parts("b", &contents));
    rows.add(
        "files within a part (multipart/mixed)",
        form,
        422,
        "invalid-image",
        &["/imagen"],
    );
    for (what, titulo, status, code) in [
        (
            "a title in Latin-1",
            &b"Fach\xf3"[..],
            422,
            "validation-failed",
        ),
        (
            "a title of two lines",
            b"Bomba\r\nnorte",
            422,
            "validation-failed",
        ),
        ("a title with a NUL", b"Bom\0ba", 422, "validation-failed"),
        (
            "a title of 201 letters",
            &[b'a'; 201],
            422,
            "validation-failed",
        ),
        (
            "a title of 1 MiB",
            &[b'a'; 1 << 20],
            413,
            "payload-too-large",
        ),
    ] {
        rows.add(
            what,
            with_texts(b"antes", titulo),
            status,
            code,
            &["/titulo"],
        );
    }
    for (what, proceso, status, code) in [
        ("an empty process", &b""[..], 422, "validation-failed"),
        ("an unknown process", b"luego", 422, "validation-failed"),
        (
            "a process in Latin-1",
            b"despu\xe9s",
            422,
            "validation-failed",
        ),
        (
            "a process of 1 MiB",
            &[b' '; 1 << 20],
            413,
            "payload-too-large",
        ),
    ] {
        rows.add(
            what,
            with_texts(proceso, b"Bomba"),
            status,
            code,
            &["/proceso"],
        );
    }
}

#[tokio::test]
async fn what_isnt_right_is_named_and_not_sent() {
    let mut sender = Sender::start().await;
    let mut rng = Rng::with_seed(8);
    let mut wrong = Vec::new();
    let imagen = picture(0, b"", b"");
    type Table = fn(&[u8], &mut Rows);
    // With the words of which the problems must have one.
    let tables: [(Table, &[&str]); 5] = [
        (wrong_boundaries, &["`boundary`", "`Content-Type"]),
        (wrong_bodies, &["delimiter", "No part"]),
        (wrong_heads, &["the head of a part", "Content-Transfer"]),
        (wrong_parts, &[]),
        (wrong_contents, &[]),
    ];
    for (table, about) in tables {
        let mut rows = Rows(Vec::new());
        table(&imagen, &mut rows);
        for row in rows.0 {
            let sizes: Vec<usize> = (0..24).map(|_| rng.usize(1..5000)).collect();
            for how in [How::Whole, How::Chunks(&sizes)] {
                let reply = sender.send(&row.form, how).await;
                if reply.status == 201 {
                    wrong.push(format!("{}: it is taken", row.what));
                    break;
                }
                let problem = reply.json();
                let named = reply.named();
                let detail = problem["detail"].as_str().unwrap();
                let speaks = about.is_empty() || about.iter().any(|it| detail.contains(it));
                let is_told = problem["code"] == row.code && named == row.named && speaks;
                if reply.status != row.status || !is_told {
                    wrong.push(format!("{}: {problem}", row.what));
                    break;
                }
                reply.problem(row.status, row.code);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(sender.world.received().is_empty());
}

#[tokio::test]
async fn names_come_back_as_text_only() {
    let mut sender = Sender::start().await;
    for name in [
        "ima\0gen",
        "ima\u{7f}gen",
        "imagen\u{85}",
        "\u{202e}negami",
        "imagen\u{0}",
    ] {
        let head = format!("Content-Disposition: form-data; name=\"{name}\"");
        let form = Form::bounded("b", parts("b", &[(&head, b"x")]));
        let reply = sender.send(&form, How::Whole).await;
        let code = reply.json()["code"].as_str().unwrap().to_owned();
        assert!(
            matches!(code.as_str(), "malformed-body" | "validation-failed"),
            "{}",
            reply.text()
        );
        let problem = reply.problem(reply.status.as_u16(), &code);
        let has_control = |text: &str| text.chars().any(char::is_control);
        assert!(!has_control(&problem.to_string()), "{problem}");
        for name in reply.named() {
            assert!(!has_control(&name), "{name:?}");
        }
    }
    assert!(sender.world.received().is_empty());
}

/// Readers differ in what these are; whatever this one makes of them, it is no other part than that, and no half.
#[tokio::test]
async fn what_is_disputed_is_right_or_refused() {
    let mut sender = Sender::start().await;
    let imagen = picture(0, b"", b"");
    let many = format!("{}{IMAGEN}", "X: y\r\n".repeat(1000));
    for (what, head) in [
        ("a thousand headers", &many[..]),
        (
            "a folded header",
            "Content-Disposition: form-data;\r\n name=\"imagen\"; filename=\"f\"",
        ),
        (
            "name*",
            "Content-Disposition: form-data; name*=UTF-8''imagen",
        ),
        (
            "name and name*",
            "Content-Disposition: form-data; name=\"imagen\"; name*=UTF-8''titulo",
        ),
        (
            "a semicolon at the end",
            "Content-Disposition: form-data; name=\"imagen\";",
        ),
        (
            "two semicolons",
            "Content-Disposition: form-data;; name=\"imagen\"",
        ),
        (
            "blanks around the equals sign",
            "Content-Disposition: form-data; name = \"imagen\"",
        ),
        (
            "a name in apostrophes",
            "Content-Disposition: form-data; name='imagen'",
        ),
        (
            "a name in RFC 2047's form",
            "Content-Disposition: form-data; name=\"=?utf-8?Q?imagen?=\"",
        ),
        (
            "a name in percent form",
            "Content-Disposition: form-data; name=\"ima%67en\"",
        ),
    ] {
        let contents: [(&str, &[u8]); 3] =
            [(PROCESO, b"antes"), (head, &imagen), (TITULO, b"Bomba")];
        let form = Form::bounded("b", parts("b", &contents));
        if let Some(kept) = sender.outcome(&form, How::Whole).await {
            assert_eq!(kept, plainly_kept(imagen.clone()), "{what}");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_so() {
    let mut sender = Sender::start().await;
    // Whether its sender has left takes a moment to tell.
    let _flies = sender.world.time_flies();
    let form = Form::bounded("b", plain("b", &picture(0, b"", b"")));
    let token = sender.token.clone();
    for promised in [form.body.len() + 1, form.body.len() + 100_000] {
        for cut in [0, 1, 40, 300, form.body.len() - 6] {
            let path = sender.next_path();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: llavero\r\nAuthorization: Bearer {token}\r\n\
                 Content-Length: {promised}\r\n"
            );
            let head = [head.as_bytes(), &form.content_type, b"\r\n\r\n"].concat();
            let reply = sender.exchange(&[&head, &form.body[..cut]], true).await;
            reply.problem(400, "malformed-body");
            assert!(sender.world.received().is_empty(), "{cut} of {promised}");
        }
        let path = sender.next_path();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: llavero\r\nAuthorization: Bearer {token}\r\n\
             Transfer-Encoding: chunked\r\n"
        );
        // A chunk that ends before its size, behind a part of the form.
        let half = format!("\r\n\r\n{:x}\r\n", promised);
        let head = [head.as_bytes(), &form.content_type, half.as_bytes()].concat();
        let reply = sender.exchange(&[&head, &form.body[..200]], true).await;
        reply.problem(400, "malformed-body");
        assert!(sender.world.received().is_empty());
    }
}

/// A writer of forms that has nothing in common with the reader: it puts a form together from random choices that are
/// all legal.
struct Writer {
    rng: Rng,
    written: usize,
}

impl Writer {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.rng.usize(..from.len())]
    }

    fn boundary(&mut self) -> String {
        const LETTERS: &[u8] = b"0123456789abcXYZ'()+_,-./:=? ---";
        let length = self.rng.usize(1..=70);
        let mut boundary: String = (0..length)
            .map(|_| char::from(LETTERS[self.rng.usize(..LETTERS.len())]))
            .collect();
        if boundary.ends_with(' ') {
            boundary.pop();
            boundary.push('x');
        }
        boundary
    }

    /// What is within a picture: pieces of delimiters and of noise, and no whole delimiter.
    fn bait(&mut self, delimiter: &[u8]) -> Vec<u8> {
        let mut bait = Vec::new();
        for _ in 0..self.rng.usize(..12) {
            match self.rng.u8(..5) {
                0 => bait.extend_from_slice(&delimiter[..self.rng.usize(..delimiter.len())]),
                1 => bait.extend_from_slice(&delimiter[2..]),
                2 => bait.extend_from_slice(self.pick(&["\r", "\n", "\r\n", "-", "--"]).as_bytes()),
                3 => bait.extend_from_slice(&delimiter[self.rng.usize(2..delimiter.len())..]),
                _ => bait.extend((0..self.rng.usize(..40)).map(|_| self.rng.u8(..))),
            }
        }
        bait
    }

    fn head(&mut self, name: &str) -> String {
        let disposition = self.pick(&[
            "Content-Disposition",
            "content-disposition",
            "CONTENT-DISPOSITION",
        ]);
        let colon = self.pick(&[":", ": ", ": \t"]);
        let quote = self.pick(&["\"", ""]);
        let mut parameters = vec![format!("name={quote}{name}{quote}")];
        if name == "imagen" {
            let file = self.pick(&[
                "filename=f.jpg",
                "filename=\"fóto ñ; name=otra.jpg\"",
                "filename=\"a\\\"b\\\\\"",
                "filename*=UTF-8''f%C3%B3to.jpg",
                "FILENAME=\"\"",
            ]);
            parameters.insert(self.rng.usize(..2), file.to_owned());
        }
        let mut lines = vec![format!(
            "{disposition}{colon}form-data{}{}",
            self.pick(&["; ", ";", " ;\t"]),
            parameters.join(self.pick(&["; ", ";"]))
        )];
        for other in [
            "Content-Type: text/plain; charset=utf-8",
            "content-transfer-encoding: binary",
            "X-Other: --\"; name=\"otra\"",
            "Content-Length: 7",
        ] {
            if self.rng.u8(..4) == 0 {
                lines.insert(self.rng.usize(..=lines.len()), other.to_owned());
            }
        }
        lines.join("\r\n")
    }

    fn form(&mut self) -> (Form, Kept) {
        self.written += 1;
        let boundary = self.boundary();
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        let imagen = loop {
            let (inside, behind) = (self.bait(&delimiter), self.bait(&delimiter));
            let imagen = picture(self.written, &inside, &behind);
            // With what follows, no delimiter may arise before its place.
            let followed = [&imagen[..], &delimiter].concat();
            if memchr::memmem::find(&followed, &delimiter) == Some(imagen.len()) {
                break imagen;
            }
        };
        let titulo = self.pick(&["", "Bomba", " Fuga \"norte\" ñ \u{1F4F7} ", "--", "a=b; c"]);
        let proceso = self.rng.u64(1..=3);
        let word = match self.rng.bool() {
            true => proceso.to_string(),
            false => ["antes", "durante", "despues"][proceso as usize - 1].to_owned(),
        };
        let mut contents = vec![("imagen", imagen.clone()), ("proceso", word.into_bytes())];
        if !titulo.is_empty() || self.rng.bool() {
            contents.push(("titulo", titulo.as_bytes().to_vec()));
        }
        self.rng.shuffle(&mut contents);
        let mut body = Vec::new();
        let before = self.pick(&["", "", "\r\n", "Read me\r\n", "-\r\n--\r\n"]);
        if memchr::memmem::find(format!("\r\n{before}").as_bytes(), &delimiter).is_none() {
            body.extend_from_slice(before.as_bytes());
        }
        for (name, content) in &contents {
            let padding = self.pick(&["", "", " ", "\t ", "          "]);
            let head = self.head(name);
            let head = format!("--{boundary}{padding}\r\n{head}\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        let behind = self.pick(&["", "\r\n", " \r\n", "\r\nThe end\r\n", "\r\n\r\n--x\r\n"]);
        body.extend_from_slice(format!("--{boundary}--{behind}").as_bytes());
        let titulo = titulo.trim();
        let kept = Kept {
            imagen,
            proceso,
            titulo: (!titulo.is_empty()).then(|| titulo.to_owned()),
        };
        (Form::bounded(&boundary, body), kept)
    }

    /// Sizes of pieces, mostly small ones.
    fn sizes(&mut self) -> Vec<usize> {
        let most = [3, 20, 200, 2000][self.rng.usize(..4)];
        (0..16).map(|_| self.rng.usize(1..=most)).collect()
    }

    /// With one byte changed, missing, or twice.
    fn damaged(&mut self, form: &Form) -> Form {
        let mut body = form.body.clone();
        let at = self.rng.usize(..body.len());
        match self.rng.u8(..4) {
            0 => {
                body.remove(at);
            }
            1 => body.insert(at, body[at]),
            2 => body.truncate(at),
            _ => {
                body[at] = *b"\r\n-\"; :\0\xff"
                    .get(self.rng.usize(..9))
                    .unwrap_or(&b'x')
            }
        }
        Form {
            content_type: form.content_type.clone(),
            body,
        }
    }
}

#[tokio::test]
async fn whatever_is_written_arrives_the_same_whole_or_cut() {
    let mut sender = Sender::start().await;
    let mut writer = Writer {
        rng: Rng::with_seed(2026),
        written: 0,
    };
    for number in 0..60 {
        let (form, kept) = writer.form();
        let shown = || form.body.escape_ascii().to_string();
        let sizes = writer.sizes();
        for how in [How::Whole, How::Chunks(&sizes)] {
            let outcome = sender.delivers(&form, how, &kept).await;
            assert_eq!(outcome, Ok(()), "form {number}: {}", shown());
        }
        let damaged = writer.damaged(&form);
        let whole = sender.outcome(&damaged, How::Whole).await;
        let cut = sender.outcome(&damaged, How::Chunks(&writer.sizes())).await;
        let shown = damaged.body.escape_ascii();
        assert!(whole == cut, "damaged form {number}: {shown}");
    }
}
