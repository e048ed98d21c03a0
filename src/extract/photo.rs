//! A photo as `multipart/form-data` (RFC 7578): its parts in any order, the image
//! known by its bytes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::BodyDataStream,
    extract::{FromRef, FromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use tokio::time::timeout;

use crate::{
    images::{self, Inspected, Rules},
    problem::{Code, FieldError, Problem},
};

use super::body::{self, Limit};

/// Room for boundaries, part headers and the small parts beside the image.
const MULTIPART_OVERHEAD: u64 = 64 * 1024;
/// What the parser is given before it must look at it.
const PORTION: usize = 64 * 1024;
/// While it looks for the first part, the parser asks twice for each time that it looks.
const LOOKS: u8 = 2;
/// The most that is read before a part begins: its head, what stands before the first, and
/// what has arrived with it.
const MOST_BETWEEN_PARTS: usize = 4 * PORTION;
/// Twelve MiB at 14 KiB/s, which is slower than any network that technicians put up with.
const LONGEST_UPLOAD: Duration = Duration::from_secs(15 * 60);
/// The largest of the small parts.
const MAX_TEXT_BYTES: u64 = 4 * 1024;

/// The parts of an upload. What the texts may be is the resource's business.
#[derive(Debug)]
pub struct Photo {
    /// The image's bytes.
    pub imagen: Bytes,
    /// What they are.
    pub inspected: Inspected,
    /// The part `proceso`.
    pub proceso: Option<String>,
    /// The part `titulo`.
    pub titulo: Option<String>,
}

/// How much of a body the parser may still be fed. Where that ends, the body ends for it.
#[derive(Debug, Clone)]
struct Ration(Arc<Mutex<Left>>);

#[derive(Debug)]
struct Left {
    of_whole: usize,
    /// While it looks for the next part: it searches all that it holds each time that something
    /// arrives.
    between_parts: Option<usize>,
    exceeded: Option<Bound>,
}

/// What a body may not have more of.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Whole,
    BetweenParts,
}

impl Ration {
    fn new(whole: u64) -> Self {
        Self(Arc::new(Mutex::new(Left {
            of_whole: usize::try_from(whole).unwrap_or(usize::MAX),
            between_parts: None,
            exceeded: None,
        })))
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_for_a_part(&self) {
        self.left().between_parts = Some(MOST_BETWEEN_PARTS);
    }

    fn read_a_part(&self) {
        self.left().between_parts = None;
    }

    /// How many of so many more bytes may be fed.
    fn take(&self, bytes: usize) -> usize {
        let mut left = self.left();
        let between_parts = left.between_parts.unwrap_or(usize::MAX);
        let taken = bytes.min(left.of_whole).min(between_parts);
        left.of_whole -= taken;
        left.between_parts = left.between_parts.map(|left| left - taken);
        taken
    }

    /// Notes that there is more.
    fn exceed(&self) {
        let mut left = self.left();
        left.exceeded = Some(match left.of_whole {
            0 => Bound::Whole,
            _ => Bound::BetweenParts,
        });
    }

    fn exceeded(&self) -> Option<Bound> {
        self.left().exceeded
    }
}

/// A body that is fed in portions, so that the parser looks at what it has before it asks for
/// more. Its end comes when all was looked at; a failure is an end, since the parser would drop
/// what it has for it. So what is made of a body doesn't depend on how it arrives.
struct Measured {
    body: BodyDataStream,
    ration: Ration,
    arrived: Arrived,
    /// Fed without a pause.
    at_once: usize,
    /// The pauses until the parser has surely looked at what was fed.
    unseen: u8,
}

enum Arrived {
    Bytes(Bytes),
    End,
}

impl Measured {
    fn pause(&mut self) -> Poll<Option<<Self as Stream>::Item>> {
        self.at_once = 0;
        self.unseen = self.unseen.saturating_sub(1);
        Poll::Pending
    }

    /// Lets the parser look at what it has.
    fn look_first(&mut self, context: &Context<'_>) -> Poll<Option<<Self as Stream>::Item>> {
        context.waker().wake_by_ref();
        self.pause()
    }
}

impl Stream for Measured {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            match &mut this.arrived {
                Arrived::Bytes(bytes) if bytes.is_empty() => {
                    this.arrived = match Pin::new(&mut this.body).poll_next(context) {
                        Poll::Ready(Some(Ok(bytes))) => Arrived::Bytes(bytes),
                        Poll::Ready(None | Some(Err(_))) => Arrived::End,
                        Poll::Pending => return this.pause(),
                    };
                }
                Arrived::Bytes(bytes) if this.at_once < PORTION => {
                    let portion = bytes.len().min(PORTION - this.at_once);
                    match this.ration.take(portion) {
                        // It may find a part in what it has, and then have more.
                        0 if this.unseen > 0 => return this.look_first(context),
                        0 => {
                            this.ration.exceed();
                            this.arrived = Arrived::End;
                        }
                        taken => {
                            this.at_once += taken;
                            this.unseen = LOOKS;
                            return Poll::Ready(Some(Ok(bytes.split_to(taken))));
                        }
                    }
                }
                Arrived::End if this.unseen == 0 => return Poll::Ready(None),
                Arrived::Bytes(_) | Arrived::End => return this.look_first(context),
            }
        }
    }
}

