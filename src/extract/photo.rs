//! A photo as `multipart/form-data` (RFC 7578): its parts in any order, the image
//! known by its bytes.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
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

/// How much is fed to the parser while it looks for the next part. It searches all that it
/// holds each time that something arrives.
#[derive(Debug, Clone, Default)]
struct Fed(Arc<AtomicUsize>);

impl Fed {
    fn bound(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn unbound(&self) {
        self.bound(usize::MAX);
    }

    /// Whether so many more may be fed.
    fn take(&self, bytes: usize) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.0.store(left.saturating_sub(bytes), Ordering::Relaxed);
        }
        left >= bytes
    }
}

/// A body that is fed in portions, so that the parser looks at what it has before it asks for more.
struct Measured {
    body: BodyDataStream,
    fed: Fed,
    at_once: usize,
}

/// More than this lay between two parts.
#[derive(Debug, thiserror::Error)]
#[error("no part begins where one should")]
struct NoPart;

impl Stream for Measured {
    type Item = Result<Bytes, axum::BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.at_once >= PORTION {
            self.at_once = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_next(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.at_once += bytes.len();
                let fits = self.fed.take(bytes.len());
                Poll::Ready(Some(if fits { Ok(bytes) } else { Err(NoPart.into()) }))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|item| item.map_err(Into::into))),
            Poll::Pending => {
                self.at_once = 0;
                Poll::Pending
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

        let body = http_body_util::Limited::new(
            request.into_body(),
            usize::try_from(limit).unwrap_or(usize::MAX),
        );
        let fed = Fed::default();
        let stream = Measured {
            body: Body::new(body).into_data_stream(),
            fed: fed.clone(),
            at_once: 0,
        };
        let form = Multipart::new(stream, boundary);
        let parts = timeout(LONGEST_UPLOAD, read_parts(form, &fed, &rules))
            .await
            .map_err(|_| body::incomplete())??;
        parts.into_photo(&rules)
    }
}

async fn read_parts(mut form: Multipart<'_>, fed: &Fed, rules: &Rules) -> Result<Parts, Problem> {
    let mut parts = Parts::default();
    loop {
        fed.bound(MOST_BETWEEN_PARTS);
        let Some(field) = next(&mut form, rules).await? else {
            return Ok(parts);
        };
        fed.unbound();
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "imagen" => {
                let bytes = read_image(field, rules).await?;
                parts.keep("imagen", |parts| &mut parts.imagen, bytes)?;
            }
            "proceso" => {
                let text = read_text(field, "proceso").await?;
                parts.keep("proceso", |parts| &mut parts.proceso, text)?;
            }
            "titulo" => {
                let text = read_text(field, "titulo").await?;
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

async fn next<'a>(form: &mut Multipart<'a>, rules: &Rules) -> Result<Option<Field<'a>>, Problem> {
    timeout(body::IDLE_TIMEOUT, form.next_field())
        .await
        .map_err(|_| body::incomplete())?
        .map_err(|error| malformed(&error, rules))
}

async fn read_image(mut field: Field<'_>, rules: &Rules) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunk(&mut field, rules).await? {
        if (bytes.len() + chunk.len()) as u64 > rules.max_bytes {
            return Err(image_limit(rules).exceeded());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn read_text(mut field: Field<'_>, name: &str) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let limit = Limit {
        bytes: MAX_TEXT_BYTES,
        field: Some(name),
    };
    loop {
        let chunk = timeout(body::IDLE_TIMEOUT, field.chunk())
            .await
            .map_err(|_| body::incomplete())?
            .map_err(|_| body::incomplete())?;
        let Some(chunk) = chunk else { break };
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

async fn chunk(field: &mut Field<'_>, rules: &Rules) -> Result<Option<Bytes>, Problem> {
    timeout(body::IDLE_TIMEOUT, field.chunk())
        .await
        .map_err(|_| body::incomplete())?
        .map_err(|error| malformed(&error, rules))
}

fn image_limit(rules: &Rules) -> Limit<'static> {
    Limit {
        bytes: rules.max_bytes,
        field: Some("imagen"),
    }
}

fn malformed(error: &multer::Error, rules: &Rules) -> Problem {
    match error {
        multer::Error::StreamReadFailed(cause) if is_length_limit(&**cause) => {
            image_limit(rules).exceeded()
        }
        multer::Error::StreamReadFailed(cause) if is_no_part(&**cause) => Problem::new(
            Code::MalformedBody,
            "No part begins where one should: the `boundary` of `Content-Type` isn't the body's, or a part's head is too long. Let your HTTP client write both.",
        ),
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => body::incomplete(),
        _ => Problem::new(
            Code::MalformedBody,
            "The body isn't well-formed multipart/form-data. Let your HTTP client build it.",
        ),
    }
}

/// Whether a chain of errors begins with our own bound between parts.
fn is_no_part(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<NoPart>())
}

/// Whether a chain of errors begins with our own bound of the whole.
fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<http_body_util::LengthLimitError>())
}
