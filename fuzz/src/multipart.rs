//! Uploads: any `Content-Type` and any body, in chunks of any size that come at any time.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{FromRequest as _, Request},
};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, header::CONTENT_TYPE};
use llavero::{
    extract::Photo,
    images::{self, Format, Rules},
};
use tokio::runtime::Runtime;

const MAX_IMAGE: usize = 2048;
const MAX_TEXT: usize = 4096;
const MAX_PIXELS: u64 = 10_000;
/// `Body` is fed in portions of this many bytes, and heads of parts end within four of them.
const PORTION: usize = 64 * 1024;

/// Stands for as many KiB of filling as the byte behind it says, so that a short input can be long.
const FILLING: &[u8] = b"%%F";
const MOST_FILLINGS: usize = 4;

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    Arc::new(Rules {
        max_bytes: MAX_IMAGE as u64,
        max_pixels: MAX_PIXELS,
        formats: vec![Format::Jpeg, Format::Png],
    })
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
        let same = match (&outcome, &whole) {
            // Where several things are wrong, which of them is noticed first may differ.
            (Outcome::Refused(_), Outcome::Refused(_)) => true,
            (one, other) => one == other,
        };
        assert!(
            same,
            "the pieces in which a body arrives decide: {outcome:?}, {whole:?}"
        );
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
            // A head may be a little longer in one way of arriving than in another, from 192 KiB on.
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
    match RUNTIME.block_on(Photo::from_request(request, &*RULES)) {
        Ok(photo) => {
            assert_eq!(images::inspect(&photo.imagen, &RULES), Ok(photo.inspected));
            Outcome::Accepted(Accepted {
                imagen: photo.imagen,
                proceso: photo.proceso,
                titulo: photo.titulo,
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
        let content_type = content_type.to_str().expect("it was read");
        let boundary = multer::parse_boundary(content_type).expect("it was read");
        assert!(self.imagen.len() <= MAX_IMAGE);
        let inspected = images::inspect(&self.imagen, &RULES).expect("is an image");
        assert!(inspected.width * inspected.height <= MAX_PIXELS);
        let texts = [&self.proceso, &self.titulo];
        let texts = texts.into_iter().flatten().map(|text| text.as_bytes());
        assert!(texts.clone().all(|text| text.len() <= MAX_TEXT));
        let delimiter = format!("\r\n--{boundary}");
        for part in texts.chain([&*self.imagen]) {
            assert_eq!(
                find(part, delimiter.as_bytes()),
                None,
                "a part ends at its end"
            );
            let framed = [b"\r\n\r\n", part, delimiter.as_bytes()].concat();
            assert!(find(body, &framed).is_some(), "a part is what was sent");
        }
        let ends_within = MAX_IMAGE + PORTION;
        let end = format!("{delimiter}--");
        let end = find(body, end.as_bytes()).expect("it ends");
        assert!(end <= ends_within);
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|it| it == wanted)
}