#[derive(Default)]
struct Parts {
    imagen: Option<Bytes>,
    proceso: Option<String>,
    titulo: Option<String>,
    errors: Vec<FieldError>,
}

impl<S> FromRequest<S> for Photo
where
    S: Send + Sync,
    Arc<Rules>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let rules = Arc::<Rules>::from_ref(state);
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|it| it.to_str().ok());
        let is_form = content_type
            .and_then(|it| it.parse::<mime::Mime>().ok())
            .is_some_and(|it| it.essence_str() == "multipart/form-data");
        if !is_form {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "This operation takes `Content-Type: multipart/form-data` with the parts `imagen` and `proceso`, and optionally `titulo`.",
            ));
        }
        let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(|_| {
            Problem::new(
                Code::MalformedBody,
                "The `Content-Type` has no usable `boundary`. Let your HTTP client write that header itself.",
            )
        })?;
        let limit = rules.max_bytes.saturating_add(MULTIPART_OVERHEAD);
        if body::promised(request.headers()).is_some_and(|length| length > limit) {
            return Err(image_limit(&rules).exceeded());
        }

        let ration = Ration::new(limit);
        let stream = Measured {
            body: request.into_body().into_data_stream(),
            ration: ration.clone(),
            arrived: Arrived::Bytes(Bytes::new()),
            at_once: 0,
            unseen: 0,
        };
        let form = Multipart::new(stream, boundary);
        let bounds = Bounds {
            rules: &rules,
            ration,
        };
        let parts = timeout(LONGEST_UPLOAD, read_parts(form, &bounds))
            .await
            .map_err(|_| body::incomplete())??;
        parts.into_photo(&rules)
    }
}

/// What an upload is held to.
struct Bounds<'a> {
    rules: &'a Rules,
    ration: Ration,
}

async fn read_parts(mut form: Multipart<'_>, bounds: &Bounds<'_>) -> Result<Parts, Problem> {
    let mut parts = Parts::default();
    loop {
        bounds.ration.look_for_a_part();
        let Some(field) = bounds.next(&mut form).await? else {
            return Ok(parts);
        };
        bounds.ration.read_a_part();
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "imagen" => {
                let bytes = bounds.read_image(field).await?;
                parts.keep("imagen", |parts| &mut parts.imagen, bytes)?;
            }
            "proceso" => {
                let text = bounds.read_text(field, "proceso").await?;
                parts.keep("proceso", |parts| &mut parts.proceso, text)?;
            }
            "titulo" => {
                let text = bounds.read_text(field, "titulo").await?;
                parts.keep("titulo", |parts| &mut parts.titulo, text)?;
            }
            _ => {
                let shown: String = name
                    .chars()
                    .filter(|it| !it.is_control())
                    .take(40)
                    .collect();
                // One is enough to refuse; a sender of thousands isn't worth reading on.
                let unknown = FieldError::body(
                    &shown,
                    "There is no such part; there are `imagen`, `proceso` and `titulo`.",
                );
                return Err(Problem::of(Code::ValidationFailed).with_errors(vec![unknown]));
            }
        }
    }
}

impl Parts {
    fn keep<T>(
        &mut self,
        name: &str,
        slot: impl FnOnce(&mut Self) -> &mut Option<T>,
        value: T,
    ) -> Result<(), Problem> {
        if slot(self).replace(value).is_none() {
            return Ok(());
        }
        let twice = FieldError::body(name, "The part was sent more than once; send it once.");
        Err(Problem::of(Code::ValidationFailed).with_errors(vec![twice]))
    }

    fn into_photo(mut self, rules: &Rules) -> Result<Photo, Problem> {
        if self.imagen.is_none() {
            self.errors
                .push(FieldError::body("imagen", "The photo's file is missing."));
        }
        if self.proceso.is_none() {
            self.errors.push(FieldError::body(
                "proceso",
                "Say `antes`, `durante` or `despues`.",
            ));
        }
        match self.imagen {
            Some(imagen) if self.errors.is_empty() => {
                let inspected = images::inspect(&imagen, rules)
                    .map_err(|unusable| Problem::of_image(unusable, rules))?;
                Ok(Photo {
                    imagen,
                    inspected,
                    proceso: self.proceso,
                    titulo: self.titulo,
                })
            }
            _ => Err(Problem::of(Code::ValidationFailed).with_errors(self.errors)),
        }
    }
}

