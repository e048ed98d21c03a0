//! Uploads: any `Content-Type` and any body, in chunks of any size that come at any time.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::digest;
use axum::{body::Body, extract::Request};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, header::CONTENT_TYPE};
use llavero::{
    clock::Clock,
    extract::{Intake, Patience, Photo, Texts},
    images::{self, Format, Images, Metadata, Rules},
    in_flight::{Budget, Owner},
    problem::FieldError,
};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;

const MAX_IMAGE: usize = 2048;
const MAX_TEXT: usize = 4096;
const MAX_PIXELS: u64 = 10_000;
/// What may stand beside the image.
const OVERHEAD: usize = 64 * 1024;
/// The most padding of a delimiter's line.
const PADDING: usize = 256;

/// Stands for as many KiB of filling as the byte behind it says, so that a short input can be long.
const FILLING: &[u8] = b"%%F";
const MOST_FILLINGS: usize = 4;

static INTAKE: LazyLock<Intake> = LazyLock::new(|| {
    let clock = Clock::manual();
    Intake {
        images: Images::new(Rules {
            max_bytes: MAX_IMAGE as u64,
            max_pixels: MAX_PIXELS,
            formats: vec![Format::Jpeg, Format::Png],
            metadata: Metadata::Keep,
            shrink: None,
        }),
        budget: Budget::new(1 << 30, 1 << 20, clock.clone(), &mut Registry::default()),
        patience: Patience {
            min_rate: 1,
            idle: Duration::from_secs(1),
        },
        clock,
    }
});

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
});

/// What a sender sees.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Accepted(Accepted),
    Refused(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Accepted {
    imagen: Bytes,
    proceso: Option<String>,
    titulo: Option<String>,
}

/// Texts as they came.
struct Plain {
    proceso: Option<String>,
    titulo: Option<String>,
}

impl Texts for Plain {
    fn read(proceso: Option<&str>, titulo: Option<&str>) -> Result<Self, Vec<FieldError>> {
        if proceso.is_none() {
            return Err(vec![FieldError::body("proceso", "is missing")]);
        }
        Ok(Self {
            proceso: proceso.map(str::to_owned),
            titulo: titulo.map(str::to_owned),
        })
    }
}

/// A body that arrives in pieces; an empty one is a moment in which nothing has arrived.
struct Pieces(VecDeque<Bytes>);

impl Stream for Pieces {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.pop_front() {
            Some(nothing) if nothing.is_empty() => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            piece => Poll::Ready(piece.map(Ok)),
        }
    }
}

/// Whether the upload was accepted. The input: how many sizes follow, the sizes, the `Content-Type`, a line
/// end, the body.
///
/// # Panics
/// A rule of uploads is broken.
pub fn check(data: &[u8]) -> bool {
    let Some((&sizes, rest)) = data.split_first() else {
        return false;
    };
    let (sizes, rest) = rest.split_at(usize::from(sizes % 16).min(rest.len()));
    let end = rest.iter().position(|&byte| byte == b'\n');
    let (content_type, body) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 1..]));
    let Ok(content_type) = HeaderValue::from_bytes(content_type) else {
        return false;
    };
    let body = Bytes::from(filled(body));

    let whole = sent(&content_type, VecDeque::from([body.clone()]));
    for pieces in [
        in_sizes(&body, sizes),
        in_sizes(&body, &[200]),
        bytewise(&body),
    ] {
        let outcome = sent(&content_type, pieces);
        assert_eq!(outcome, whole, "the pieces in which a body arrives decide");
    }
    match &whole {
        Outcome::Accepted(accepted) => {
            accepted.check(&content_type, &body);
            true
        }
        Outcome::Refused(_) => false,
    }
}

fn filled(body: &[u8]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(body.len());
    let mut rest = body;
    for _ in 0..MOST_FILLINGS {
        let Some(at) = rest.windows(FILLING.len()).position(|it| it == FILLING) else {
            break;
        };
        filled.extend_from_slice(&rest[..at]);
        rest = &rest[at + FILLING.len()..];
        if let Some((&kib, behind)) = rest.split_first() {
            let kib = usize::from(kib) % 48;
            filled.resize(filled.len() + kib * 1024, b'x');
            rest = behind;
        }
    }
    filled.extend_from_slice(rest);
    filled
}

/// Pieces of those sizes over and over: 0 is a pause, over 128 it is in KiB.
fn in_sizes(body: &Bytes, sizes: &[u8]) -> VecDeque<Bytes> {
    let mut left = body.clone();
    let mut pieces = VecDeque::new();
    let moves_on = sizes.iter().any(|&size| size > 0);
    for &size in sizes.iter().cycle().take_while(|_| moves_on) {
        if left.is_empty() {
            break;
        }
        let size = match size {
            small @ 0..=128 => usize::from(small),
            large => usize::from(large - 128) * 1024,
        };
        pieces.push_back(left.split_to(size.min(left.len())));
    }
    pieces.push_back(left);
    pieces
}

/// Every byte alone and after a pause, where that doesn't take too long.
fn bytewise(body: &Bytes) -> VecDeque<Bytes> {
    if body.len() > 4096 {
        return in_sizes(body, &[0, 129]);
    }
    let bytes = (0..body.len()).flat_map(|at| [Bytes::new(), body.slice(at..=at)]);
    bytes.collect()
}

