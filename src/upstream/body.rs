//! Bodies for the ERP. An image is held once, as bytes, and becomes base64 while
//! it streams out under an exact `Content-Length`.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use base64_simd::STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::telemetry::traces::{self, Span};

/// How the ERP wants an image (`upstream.image_encoding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Plain base64 (RFC 4648 §4).
    Base64,
    /// `data:<media type>;base64,…` (RFC 2397).
    DataUri,
}

/// What a write sends.
#[derive(Debug)]
pub enum Payload {
    /// `PATCH` with a JSON object.
    Patch(serde_json::Map<String, serde_json::Value>),
    /// `POST` of an image.
    Image {
        /// Its title.
        titulo: String,
        /// The ERP's code for the step of the job.
        proceso: u8,
        /// Of the image.
        media_type: &'static str,
        /// The image.
        bytes: Bytes,
    },
}

/// Image bytes encoded at a time: a multiple of 3, so that no padding falls in the middle, and 8 KiB of base64. Small,
/// since HTTP asks for 16 chunks before it writes them, all in one go: those 128 KiB are held beside the image.
const CHUNK_BYTES: usize = 6 * 1024;

/// `{"titulo": …, "proceso": …, "imagen": "<base64>"}`, encoded as it is read.
pub(super) struct ImageBody {
    head: Bytes,
    progress: Progress,
    trace: traces::Context,
    /// From the first byte that is asked for to the last.
    encoding: Option<Span>,
}

const TAIL: &[u8] = b"\"}";

/// How far a body has been sent.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Rest>>);

#[derive(Debug)]
enum Rest {
    /// That much of the image, and the end.
    Image(Bytes),
    /// Nothing: the ERP may have all of it.
    Nothing,
    /// What is never sent.
    GivenUp,
}

/// Nobody wants it sent any more, which ends its connection.
#[derive(Debug, thiserror::Error)]
#[error("the body was given up")]
pub(super) struct GivenUp;

impl Progress {
    /// What isn't sent by now never is, and what is held for it is let go. Whether the ERP may have all of it: JSON without
    /// its end is nothing that it could take.
    pub(super) fn end(&self) -> bool {
        let mut rest = self.lock();
        let is_whole = matches!(*rest, Rest::Nothing);
        if !is_whole {
            *rest = Rest::GivenUp;
        }
        is_whole
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageBody {
    pub(super) fn new(
        titulo: &str,
        proceso: u8,
        media_type: &str,
        image: Bytes,
        encoding: Encoding,
    ) -> Self {
        let titulo = serde_json::Value::from(titulo);
        let prefix = match encoding {
            Encoding::Base64 => String::new(),
            Encoding::DataUri => format!("data:{media_type};base64,"),
        };
        let head = format!(r#"{{"titulo":{titulo},"proceso":{proceso},"imagen":"{prefix}"#);
        Self {
            head: head.into(),
            progress: Progress(Arc::new(Mutex::new(Rest::Image(image)))),
            trace: traces::Context::default(),
            encoding: None,
        }
    }

    /// Says where in a trace it is sent.
    pub(super) fn traced(mut self, trace: traces::Context) -> Self {
        self.trace = trace;
        self
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Body for ImageBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let this = &mut *self;
        let mut rest = this.progress.lock();
        let data = match &mut *rest {
            Rest::GivenUp => return Poll::Ready(Some(Err(GivenUp))),
            Rest::Nothing => return Poll::Ready(None),
            Rest::Image(image) if !this.head.is_empty() => {
                let mut encoding = this.trace.child("encode");
                let bytes = i64::try_from(image.len()).unwrap_or(i64::MAX);
                encoding.set("llavero.image.bytes", bytes);
                this.encoding = Some(encoding);
                std::mem::take(&mut this.head)
            }
            Rest::Image(image) if !image.is_empty() => {
                let chunk = image.split_to(CHUNK_BYTES.min(image.len()));
                drop(rest);
                STANDARD.encode_to_string(&chunk).into()
            }
            Rest::Image(_) => {
                *rest = Rest::Nothing;
                this.encoding = None;
                Bytes::from_static(TAIL)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(*self.progress.lock(), Rest::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &*self.progress.lock() {
            Rest::Image(image) => STANDARD.encoded_length(image.len()) + TAIL.len(),
            Rest::Nothing | Rest::GivenUp => 0,
        };
        SizeHint::with_exact((self.head.len() + rest) as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_length_is_exact_and_the_base64_is_whole() {
        for size in [
            0,
            1,
            2,
            3,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES + 2,
        ] {
            let image: Bytes = (0..size).map(|at| (at % 251) as u8).collect();
            for encoding in [Encoding::Base64, Encoding::DataUri] {
                let body = ImageBody::new(
                    "con \"comillas\"\n",
                    2,
                    "image/png",
                    image.clone(),
                    encoding,
                );
                let promised = body.size_hint().exact();
                let sent = body.collect().await.expect("a body").to_bytes();
                assert_eq!(promised, Some(sent.len() as u64));
                let json: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
                let text = json["imagen"].as_str().expect("a string");
                let text = match encoding {
                    Encoding::Base64 => text,
                    Encoding::DataUri => {
                        text.strip_prefix("data:image/png;base64,").expect("prefix")
                    }
                };
                assert_eq!(STANDARD.decode_to_vec(text).expect("base64"), image);
                assert_eq!(json["titulo"], "con \"comillas\"\n");
            }
        }
    }

    #[tokio::test]
    async fn what_was_given_up_never_gets_its_end_and_holds_nothing() {
        let held = Arc::new(());
        struct Image(
            Vec<u8>,
            #[expect(dead_code, reason = "counts who holds it")] Arc<()>,
        );
        impl AsRef<[u8]> for Image {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let image = Bytes::from_owner(Image(vec![7; 3 * CHUNK_BYTES], held.clone()));
        let mut body = ImageBody::new("t", 1, "image/png", image, Encoding::Base64);
        let progress = body.progress();
        for _ in 0..2 {
            let frame = body.frame().await.expect("a frame");
            assert!(frame.is_ok());
        }
        assert!(!progress.end());
        assert_eq!(Arc::strong_count(&held), 1, "whoever still has the body");
        assert!(!body.is_end_stream());
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
        assert!(!progress.end());
    }

    #[tokio::test]
    async fn what_was_sent_cant_be_given_up() {
        let image = Bytes::from_static(b"photo");
        let mut body = ImageBody::new("t", 1, "image/png", image, Encoding::Base64);
        let progress = body.progress();
        for _ in 0..3 {
            assert!(!body.is_end_stream());
            let frame = body.frame().await.expect("a frame");
            assert!(frame.is_ok());
        }
        assert!(progress.end() && body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}