impl Bounds<'_> {
    async fn next<'a>(&self, form: &mut Multipart<'a>) -> Result<Option<Field<'a>>, Problem> {
        timeout(body::IDLE_TIMEOUT, form.next_field())
            .await
            .map_err(|_| body::incomplete())?
            .map_err(|error| self.malformed(&error))
    }

    async fn read_image(&self, mut field: Field<'_>) -> Result<Bytes, Problem> {
        let limit = image_limit(self.rules);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut field).await? {
            if (bytes.len() + chunk.len()) as u64 > limit.bytes {
                return Err(limit.exceeded());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    async fn read_text(&self, mut field: Field<'_>, name: &str) -> Result<String, Problem> {
        let limit = Limit {
            bytes: MAX_TEXT_BYTES,
            field: Some(name),
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut field).await? {
            if (bytes.len() + chunk.len()) as u64 > limit.bytes {
                return Err(limit.exceeded());
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| {
            Problem::of(Code::ValidationFailed)
                .with_errors(vec![FieldError::body(name, "The part isn't UTF-8 text.")])
        })
    }

    async fn chunk(&self, field: &mut Field<'_>) -> Result<Option<Bytes>, Problem> {
        timeout(body::IDLE_TIMEOUT, field.chunk())
            .await
            .map_err(|_| body::incomplete())?
            .map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, error: &multer::Error) -> Problem {
        let has_ended = matches!(
            error,
            multer::Error::IncompleteStream
                | multer::Error::IncompleteFieldData { .. }
                | multer::Error::IncompleteHeaders
        );
        match self.ration.exceeded() {
            Some(Bound::Whole) if has_ended => image_limit(self.rules).exceeded(),
            Some(Bound::BetweenParts) if has_ended => Problem::new(
                Code::MalformedBody,
                "No part begins where one should: the `boundary` of `Content-Type` isn't the body's, or a part's head is too long. Let your HTTP client write both.",
            ),
            None if has_ended => body::incomplete(),
            _ => Problem::new(
                Code::MalformedBody,
                "The body isn't well-formed multipart/form-data. Let your HTTP client build it.",
            ),
        }
    }
}

fn image_limit(rules: &Rules) -> Limit<'static> {
    Limit {
        bytes: rules.max_bytes,
        field: Some("imagen"),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures_util::stream;

    use crate::images::Format;

    use super::*;

    /// One pixel.
    const JPEG: &[u8] = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0\x37\xff\xd9";

    /// A form with so much before its first part, so much in the image behind its end, and so much
    /// behind its last part.
    fn form(before: usize, appended: usize, behind: usize) -> Bytes {
        let texts = [
            "x".repeat(before),
            "\r\n--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
             Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n"
                .to_owned(),
            "x".repeat(appended),
            format!("\r\n--b--\r\n{}", "x".repeat(behind)),
        ];
        let [before, head, appended, behind] = texts.map(String::into_bytes);
        [before, head, JPEG.to_vec(), appended, behind]
            .concat()
            .into()
    }

    /// The image of a body that arrives in pieces of that size.
    async fn image(mut body: Bytes, size: usize) -> Option<Bytes> {
        let mut pieces = Vec::new();
        while !body.is_empty() {
            let piece = body.split_to(size.min(body.len()));
            pieces.push(Ok::<_, Infallible>(piece));
        }
        let request = Request::post("/")
            .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
            .body(Body::from_stream(stream::iter(pieces)))
            .expect("a request");
        let rules = Arc::new(Rules {
            max_bytes: 512 * 1024,
            max_pixels: 1,
            formats: vec![Format::Jpeg],
        });
        let photo = Photo::from_request(request, &rules).await;
        photo.ok().map(|photo| photo.imagen)
    }

    #[tokio::test]
    async fn how_a_body_arrives_does_not_decide_what_becomes_of_it() {
        const KIB: usize = 1024;
        for (before, appended, behind, is_good) in [
            (0, 0, 0, true),
            // The first part begins in the second portion, and that is the last.
            (65 * KIB, 0, 0, true),
            // Over the limit, behind the form's end.
            (0, 0, 600 * KIB, true),
            (65 * KIB, 200 * KIB, 600 * KIB, true),
            // The first part just begins where one should, and goes on.
            (255 * KIB, 100 * KIB, 0, true),
            (256 * KIB, 0, 0, false),
            // Over the limit before its end.
            (200 * KIB, 400 * KIB, 0, false),
        ] {
            for size in [512, 60 * KIB, 64 * KIB, 70 * KIB, 1000 * KIB] {
                let image = image(form(before, appended, behind), size).await;
                let length = image.map(|image| image.len());
                let expected = is_good.then_some(JPEG.len() + appended);
                assert_eq!(length, expected, "{before}, {appended}, {behind} in {size}");
            }
        }
    }
}