fn sent(content_type: &HeaderValue, pieces: VecDeque<Bytes>) -> Outcome {
    let request = Request::post("/")
        .header(CONTENT_TYPE, content_type)
        .body(Body::from_stream(Pieces(pieces)))
        .expect("a request");
    let tenant = "carper".parse().expect("is an id");
    let owner = Owner::new(tenant, "https://issuer".into(), "ana".into());
    match RUNTIME.block_on(Photo::<Plain>::receive(request, &owner, &INTAKE)) {
        Ok(photo) => {
            let inspected = images::inspect(&photo.imagen, INTAKE.images.rules());
            assert_eq!(inspected, Ok(photo.inspected));
            let digest = digest::digest(&digest::SHA256, &photo.imagen);
            assert!(photo.is_original && photo.sha256 == digest.as_ref());
            Outcome::Accepted(Accepted {
                imagen: photo.imagen,
                proceso: photo.texts.proceso,
                titulo: photo.texts.titulo,
            })
        }
        Err(problem) => {
            let (_, told) = problem.render("");
            Outcome::Refused(String::from_utf8(told).expect("is UTF-8"))
        }
    }
}

impl Accepted {
    fn check(&self, content_type: &HeaderValue, body: &Bytes) {
        assert!(self.imagen.len() <= MAX_IMAGE);
        let inspected = images::inspect(&self.imagen, INTAKE.images.rules()).expect("is an image");
        assert!(inspected.width * inspected.height <= MAX_PIXELS);
        for metadata in [Metadata::StripLocation, Metadata::StripAll] {
            let mut stripped = self.imagen.to_vec();
            let left = images::strip(&mut stripped, inspected.format, metadata);
            let left = left.expect("what is taken can be stripped");
            stripped.truncate(left.length);
            assert_eq!(left.changed, stripped != self.imagen);
            assert_eq!(
                images::inspect(&stripped, INTAKE.images.rules()),
                Ok(inspected),
                "what is stripped stays the same image"
            );
        }
        let texts = [&self.proceso, &self.titulo];
        let texts = texts.into_iter().flatten().map(|text| text.as_bytes());
        assert!(texts.clone().all(|text| text.len() <= MAX_TEXT));
        // Which of them counts is known by this: what was read is what one of them makes of the body.
        let boundaries = boundaries(content_type.as_bytes());
        let ways = boundaries
            .iter()
            .flat_map(|boundary| [(boundary, "\r\n"), (boundary, "\n")]);
        let wrong: Vec<_> = ways
            .map(|(boundary, line_end)| self.wrong(body, boundary, line_end.as_bytes()))
            .collect();
        assert!(wrong.contains(&None), "{wrong:?}");
    }

    /// What is wrong if that is the boundary, and lines end so.
    fn wrong(&self, body: &[u8], boundary: &[u8], line_end: &[u8]) -> Option<&'static str> {
        let delimiter = [line_end, b"--", boundary].concat();
        let texts = [&self.proceso, &self.titulo];
        let texts = texts.into_iter().flatten().map(|text| text.as_bytes());
        for part in texts.chain([&*self.imagen]) {
            if has_line(part, &delimiter, line_end) {
                return Some("a part goes on behind its end");
            }
            let framed = [line_end, line_end, part, &delimiter].concat();
            if find(body, &framed).is_none() {
                return Some("a part isn't what was sent");
            }
        }
        match find(body, &[&delimiter, &b"--"[..]].concat()) {
            None => Some("it has no end"),
            Some(end) if end > MAX_IMAGE + OVERHEAD => Some("it ends late"),
            Some(_) => None,
        }
    }
}

/// Whether a whole delimiter's line stands in it.
fn has_line(part: &[u8], delimiter: &[u8], line_end: &[u8]) -> bool {
    let places = part.windows(delimiter.len()).enumerate();
    let mut places = places.filter(|(_, it)| *it == delimiter);
    places.any(|(at, _)| {
        let behind = &part[at + delimiter.len()..];
        let is_padding = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let padding = behind.iter().take_while(is_padding).count();
        let ends = padding <= PADDING && behind[padding..].starts_with(line_end);
        ends || behind.starts_with(b"--")
    })
}

/// Everything that may be meant as a boundary.
fn boundaries(content_type: &[u8]) -> Vec<Vec<u8>> {
    let lower = content_type.to_ascii_lowercase();
    let mut boundaries = Vec::new();
    for at in 0..lower.len() {
        let Some(behind) = lower[at..].strip_prefix(b"boundary") else {
            continue;
        };
        let behind = &content_type[content_type.len() - behind.len()..];
        let Some(value) = behind.trim_ascii_start().strip_prefix(b"=") else {
            continue;
        };
        let value = value.trim_ascii_start();
        let quoted = value.strip_prefix(b"\"");
        let until = if quoted.is_some() { b'"' } else { b';' };
        let value = quoted.unwrap_or(value);
        let plain = value.split(|byte| *byte == until).next();
        let plain = plain.unwrap_or_default().to_vec();
        let plain = match quoted {
            Some(_) => plain.into_iter().filter(|byte| *byte != b'\\').collect(),
            None => plain.trim_ascii().to_vec(),
        };
        boundaries.push(plain);
    }
    boundaries
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|it| it == wanted)
}
