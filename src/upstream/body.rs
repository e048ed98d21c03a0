//! Bodies for the ERP. An image is held once, as bytes, and becomes base64 while
//! it streams out under an exact `Content-Length`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    image: Bytes,
    tail: &'static [u8],
    progress: Progress,
    trace: traces::Context,
    /// From the first byte that is asked for to the last.
    encoding: Option<Span>,
}

/// How far a body has been sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicBool>);

impl Progress {
    /// Whether the ERP may have all of it. JSON without its end is nothing that it could take.
    pub(super) fn may_be_whole(&self) -> bool {
        self.0.load(Ordering::Acquire)
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
            image,
            tail: b"\"}",
            progress: Progress::default(),
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
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let data = if !this.head.is_empty() {
            let mut encoding = this.trace.child("encode");
            let bytes = i64::try_from(this.image.len()).unwrap_or(i64::MAX);
            encoding.set("llavero.image.bytes", bytes);
            this.encoding = Some(encoding);
            std::mem::take(&mut this.head)
        } else if !this.image.is_empty() {
            let chunk = this.image.split_to(CHUNK_BYTES.min(this.image.len()));
            STANDARD.encode_to_string(&chunk).into()
        } else if !this.tail.is_empty() {
            this.progress.0.store(true, Ordering::Release);
            this.encoding = None;
            Bytes::from_static(std::mem::take(&mut this.tail))
        } else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.image.is_empty() && self.tail.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let encoded = STANDARD.encoded_length(self.image.len());
        SizeHint::with_exact((self.head.len() + encoded + self.tail.len()) as u64)
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
                let sent = body.collect().await.expect("infallible").to_bytes();
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
}
